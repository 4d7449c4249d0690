"""Real label noise: which cells are trained on which labels, and the tables, against plain formulas.

No cell trains here: a function writes its result. The data set is built from generated files.
"""

import functools
import json

import numpy as np
import pytest
import raw_trees
from etils import epath
from fake_cells import cell_result
from ferplus_files import make_rows, write
from scipy import stats
from sklearn import metrics

from data.ferplus import ferplus_dataset_builder as ferplus
from experiments import (
    audit_grid,
    audit_runs,
    choose,
    evidence,
    grid,
    protocol,
    real_faces,
    report,
    report_tables,
    reviews,
    statistics,
)
from experiments.protocol import METHODS
from rdfer_jax import find_label_issues
from rdfer_jax.training.predictions import Predictions

CONFIG = "configs/ferplus.py"
NAMES = ("cross_entropy", "elr", "agreement")


@pytest.fixture
def choice(tmp_path):
    """A choice of three methods: their second try."""
    chosen = {
        name: {"try": 1, "settings": METHODS[name].tried()[1], "mean_war": war}
        for name, war in zip(NAMES, (0.5, 0.6, 0.7), strict=True)
    }
    path = tmp_path / "choice.json"
    path.write_text(json.dumps(choose.make_choice({"22": chosen}, {}, CONFIG, [])))
    return path


