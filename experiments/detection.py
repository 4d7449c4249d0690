"""E1 over seeds: which score finds the wrong labels, and is it ahead of the loss of the same run?

    python -m experiments.detection --grid=runs/noise [--methods=label_smoothing,agreement]

Reads the finished cells of experiments.noise or experiments.ablation, the predictions of their training
splits after the last epoch. Prints a table for each method and kind of noise: AUROC of each score, mean
over the seeds, and its paired difference to the loss of the video with a 95 % interval. Writes
detection.json and detection.md into the grid's folder. No model is run.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags
from etils import epath

from experiments import analysis, grid, noise, noise_scores
from experiments.predictions import SavedError, Training, read_training
from rdfer_jax import metrics

#: What every other score is compared with.
LOSS = "loss of the video"


def values(training: Training) -> dict[str, dict[str, float]]:
    """AUROC of every score by task and score, after the last epoch; tasks as in experiments.analysis."""
    return {
        name: {
            score: metrics.auroc(training.scores[score][-1, task.among], task.positive[task.among])
            for score in {*noise_scores.names(task.goal), LOSS}
            if score in training.scores
        }
        for name, task in analysis.tasks(training.is_flipped, training.is_hard).items()
    }


def summary(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Means over the seeds, and paired differences to the loss.

    Args:
      found: what `values` says, by seed.

    Returns:
      A row for each task and score, best first in each task.
    """
    rows: list[dict[str, Any]] = []
    first = next(iter(found.values()))
    for task in first:
        inside: list[dict[str, Any]] = []
        for score in first[task]:
            own = [by_task[task][score] for by_task in found.values()]
            loss = [by_task[task][LOSS] for by_task in found.values()]
            difference = metrics.paired_interval([a - b for a, b in zip(own, loss, strict=True)])
            inside.append(
                {
                    "task": task,
                    "score": score,
                    "auroc": metrics.mean_interval(own)._asdict(),
                    "minus_loss": None if score == LOSS else difference._asdict(),
                }
            )
        rows += sorted(inside, key=lambda row: -row["auroc"]["mean"])
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table for each task, in percent."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        lines += ["", grid.line([task, "AUROC", "minus the loss"]), grid.line(["---"] * 3)]
        lines += [
            grid.line([row["score"], noise.percent(row["auroc"]), noise.bounds(row["minus_loss"])])
            for row in rows
            if row["task"] == task
        ]
    return "\n".join(lines)


def read(
    folder: epath.Path, methods: Sequence[str] | None
) -> dict[tuple[str, str, float], dict[int, Any]]:
    """Returns what `values` says by (method, kind, rate), then by seed, of the cells with wrong labels.

    Raises:
      SavedError: there is no such cell.
    """
    found: dict[tuple[str, str, float], dict[int, Any]] = {}
    for path in sorted(epath.Path(folder).glob("cells/*/result.json")):
        result = json.loads(path.read_text())
        method = result["name"].split("-")[0]
        if result["noise"]["rate"] and method in (methods or [method]):
            key = (method, result["noise"]["kind"], result["noise"]["rate"])
            training = read_training(path.parent / "run")
            if training is None:
                raise SavedError(f"{path.parent / 'run'}: {analysis.NO_TRAINING}")
            found.setdefault(key, {})[result["seed"]] = values(training)
    if not found:
        raise SavedError(
            f"{folder}: no finished cell of {', '.join(methods or ['any method'])} with wrong labels; run "
            "python -m experiments.noise with this --output first"
        )
    return found


def main(_: Sequence[str]) -> None:
    """Reads, prints and writes."""
    folder = epath.Path(flags.FLAGS.grid).expanduser().absolute()
    try:
        found = read(folder, flags.FLAGS.methods)
    except SavedError as error:
        sys.exit(f"error: {error}")
    report, lines = [], []
    for (method, kind, rate), by_seed in found.items():
        rows = summary(by_seed)
        report.append(
            {"method": method, "kind": kind, "rate": rate, "seeds": sorted(by_seed), "rows": rows}
        )
        lines += [f"\n{method}, {rate:.0%} wrong labels, {kind}; {len(by_seed)} seeds", table(rows)]
    (folder / "detection.json").write_text(grid.to_json({"runs": report}))
    (folder / "detection.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    flags.DEFINE_string("grid", "runs/noise", "Folder of a grid: its --output.")
    flags.DEFINE_list("methods", None, "Methods to read; all, if not given.")
    app.run(main)
