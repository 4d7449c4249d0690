"""The simulation is what it says, the figures are those of other libraries, the tables hold every group."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from experiments import audit_grid, simulated
from experiments.simulated import simulate
from rdfer_jax.labels.noise_matrix import noise_matrix


@pytest.mark.parametrize("noise", simulated.NOISES)
def test_noise_has_its_rate_and_its_kind(noise):
    data = simulate(20_000, noise, 0.3, seed=0)
    wrong = data.is_wrong
    assert wrong.mean() == pytest.approx(0.3, abs=0.015)
    weak = data.strength < np.median(data.strength)
    ratio = wrong[weak].mean() / wrong[~weak].mean()
    assert ratio > 1.5 if noise in ("instance", "mixed") else abs(ratio - 1) < 0.1
    even = (
        np.bincount(data.label[wrong & (data.true == 4)], minlength=7)
        / (wrong & (data.true == 4)).sum()
    )
    assert even[6] == pytest.approx(
        {"confusion": 0.6, "symmetric": 1 / 6}.get(noise, even[6]), abs=0.05
    )
    assert not simulate(500, noise, 0.0, seed=0).is_wrong.any()


def test_noise_by_a_rule_is_what_the_network_expects():
    """Where the network is sure of a wrong class, the label is by the rule, and the right ones are few."""
    data = simulate(20_000, simulated.RULE, 0.3, "given", seed=0)
    assert data.is_wrong.mean() == pytest.approx(0.29, abs=0.015)
    by_rule = data.label == (data.true + 1) % 7
    assert by_rule[data.is_wrong].mean() == pytest.approx(0.825, abs=0.02)
    clip, one_hot = data.probs[:, 0], np.eye(7)[data.label]
    near = (clip > 0.7) & (clip < 0.8)
    assert one_hot[near].mean() == pytest.approx(clip[near].mean(), abs=0.025)


def test_networks_are_calibrated_to_what_they_say():
    """Of the videos with a probability near p for a class, a share p has it: the true or the given one."""
    for network, labels in (("truth", "true"), ("given", "label")):
        data = simulate(20_000, "confusion", 0.3, network, seed=1)
        one_hot = np.eye(7)[getattr(data, labels)]
        clip = data.probs[:, 0]
        for low in (0.1, 0.3, 0.5, 0.6):
            near = (clip >= low) & (clip < low + 0.1)
            assert one_hot[near].mean() == pytest.approx(clip[near].mean(), abs=0.025)
        if network == "truth":
            over, under = (simulate(20_000, "confusion", 0.3, n, seed=1).probs[:, 0] for n in
                           ("overconfident", "underconfident"))  # fmt: skip
            assert under.max(axis=1).mean() < clip.max(axis=1).mean() < over.max(axis=1).mean()
    with pytest.raises(ValueError, match=r"network in truth, given.*'odd'"):
        simulate(10, network="odd")


def test_clips_of_weak_expressions_disagree():
    data = simulate(5000, seed=2)
    spread = data.probs.std(axis=1).mean(axis=1)
    weak = data.strength < np.quantile(data.strength, 0.3)
    assert spread[weak].mean() > 1.2 * spread[~weak].mean()


def test_figures_are_those_of_scikit_learn_and_cleanlab():
    count = pytest.importorskip("cleanlab.count")
    data = simulate(700, "confusion", 0.3, seed=3)
    score = np.random.default_rng(0).random(700) + 0.3 * data.is_wrong
    assert audit_grid.average_precision(score, data.is_wrong) == pytest.approx(
        sklearn_metrics.average_precision_score(data.is_wrong, score)
    )
    assert audit_grid.f1(score > 0.7, data.is_wrong) == pytest.approx(
        sklearn_metrics.f1_score(data.is_wrong, score > 0.7)
    )
    mean = data.probs.mean(axis=1)
    joint = count.estimate_joint(data.label, mean)
    np.testing.assert_allclose(noise_matrix(data.label, mean).joint, joint, atol=0.02)


def test_tables_hold_every_group():
    pytest.importorskip("cleanlab")
    chosen = audit_grid.cells([200], ["confusion", "instance"], [0.3], ["truth", "given"])
    assert len(chosen) == 2 + 4
    rows = [(cell, audit_grid.summary(audit_grid.measure(cell, [0, 1]))) for cell in chosen]
    text = audit_grid.overview(rows)
    for name in ("confusion, given (1)", "instance, truth (1)", "200 videos (4)", "all (4)"):
        assert f"| {name} |" in text
    row = rows[2][1]
    best = max(row[name] for name in row if name.startswith("cleanlab ap "))
    assert row["cleanlab ap"] == best
    difference = row["audit ap minus cleanlab"]
    assert difference["mean"] == pytest.approx(row["audit ap"] - best)
    assert difference["low"] < difference["mean"] < difference["high"]
    assert "| truth | 200 | 0.00% |" in text
    json.dumps([row for _, row in rows[2:]], allow_nan=False)


@pytest.mark.e2e
def test_the_command_measures_a_small_grid(tmp_path):
    pytest.importorskip("cleanlab")
    words = ["--sizes=100", "--seeds=0,1", "--noises=symmetric", "--rates=0.4", "--networks=truth"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.audit_grid", *words, f"--output={tmp_path / 'out'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "results.md").read_text() == done.stdout
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [cell["rate"] for cell in saved["cells"]] == [0, 0.4] and saved["seeds"] == [0, 1]
