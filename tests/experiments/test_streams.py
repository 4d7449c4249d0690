"""The comparison of the two streams: its variants are real settings, and its accuracy is within pairs."""

import numpy as np
import pytest

from data.synthetic_faces.movement import MOVEMENTS
from experiments import grid, streams

CONFIG = "configs/synthetic_movement.py"


def test_every_variant_is_a_setting_of_its_own():
    base = streams.SIZES["small"] | {"build": {}}
    found = [grid.load(CONFIG, base | changes) for changes in streams.VARIANTS.values()]
    assert all(one != two for i, one in enumerate(found) for two in found[:i])
    assert found[0].data.snippet > 1 and not found[0].model.shift


def test_cells_have_names_of_their_own_and_both_data_sets():
    cells = streams.cells(list(streams.VARIANTS), list(streams.DATA), [0, 1])
    assert len({cell.name for cell in cells}) == len(cells) == 4 * len(streams.VARIANTS)
    assert [cell.build for cell in cells[:2]] == [{}, {"movement_pairs": False}]
    assert not any("," in cell.name or " " in cell.name for cell in cells)


def result(confusion, seed=0):
    recalls = dict.fromkeys(MOVEMENTS, 0.5)
    found = {"confusion_matrix": confusion, "recall_per_class": recalls, "war": 0.5}
    return {"seed": seed, "results": found | streams.within_pairs(found)}


def test_the_accuracy_of_a_kind_counts_the_clips_whose_pair_was_found():
    confusion = np.zeros((8, 8), int)
    confusion[0, [0, 1, 4]] = 30, 10, 60  # onset: 30 + 20 + 5 + 0 right of 40 + 20 + 10 + 10
    confusion[1, [1, 7]] = 20, 80
    confusion[2, [2, 3]] = 5, 5
    confusion[3, [2, 0]] = 10, 90
    confusion[4, 4] = confusion[5, 5] = 7  # order
    confusion[6, 0] = 9  # duration: no clip's pair was found
    found = streams.within_pairs(result(confusion.tolist())["results"])
    assert found == {"onset": 55 / 80, "order": 1.0, "duration": 0.5}
    without = {k: v for k, v in result(confusion)["results"].items() if isinstance(v, float)}
    assert streams.within_pairs(without) == found  # from a report, which has no matrix
    assert streams.within_pairs({"recall_per_class": {"happy": 1.0}, "war": 1.0}) == {}


def test_the_tables_show_paired_differences_by_data_set():
    names, results = [], []
    for seed in (0, 1):
        for variant, right in (("both", 9 + seed), ("long-term alone", 6 + seed)):
            wrong = 12 - right
            block = np.kron(np.eye(4, dtype=int), [[right, wrong], [wrong, right]])
            results.append(result(block.tolist(), seed))
            names.append(("movement", variant))
        results.append({"seed": seed, "results": {"war": 0.9}})
        names.append(("expressions", "both"))
    rows = streams.summary(results, names)
    (row,) = [row for row in rows if row["variant"] == "long-term alone"]
    assert row["onset"]["mean"] == pytest.approx(6.5 / 12)
    assert row["onset_difference"]["mean"] == pytest.approx(-3 / 12)
    first, second = streams.table(rows).split("expressions; 2 seeds")
    assert "onset" in first and "-25.0" in first and "onset" not in second
    streams.picture(rows)
