"""Detection over seeds: read from the cells of a grid, compared within each seed."""

import json

import numpy as np
import pytest
from markdown_tables import cells, numbers
from planted import planted, save
from sklearn.metrics import roc_auc_score

from experiments import detection
from experiments.predictions import SavedError


def make_cell(grid, method, seed, rate=0.3, sharp=0.3):
    name = f"{method}-confusion-{rate:g}-s{seed}"
    arrays = planted(np.random.default_rng(seed), count=90, sharp=sharp)
    noise = np.random.default_rng(seed + 100).normal(size=arrays["clip_logits"].shape)
    arrays["clip_logits"] = (arrays["clip_logits"] + noise).astype(np.float32)
    arrays["logits"] = arrays["clip_logits"].mean(axis=1)
    save(grid / "cells" / name / "run" / "predictions_train.npz", arrays)
    told = {"kind": "confusion" if rate else "none", "rate": rate, "seed": seed}
    text = json.dumps({"name": name, "seed": seed, "noise": told})
    (grid / "cells" / name / "result.json").write_text(text)
    return arrays


def test_scores_are_compared_with_the_loss_of_the_same_seed(tmp_path):
    made = {seed: make_cell(tmp_path, "gce", seed) for seed in (0, 1, 2)}
    make_cell(tmp_path, "elr", 0)
    make_cell(tmp_path, "clean", 0, rate=0)
    found = detection.read(tmp_path, ["gce"])
    assert set(found) == {("gce", "confusion", 0.3)}
    assert set(detection.read(tmp_path, None)) == {
        ("gce", "confusion", 0.3),
        ("elr", "confusion", 0.3),
    }
    rows = detection.summary(found["gce", "confusion", 0.3])
    own, loss = [], []
    for arrays in made.values():
        among = arrays["is_flipped"] | arrays["is_hard"]
        probs = np.exp(arrays["clip_logits"].astype(float))
        probs /= probs.sum(-1, keepdims=True)
        at_label = probs[np.arange(90), :, arrays["label"]]
        own.append(roc_auc_score(arrays["is_flipped"][among], 1 - at_label.max(axis=1)[among]))
        video = np.exp(arrays["logits"].astype(float))
        video = (video / video.sum(-1, keepdims=True))[np.arange(90), arrays["label"]]
        loss.append(roc_auc_score(arrays["is_flipped"][among], -video[among]))
    (row,) = (
        row
        for row in rows
        if row["score"] == "no clip supports the label"
        and row["task"] == "flipped, among flipped or hard"
    )
    assert row["auroc"]["mean"] == pytest.approx(np.mean(own))
    assert row["minus_loss"]["mean"] == pytest.approx(np.mean(np.subtract(own, loss)))
    assert row["minus_loss"]["low"] < row["minus_loss"]["mean"] < row["minus_loss"]["high"]
    for task in {row["task"] for row in rows}:
        means = [row["auroc"]["mean"] for row in rows if row["task"] == task]
        assert means == sorted(means, reverse=True)
    blocks = detection.table(rows).split("\n\n")
    (block,) = (b for b in blocks if cells(b.splitlines()[0])[0] == row["task"])
    by_score = {cells(line)[0]: cells(line)[1:] for line in block.splitlines()}
    assert numbers(by_score[detection.LOSS][0])[0] == pytest.approx(100 * np.mean(loss), abs=0.05)
    assert by_score[detection.LOSS][1] == "-"
    shown = numbers(by_score[row["score"]][0])[0], numbers(by_score[row["score"]][1])[0]
    assert shown == pytest.approx(
        (100 * np.mean(own), 100 * np.mean(np.subtract(own, loss))), abs=0.05
    )


def test_a_grid_without_such_cells_is_named(tmp_path):
    make_cell(tmp_path, "clean", 0, rate=0)
    with pytest.raises(SavedError, match="no finished cell of any method with wrong labels"):
        detection.read(tmp_path, None)
    with pytest.raises(SavedError, match="no finished cell of gce"):
        detection.read(tmp_path, ["gce"])
