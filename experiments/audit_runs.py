"""The audit's list beside cleanlab, on predictions of finished runs whose true labels are known.

    python -m experiments.audit_runs --runs='runs/crossval/*' --output=runs/audit_runs
    python -m experiments.audit_runs --runs='runs/real_faces/cells/people-elr-s*' --output=runs/audit_runs

Takes cross-validations, whose predictions are out of fold, and cells of a grid, whose predictions of the
training split are in fold. True labels are known of drawn faces, and of FER+ as the majority of the votes.
The contestants and figures are those of experiments.audit_grid; the best of cleanlab's scores and filters
counts, which nobody can choose without the truth. Trains nothing. Writes audit_runs.json and audit_runs.md.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from absl import app, flags
from etils import epath
from scipy import special

from benchmarks import harness
from experiments import audit_grid, finished
from experiments.simulated import Simulated
from rdfer_jax import paths
from rdfer_jax.training.predictions import OUT_OF_FOLD, TEST_FILE, TRAIN_FILE, read_predictions

IN_FOLD = "in fold"


def read(folder: epath.Path) -> tuple[str, Simulated]:
    """Returns how the labels of a cross-validation or a cell were predicted, and the predictions.

    Raises:
      FileNotFoundError: the folder has neither kind of predictions.
      ValueError: they lack the clips' logits or the true labels, or are of a test split.
    """
    cell = folder / "run" / TRAIN_FILE
    path = cell if cell.exists() else folder / TEST_FILE
    saved = read_predictions(path, ("clip_logits", "true_label"))
    if path != cell and saved.split != OUT_OF_FOLD:
        raise ValueError(
            f"{path}: predictions of {saved.split!r}; expected a cross-validation or a cell of a grid"
        )
    probs = special.softmax(np.asarray(saved["clip_logits"], np.float64), axis=-1)
    true_N, label_N = (np.asarray(saved[name], np.int64) for name in ("true_label", "label"))
    return IN_FOLD if path == cell else OUT_OF_FOLD, Simulated(
        true_N, label_N, probs, np.zeros(len(label_N))
    )


def text(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the figures by name of the run as a Markdown table, in percent."""
    names = ("ap", "f1", "share")
    head = ["run", "wrong", *(f"{name}: {who}" for name in names for who in ("audit", "cleanlab"))]
    head += ["ends", "told", *(f"{p:.0%}: listed, true precision" for p in audit_grid.PROMISES)]
    lines = [head]
    for run, row in rows.items():
        best = audit_grid.summary({0: row})
        line = [run, f"{100 * row['share']:.1f}"]
        line += [
            f"{100 * best[f'{who} {name}']:.1f}" for name in names for who in ("audit", "cleanlab")
        ]
        line += [
            f"{100 * row['audit low']:.1f} to {100 * row['audit high']:.1f}",
            "yes" if row["audit told"] else "no",
        ]
        for promise in audit_grid.PROMISES:
            listed, right = row[f"listed {promise}"], row[f"right {promise}"]
            line.append(f"{100 * listed:.1f}, {100 * right / listed:.1f}" if listed else "none")
        lines.append(line)
    return harness.table(lines)


def main(_: Sequence[str]) -> None:
    """Measures all runs, prints the table and writes it."""
    output = epath.Path(flags.FLAGS.output)
    rows = {}
    for folder in map(epath.Path, finished.matching(flags.FLAGS.runs)):
        kind, data = read(folder)
        rows[f"{folder.name}, {kind}"] = audit_grid.figures(data)
    output.mkdir(parents=True, exist_ok=True)
    (output / "audit_runs.json").write_text(harness.to_json({"commit": harness.commit(), **rows}))
    (output / "audit_runs.md").write_text(text(rows) + "\n")
    print(text(rows))


if __name__ == "__main__":
    paths.DEFINE_path("runs", None, "Folders of runs, such as 'a/b-s*'.", required=True)
    paths.DEFINE_path("output", "runs/audit_runs", "Folder for the results.")
    app.run(main)
