"""What do several clips bring, and does it depend on how they are drawn?

    python -m experiments.views --output=runs/views
    python -m experiments.views --variants=default,own_augmentation --report --epochs=11 --output=runs/views

Trains cross-entropy, so that the clips decide nothing, with each way to draw the clips of a video, on the
data set on which experiments.protocol chooses; with --report, on those for reporting. Of each network it
measures the same score of a wrong label from all clips and from the first one alone, which spans the video:
remembered over the epochs, and of the last epoch. Intervals are over videos and, with --report, seeds.
Writes views.json, views.md and views.png to --output. When started again, it continues with the cells that
have not finished.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from benchmarks import harness
from experiments import evidence, grid, over_seeds, protocol, report_tables
from experiments.choose import TASK
from experiments.grid import Cell, Noise
from rdfer_jax import plots

BASE: Mapping[str, Any] = {
    "loss.method": "cross_entropy",
    "loss.label_smoothing": 0.1,
    "agreement.memory_decay": 0.8,
    "agreement.remember_clips": True,
    "optim.learning_rate": 2e-3,
}
#: Way to draw clips -> its settings.
VARIANTS: dict[str, Mapping[str, Any]] = {
    "default": {},
    "short_views": {"clips.min_span": 0.2},
    "windows": {"clips.kind": "windows", "key.enabled": False},
    "own_augmentation": {"augment.per": "clip"},
    "dropout": {"model.dropout": 0.5},
    "nine_clips": {"clips.number": 9},
}
#: Title of a column -> task, score, and the score that it is compared with.
COLUMNS = {
    "wrong labels, memory": (TASK, "odds, memory", f"odds, {evidence.FIRST_CLIPS.format(1)}"),
    "wrong labels, last epoch": (TASK, "odds, K clips", "odds, one clip"),
    "hard, memory": (
        report_tables.HARD_TASK,
        "1 - agreement, memory",
        f"1 - max softmax, {evidence.FIRST_CLIPS.format(1)}",
    ),
}


def cells(variants: Sequence[str], epochs: int, report: bool = False) -> list[Cell]:
    """Returns a cell for each data set and variant."""
    ((condition, chosen_on),) = protocol.CHOOSE
    kind, rate, build = protocol.CONDITIONS[condition]
    length = {"train.duration": f"{epochs} epochs"}
    seeds = {chosen_on: protocol.CHOOSE_RUN_SEED}  # of a data set -> of its run
    if report:
        seeds = {seed: seed for seed in protocol.REPORT}
    return [
        Cell(
            f"views-{name}-b{build_seed}-e{epochs}",
            {**BASE, **VARIANTS[name], **length},
            Noise(kind, rate, seed),
            seed,
            build={"seed": build_seed, **build},
        )
        for build_seed, seed in seeds.items()
        for name in variants
    ]


def summary(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Returns a row for each variant: WAR, and for each column the AUROC and what one clip lacks.

    Args:
      results: of the data sets, by variant.
    """
    rows = []
    for name, found in results.items():
        row: dict[str, Any] = {"variant": name, "data sets": len(found)}
        row["war"] = float(np.mean([result["results"]["war"] for result in found]))
        for column, (task, score, other) in COLUMNS.items():
            row[column] = report_tables.auroc_row(found, task, score, {"one": other})
        rows.append(row)
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table, in percent: AUROC of all clips; minus that of the first one (interval)."""
    lines = [["clips", "WAR", *COLUMNS]]
    for row in rows:
        values = []
        for column in COLUMNS:
            found = row[column]
            gain = over_seeds.points(found["minus_one"])
            values.append(f"{100 * found['auroc']['mean']:.1f}; {gain}")
        lines.append([row["variant"].replace("_", " "), f"{100 * row['war']:.1f}", *values])
    return harness.table(lines)


@plots.styled
def picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws for each variant what all clips add to the AUROC of the first one, with its interval."""
    figure = Figure(figsize=(8, 1.2 + 0.5 * max(len(rows), 2)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        for number, column in enumerate(COLUMNS):
            gain = row[column]["minus_one"]
            mean, low, high = (100 * gain[k] for k in ("mean", "low", "high"))
            axes.errorbar(
                mean, place + 0.2 * (1 - number), xerr=[[mean - low], [high - mean]], marker="o",
                capsize=3, color=f"C{number}", label=None if place else column,
            )  # fmt: skip
    axes.set_yticks(
        range(len(rows)), [row["variant"].replace("_", " ") for row in reversed(rows)], fontsize=8
    )
    axes.axvline(0, color="gray", linewidth=1)
    axes.set_xlabel("AUROC of all clips minus that of the first one, points")
    axes.legend(fontsize=8)
    return figure


def main(_: Sequence[str]) -> None:
    """Trains the missing cells and prints the table."""
    options = flags.FLAGS
    grid.check_known("--variants", options.variants, list(VARIANTS))
    output, results = grid.run_from_flags(
        cells(options.variants, options.epochs, options.report), protocol.common()
    )
    number = len(options.variants)
    rows = summary({name: results[i::number] for i, name in enumerate(options.variants)})
    text = table(rows)
    grid.write_report(output, "views", results, {"rows": rows}, text, picture(rows))
    print(text)


if __name__ == "__main__":
    grid.define_common_flags("runs/views", protocol.CONFIG)
    flags.DEFINE_list("variants", list(VARIANTS), f"Variants: {', '.join(VARIANTS)}.")
    flags.DEFINE_boolean("report", False, "Train on the data sets for reporting.")
    flags.DEFINE_integer("epochs", 22, "Length of training, in epochs.", lower_bound=1)
    app.run(main)
