"""What several clips bring: every way to draw them is a setting of its own; the table tells the gain."""

import numpy as np
import pytest

from experiments import evidence, grid, protocol, report_tables, views
from experiments.choose import TASK


def test_every_variant_is_a_setting_of_its_own_and_keeps_each_clip():
    found = [
        grid.load(protocol.CONFIG, protocol.common() | dict(cell.overrides))
        for cell in views.cells(list(views.VARIANTS), 22)
    ]
    assert all(one != two for i, one in enumerate(found) for two in found[:i])
    assert all(config.agreement.remember_clips for config in found)


def test_the_data_set_is_that_of_the_choice_unless_it_is_reported():
    for cell in views.cells(list(views.VARIANTS), 22):
        assert (cell.noise.kind, cell.build["seed"]) in protocol.CHOOSE
        assert cell.seed not in protocol.REPORT
    reported = views.cells(["default", "windows"], 11, report=True)
    assert [cell.build["seed"] for cell in reported[::2]] == list(protocol.REPORT)
    assert len({cell.name for cell in reported}) == 10


def test_the_gain_is_that_of_the_same_score_in_the_same_memory():
    first = evidence.FIRST_CLIPS.format(1)
    flipped = ["odds, memory", f"odds, {first}", "odds, K clips", "odds, one clip"]
    hard = ["1 - agreement, memory", f"1 - max softmax, {first}"]
    detection = {
        TASK: {"scores": flipped, "auroc": [0.9, 0.86, 0.8, 0.85], "covariance": np.eye(4) * 1e-6},
        report_tables.HARD_TASK: {
            "scores": hard, "auroc": [0.7, 0.6], "covariance": np.eye(2) * 1e-6,
        },
    }  # fmt: skip
    result = {"results": {"war": 0.75}, "evidence": {"detection": detection}}
    rows = views.summary({"default": [result], "own_augmentation": [result] * 2})
    gains = [rows[0][column]["minus_one"]["mean"] for column in views.COLUMNS]
    assert gains == pytest.approx([0.04, -0.05, 0.1])
    assert "| own augmentation | 75.0 | 90.0; +4.0 (" in views.table(rows)
    views.picture(rows)
