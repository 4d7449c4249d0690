"""Which score finds the wrong labels, and does it beat the loss of the same run?

    python -m experiments.detection --grid=runs/noise [--methods=label_smoothing,agreement]

Reads the finished cells of experiments.noise or experiments.ablation, with the predictions for their
training splits after the last epoch; no model is run, and it takes seconds. Prints a table for each method
and kind of noise: the AUROC of each score, mean over the seeds, and its paired difference to the loss of
the video with a 95 % interval. Writes detection.json and detection.md to the folder of the grid.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags
from etils import epath

from benchmarks import harness
from experiments import analysis, noise_scores, over_seeds
from experiments.predictions import SavedError, Training, read_training
from rdfer_jax import metrics, paths

#: The score that every other score is compared with.
LOSS = "loss of the video"


def aurocs(training: Training) -> dict[str, dict[str, float]]:
    """Returns the AUROC after the last epoch by task and score; tasks as in experiments.analysis."""
    return {
        name: {
            score: metrics.auroc(training.scores[score][-1, task.among], task.positive[task.among])
            for score in {*noise_scores.names(task.goal), LOSS}
            if score in training.scores
        }
        for name, task in analysis.tasks(training.is_flipped, training.is_hard).items()
    }


def summary(by_seed: Mapping[int, Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Returns means over the seeds, and paired differences to the loss.

    Args:
      by_seed: results of `aurocs`, by seed.

    Returns:
      A row for each task and score; within a task the best score comes first.
    """
    rows: list[dict[str, Any]] = []
    for task, scores in next(iter(by_seed.values())).items():
        by_score = {seed: by_task[task] for seed, by_task in by_seed.items()}
        task_rows: list[dict[str, Any]] = [
            {
                "task": task,
                "score": score,
                "auroc": over_seeds.to_dict(over_seeds.mean(by_score, score)),
                "minus_loss": None
                if score == LOSS
                else over_seeds.to_dict(over_seeds.paired(by_score, by_score, score, LOSS)),
            }
            for score in scores
        ]
        rows += sorted(task_rows, key=lambda row: -row["auroc"]["mean"])
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table for each task, in percent."""
    tables = []
    for task in dict.fromkeys(row["task"] for row in rows):
        lines = [[task, "AUROC", "minus the loss"]]
        lines += [
            [row["score"], over_seeds.percent(row["auroc"]), over_seeds.points(row["minus_loss"])]
            for row in rows
            if row["task"] == task
        ]
        tables.append(harness.table(lines))
    return "\n\n".join(tables)


def read(
    folder: epath.Path, methods: Sequence[str] | None
) -> dict[tuple[str, str, float], dict[int, Any]]:
    """Returns the AUROCs of all cells with wrong labels by (method, kind, rate), then by seed.

    Raises:
      SavedError: there is no such cell.
    """
    groups: dict[tuple[str, str, float], dict[int, Any]] = {}
    for path in sorted(epath.Path(folder).glob("cells/*/result.json")):
        result = json.loads(path.read_text())
        method = result["name"].split("-")[0]
        if result["noise"]["rate"] and method in (methods or [method]):
            key = (method, result["noise"]["kind"], result["noise"]["rate"])
            training = read_training(path.parent / "run")
            if training is None:
                raise SavedError(f"{path.parent / 'run'}: {analysis.NO_TRAINING}")
            groups.setdefault(key, {})[result["seed"]] = aurocs(training)
    if not groups:
        raise SavedError(
            f"{folder}: no finished cell of {', '.join(methods or ['any method'])} with wrong labels; run "
            "python -m experiments.noise with this --output first"
        )
    return groups


def main(_: Sequence[str]) -> None:
    """Reads the cells, prints the tables and writes them."""
    folder = epath.Path(flags.FLAGS.grid).absolute()
    try:
        groups = read(folder, flags.FLAGS.methods)
    except SavedError as error:
        sys.exit(f"error: {error}")
    report, blocks = [], []
    for (method, kind, rate), by_seed in groups.items():
        rows = summary(by_seed)
        report.append(
            {"method": method, "kind": kind, "rate": rate, "seeds": sorted(by_seed), "rows": rows}
        )
        title = f"{method}, {rate:.0%} wrong labels, {kind}; {len(by_seed)} seeds"
        blocks += [title, table(rows)]
    text = "\n\n".join(blocks)
    (folder / "detection.json").write_text(harness.to_json({"runs": report}))
    (folder / "detection.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    paths.DEFINE_path("grid", "runs/noise", "Folder of the grid, its --output.")
    flags.DEFINE_list("methods", None, "Methods to read; by default all.")
    app.run(main)