@pytest.fixture
def command(tmp_path, choice, monkeypatch):
    """Runs the command on a built data set; returns its folder and the settings of its cells."""
    rows = make_rows(per_usage=60)
    source = write(tmp_path / "raw", rows)
    builder = raw_trees.build(ferplus, tmp_path, source_dir=str(source))
    truth = {r["clip_id"].decode(): r for r in builder.as_data_source(split="train")}
    settings = {}

    def run(cells, output, *, config, overrides, jobs, finished):
        for cell in cells:
            folder = output / "cells" / cell.name
            (folder / "run").mkdir(parents=True)
            settings[cell.name] = grid.load(config, {**overrides, **cell.overrides})
            result = fake(cell, output, config, overrides)
            (folder / "result.json").write_text(json.dumps(result))
            rng = np.random.default_rng(cell.seed)
            logits = rng.normal(size=(len(truth), 3, 7))
            arrays = {
                "clip_id": np.array(list(truth)),
                "logits": logits.mean(1),
                "clip_logits": logits,
                "label": np.array([r["label"] for r in truth.values()]),
                "true_label": np.array([r["true_label"] for r in truth.values()]),
                "memory_agreement": rng.random(len(truth)),
            }
            classes = tuple(builder.info.features["label"].names)
            Predictions("train", classes, arrays).save(folder / "run" / "predictions_train.npz")
            tested = result["evidence"]["test"]
            label, best = (evidence.numbers(tested[name]) for name in ("label", "prediction"))
            logits = rng.normal(size=(len(label), 7))
            logits[np.arange(len(label)), best] = logits.max(axis=1) + 0.1
            arrays = {
                "clip_id": np.arange(len(label)).astype(str),
                "logits": logits,
                "label": label,
            }
            Predictions("test", classes, arrays).save(folder / "run" / "predictions.npz")

    def fake(cell, output, config, overrides):
        result = cell_result(cell, output, config, overrides)
        tables = result["evidence"]["detection"]
        names = ["odds, K clips", "odds, one clip", "loss, one clip", "loss, video"]
        assert tables[choose.TASK]["scores"] == names
        tables[report_tables.HARD_TASK] = {
            "scores": ["1 - max softmax, K clips", "1 - max softmax, one clip",
                       "1 - max softmax, video", "1 - agreement, K clips"],
            "auroc": [0.7, 0.6, 0.65, 0.75], "covariance": (1e-4 * np.eye(4)).tolist(),
        }  # fmt: skip
        return result

    monkeypatch.setattr(grid, "run", run)
    monkeypatch.setattr(real_faces, "RANK_DRAWS", 300)
    monkeypatch.setattr(reviews, "FOLLOWED", 3)
    few = functools.partial(statistics.bootstrap_shared, draws=500)
    monkeypatch.setattr(statistics, "bootstrap_shared", few)

    def call(**changes):
        options = {
            "config": CONFIG, "set": [f"data.dir={tmp_path}", "data.variant=small"], "jobs": 1, "add": [],
            "choice": str(choice), "methods": None, "seeds": ["1", "2", "3"], "epochs": 4,
            "output": str(tmp_path / "out"), "only_report": False,
        }  # fmt: skip
        given = type("Options", (), options | changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(real_faces, "flags", type("Flags", (), {"FLAGS": given}))
            real_faces.main(())
        return epath.Path(given.output)

    call.settings, call.truth = settings, truth
    return call


def test_all_methods_are_trained_on_the_original_labels_and_the_oracle_on_the_votes(command):
    output = command()
    assert len(command.settings) == 4 * 3
    for name, config in command.settings.items():
        method = name.split("-")[1]
        assert config.data.name == "ferplus" and config.train.duration == "4 epochs"
        assert config.data.variant == ("voted" if method == "oracle" else "small")
        assert config.loss.method == ("cross_entropy" if method == "oracle" else method)
    oracle, plain = (command.settings[f"people-{m}-s1-e4"] for m in ("oracle", "cross_entropy"))
    assert oracle.optim == plain.optim
    found = json.loads((output / "real_faces.json").read_text())
    assert {row["method"] for row in found["detection"]} == set(NAMES)
    (best, *_) = [row for row in found["differences"] if row["method"] == "agreement"]
    assert best["than"] == "elr" and {r["than"] for r in found["differences"]} == {
        "elr", "cross_entropy", "oracle",
    }  # fmt: skip
    accuracy = {row["method"]: row["war"]["mean"] for row in found["accuracy"]}
    assert best["war"]["mean"] == pytest.approx(accuracy["agreement"] - accuracy["elr"])
    odds = next(r for r in found["detection"] if r["score"] == "odds, views")
    assert odds["minus_one_view"]["mean"] == pytest.approx(0.1)
    assert odds["minus_loss_or_softmax"]["mean"] == pytest.approx(0.2)
    hard = next(r for r in found["detection"] if r["score"] == "1 - agreement, views")
    assert hard["minus_one_view"]["mean"] == pytest.approx(0.75 - 0.6)
    text = (output / "real_faces.md").read_text()
    assert "| elr | 3 |" in text and (output / "agreement_agreement_4.png").exists()


def test_correlations_with_the_entropy_of_the_votes_are_spearmans(command):
    output = command(methods=["elr"], seeds=["5"])
    found = json.loads((output / "real_faces.json").read_text())
    (cell,) = found["cells"]
    votes = np.array([record["votes"] for record in command.truth.values()], float)
    entropy = [-sum(p * np.log(p) for p in sorted(v / v.sum()) if p) for v in votes]  # exact ties
    logits = np.random.default_rng(5).normal(size=(len(votes), 3, 7))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for name, values in (
        ("1 - max softmax, views", 1 - probs.mean(1).max(1)),
        ("1 - max softmax, one view", 1 - probs[:, 0].max(1)),
    ):
        expected = stats.spearmanr(values, entropy)
        assert cell["ranks"][name]["rho"] == pytest.approx(expected.statistic, abs=1e-6)
        assert cell["ranks"][name]["error"] == pytest.approx(1 / np.sqrt(len(votes)), rel=0.25)
    assert {row["measure"] for row in found["ranks"]} == set(cell["ranks"])

    (row,) = found["audit"]
    wrong = np.array([r["label"] != r["true_label"] for r in command.truth.values()])
    assert row["share wrong"] == pytest.approx(wrong.mean())
    label = np.array([r["label"] for r in command.truth.values()])
    ours = find_label_issues(label, probs)
    expected = metrics.average_precision_score(wrong, -ours.rank)
    assert row["audit ap"] == pytest.approx(expected, abs=1e-6)
    listed = ours.kind == "mislabeled"
    assert row["audit f1"] == pytest.approx(metrics.f1_score(wrong, listed))


def test_the_class_shares_of_a_review_of_everything_are_the_true_ones(command, monkeypatch):
    monkeypatch.setattr(reviews, "SIZES", (10**6,))
    monkeypatch.setattr(reviews, "FOLLOWED", 2)
    for record in [*command.truth.values()][:30]:
        record["true_label"] = 2
    output = command(methods=["elr"], seeds=["5"])
    (row,) = json.loads((output / "real_faces.json").read_text())["reviewed"]
    given, true = (
        np.bincount([r[name] for r in command.truth.values()], minlength=7) / len(command.truth)
        for name in ("label", "true_label")
    )
    distance = len(command.truth) * ((true - given) ** 2 / given).sum()
    estimate = given + (true - given) * max(0, 1 - 6 / distance)
    test = np.load(output / "cells/people-elr-s5-e4/run/predictions.npz")
    probs = np.exp(test["logits"]) * estimate / given
    before, after = (
        (values.argmax(axis=1) == test["label"]).mean() for values in (test["logits"], probs)
    )
    assert before != after
    assert row["war"]["mean"] == pytest.approx(after)
    assert row["minus before, war"]["mean"] == pytest.approx(after - before)
    assert row["least tenth"] == pytest.approx(after - before)


def test_only_seeds_that_all_methods_have_finished_are_compared(command):
    command(methods=["elr"], seeds=["1", "2"])
    output = command(methods=["agreement"], seeds=["2", "3"])
    found = json.loads((output / "real_faces.json").read_text())
    assert {(row["method"], row["seeds"]) for row in found["accuracy"]} == {
        ("elr", 1), ("agreement", 1),
    }  # fmt: skip
    assert len(found["cells"]) == 4


def test_what_was_not_chosen_is_refused(command):
    with pytest.raises(report.ChoiceError, match="nothing was chosen for gce"):
        command(methods=["gce"])
    assert not command.settings
    assert set(real_faces.SEEDS).isdisjoint({protocol.CHOOSE_RUN_SEED, *protocol.REPORT})


def test_a_cell_is_measured_once_for_a_commit(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        real_faces, "rank_correlations", lambda *_: calls.append(1) or {"loss": 0.5}
    )
    monkeypatch.setattr(audit_runs, "read", lambda _: ("in fold", None))
    monkeypatch.setattr(audit_grid, "figures", lambda _: {"ap": 0.25})
    expected = {"ranks": {"loss": 0.5}, "audit": {"ap": 0.25}}
    for commit, measured in (("a", 1), ("a", 1), ("b", 2), ("b+", 3), ("b+", 4), ("b", 5)):
        monkeypatch.setattr(real_faces.harness, "commit", lambda commit=commit: commit)
        assert real_faces.measured(epath.Path(tmp_path), {}) == expected
        assert len(calls) == measured
