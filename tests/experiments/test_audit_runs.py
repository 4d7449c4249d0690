"""The table of finished runs has the figures of scikit-learn, and says whether they are in fold."""

import numpy as np
import pytest
from sklearn import metrics

from experiments import audit_grid, audit_runs
from experiments.simulated import simulate
from rdfer_jax import find_label_issues
from rdfer_jax.training.predictions import OUT_OF_FOLD, TEST_FILE, TRAIN_FILE, Predictions

CLASSES = tuple("abcdefg")


def save(folder, data, split=OUT_OF_FOLD, name=TEST_FILE):
    logits = np.log(np.maximum(data.probs, 1e-30))
    arrays = {"clip_id": np.arange(len(data.label)).astype(str), "label": data.label}
    arrays |= {"true_label": data.true, "logits": logits.mean(1), "clip_logits": logits}
    folder.mkdir(parents=True)
    Predictions(split, CLASSES, arrays).save(folder / name)


def test_cross_validations_and_cells_stand_in_one_table(tmp_path, monkeypatch, capsys):
    pytest.importorskip("cleanlab")
    data = simulate(700, "confusion", 0.3, seed=3)
    save(tmp_path / "runs/a", data)
    save(tmp_path / "runs/b/run", data, "train", TRAIN_FILE)
    options = type("O", (), {"runs": str(tmp_path / "runs/*"), "output": str(tmp_path / "out")})
    monkeypatch.setattr(audit_runs, "flags", type("F", (), {"FLAGS": options}))
    audit_runs.main(())
    table = capsys.readouterr().out
    first, second = (
        [part.strip() for part in line.split("|")[1:-1]] for line in table.splitlines()[2:]
    )
    assert first[0] == "a, out of fold" and second[0] == "b, in fold" and first[1:] == second[1:]
    issues = find_label_issues(data.label, data.probs)
    listed = issues.kind == "mislabeled"
    right = data.is_wrong[issues.false_alarms <= 0.1 + 1e-9]
    head = [part.strip() for part in table.splitlines()[0].split("|")[1:-1]]
    cells = dict(zip(head, first, strict=True))
    assert cells["wrong"] == f"{100 * data.is_wrong.mean():.1f}"
    ap = metrics.average_precision_score(data.is_wrong, -issues.rank)
    assert float(cells["ap: audit"]) == pytest.approx(100 * ap, abs=0.06)
    assert float(cells["f1: audit"]) == pytest.approx(
        100 * metrics.f1_score(data.is_wrong, listed), abs=0.06
    )
    expected = f"{100 * len(right) / 700:.1f}, {100 * right.mean():.1f}"
    assert cells["90%: listed, true precision"] == expected
    theirs = audit_grid.figures(data)
    best = max(value for name, value in theirs.items() if name.startswith("cleanlab f1 "))
    assert float(cells["f1: cleanlab"]) == pytest.approx(100 * best, abs=0.06)
    assert (tmp_path / "out/audit_runs.md").read_text() == table


def test_predictions_of_a_test_split_are_refused(tmp_path):
    save(tmp_path / "run", simulate(50, seed=1), "test")
    with pytest.raises(
        ValueError, match=r"predictions\.npz: predictions of 'test'; expected a cross"
    ):
        audit_runs.read(tmp_path / "run")
