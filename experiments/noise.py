"""Does the method help against wrong labels? Accuracy on a clean test split at growing noise rates.

    python -m experiments.noise --size=small --jobs=2 --output=runs/noise   # about 2 hours on 2 CPU cores
    python -m experiments.noise --size=full --jobs=8 --output=runs/noise    # for a large GPU
    python -m experiments.noise --size=config --config=configs/dfew.py:1 --rates=0,0.3 --output=...
    python -m experiments.noise --size=config --config=configs/dfew.py:1 --labels=dfew-n20.csv,dfew-n40.csv

Trains every loss function on labels with a known share of wrong ones, and measures WAR and UAR on the
clean test split and the AUROC with which wrong labels are found. For one seed all methods share data,
wrong labels, initial parameters and order, so differences are paired over seeds. Writes noise.json,
noise.md (the printed tables) and noise.png to --output. When started again, it continues with the cells
that have not finished.

--size=config takes all settings from the config file: for any data set that has been built. Its own
labels then count as the true ones. --labels trains on label files of `rdfer inject` in place of --kinds and
--rates, such as those of docs/evidence/noise-benchmark.md; all seeds share their wrong labels.
"""

import csv
import dataclasses
import hashlib
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import harness
from experiments import grid, over_seeds
from experiments.grid import Cell, Noise
from rdfer_jax import paths, plots
from rdfer_jax.labels import inject

#: Settings of each method: those of its paper, where it gives them for this kind of noise.
METHODS: dict[str, dict[str, Any]] = {
    "cross_entropy": {"loss.method": "cross_entropy", "loss.label_smoothing": 0.0},
    "label_smoothing": {"loss.method": "cross_entropy", "loss.label_smoothing": 0.1},
    "focal": {"loss.method": "focal", "loss.label_smoothing": 0.0},
    "gce": {"loss.method": "gce", "loss.label_smoothing": 0.0},
    "sce": {"loss.method": "sce", "loss.label_smoothing": 0.0},
    "elr": {
        "loss.method": "elr", "loss.label_smoothing": 0.0, "agreement.memory_decay": 0.7
    },
    "small_loss": {"loss.method": "small_loss", "loss.robust_from": "30 %"},
    "scn": {"loss.method": "scn", "loss.robust_from": "25 %"},
    "agreement": {"loss.method": "agreement"},
    "oracle": {"loss.method": "oracle"},
}  # fmt: skip

#: The other methods need neither our memory nor our teacher.
NO_AGREEMENT = {"agreement.memory_decay": 0.0, "agreement.teacher_decay": 0.0}

QUIET = {
    "train.eval_every": "100 %", "train.save_every": "100 %", "train.tensorboard": False
}  # fmt: skip

FACES = {
    "num_test": 2000, "num_frames": 32, "image_size": 48, "flip_rate": 0.0, "flip_kind": "symmetric",
    "hard_share": 0.4, "imbalance": False, "seed": 0, "jpeg_quality": 95,
}  # fmt: skip

SIZES: dict[str, dict[str, Any]] = {
    "small": {"build": FACES | {"num_train": 2000}, "train.duration": "11 epochs"},
    "full": {"build": FACES | {"num_train": 8000}, "train.duration": "12 epochs"},
    "config": {},
}
RATES = {"small": "0,0.3", "full": "0,0.1,0.2,0.3,0.4", "config": "0,0.3"}
KINDS = {"small": "confusion", "full": "symmetric,confusion,instance", "config": "symmetric"}

#: Columns of the tables: name in results.json, heading.
COLUMNS = {
    "war": "WAR", "uar": "UAR", "war_easy": "easy", "war_hard": "hard",
    "noise_auroc_agreement": "flipped, by agreement", "noise_auroc_loss": "by loss",
    "noise_auroc_agreement_among_hard": "among hard, by agreement",
    "noise_auroc_loss_among_hard": "by loss", "hard_auroc_agreement": "hard, by agreement",
}  # fmt: skip

#: Methods that drop wrong labels. Without wrong labels they drop nothing and equal REFERENCE.
SELECTING = ("oracle", "small_loss")
REFERENCE = "label_smoothing"


def cells(
    methods: Sequence[str], kinds: Sequence[str], rates: Sequence[float], seeds: Sequence[int]
) -> list[Cell]:
    """Returns the cells: each method with each kind and rate of noise and each seed.

    Without noise the kind is meaningless: these cells occur once, and those of SELECTING are left out.
    """
    found = [
        _cell(method, Noise(kind, rate, seed) if rate else Noise("none", 0.0, seed))
        for seed, rate, kind, method in itertools.product(seeds, rates, kinds, methods)
        if rate or method not in SELECTING
    ]
    return list({cell.name: cell for cell in found}.values())


def _cell(method: str, noise: Noise) -> Cell:
    changes = METHODS[method] if method == "agreement" else NO_AGREEMENT | METHODS[method]
    if method == "small_loss":  # as in its paper, it knows the rate
        changes = changes | {"loss.forget_rate": noise.rate}
    name = f"{method}-{noise.name}" + ("" if noise.rate else f"-s{noise.seed}")
    return Cell(name, changes, noise, noise.seed)


def labeled_cells(methods: Sequence[str], files: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Returns the cells that train on label files: each method with each file and each seed.

    The kind of their noise is the file's name and the first digits of its SHA-256, the rate its share of
    wrong labels.

    Args:
      methods: keys of METHODS.
      files: CSV files with the column is_flipped, as `rdfer inject` writes them.
      seeds: of the runs.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a file has no column is_flipped of 0 and 1, or no wrong label.
    """
    found = []
    for name in files:
        path = epath.Path(paths.expand(name)).absolute()
        content = path.read_bytes()
        try:
            rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
            flips = [{"0": 0, "1": 1}[row["is_flipped"]] for row in rows]
        except (KeyError, UnicodeDecodeError, csv.Error):
            flips = []
        if not any(flips):
            raise ValueError(
                f"{path}: expected a column is_flipped with 0 and some 1. Write the file with rdfer inject"
            )
        kind = f"{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}"
        rate = round(sum(flips) / len(flips), 6)
        for seed, method in itertools.product(seeds, methods):
            cell = _cell(method, Noise(kind, rate, seed))
            overrides = {**cell.overrides, "data.labels": str(path)}
            found.append(dataclasses.replace(cell, overrides=overrides))
    return found


def gather(results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, float], dict[int, Any]]:
    """Groups results by (method, kind, rate), then by seed; a rate of 0 has the kind "none".

    Without noise, the results of SELECTING are those of REFERENCE.
    """
    groups: dict[tuple[str, str, float], dict[int, Any]] = {}
    for result in results:
        noise = result["noise"]
        method = result["name"].split("-")[0]
        methods = [method]
        if method == REFERENCE and not noise["rate"]:
            methods += SELECTING
        for name in methods:
            key = (name, noise["kind"], noise["rate"])
            groups.setdefault(key, {})[result["seed"]] = result["results"]
    return groups


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns means of all columns, and differences of `agreement` to every other method.

    Returns:
      rows: for each method, kind and rate the COLUMNS, and agreement_minus_loss_among_hard, the
      difference of the two AUROCs of the same run; agreement_minus: paired differences of WAR.
    """
    groups = gather(results)
    order = {name: i for i, name in enumerate(METHODS)}
    rows: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for (method, kind, rate), by_seed in groups.items():
        row: dict[str, Any] = {"method": method, "kind": kind, "rate": rate, "seeds": len(by_seed)}
        row |= {column: over_seeds.to_dict(over_seeds.mean(by_seed, column)) for column in COLUMNS}
        auroc_difference = over_seeds.paired(
            by_seed, by_seed, "noise_auroc_agreement_among_hard", "noise_auroc_loss_among_hard"
        )
        row["agreement_minus_loss_among_hard"] = over_seeds.to_dict(auroc_difference)
        rows.append(row)
        if method == "agreement":
            continue
        ours = groups.get(("agreement", kind, rate), {})
        for column in ("war", "war_hard"):
            if difference := over_seeds.paired(ours, by_seed, column):
                differences.append(
                    {"kind": kind, "rate": rate, "than": method, "column": column}
                    | difference._asdict()
                )
    rows.sort(key=lambda row: (row["rate"], row["kind"], order[row["method"]]))
    differences.sort(key=lambda d: (d["rate"], d["kind"], order[d["than"]], d["column"]))
    return {"rows": rows, "agreement_minus": differences}


def table(report: Mapping[str, Any]) -> str:
    """Returns the summary as Markdown tables, in percent."""
    blocks = []
    for kind, rate in dict.fromkeys((row["kind"], row["rate"]) for row in report["rows"]):
        rows = [row for row in report["rows"] if (row["kind"], row["rate"]) == (kind, rate)]
        count = max(row["seeds"] for row in rows)
        blocks += [f"{rate:.0%} wrong labels, {kind}; {count} seeds", _means(rows)]
        versus = [d for d in report["agreement_minus"] if (d["kind"], d["rate"]) == (kind, rate)]
        if versus:
            blocks.append(_differences(versus))
        rows = [row for row in rows if row["agreement_minus_loss_among_hard"]]
        if rows:
            head = ["run", "AUROC among hard: agreement minus loss"]
            blocks.append(
                harness.table(
                    [head]
                    + [
                        [row["method"], over_seeds.points(row["agreement_minus_loss_among_hard"])]
                        for row in rows
                    ]
                )
            )
    return "\n\n".join(blocks)


def _means(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = [column for column in COLUMNS if any(row[column] for row in rows)]
    lines = [["method", *(COLUMNS[c] for c in columns)]]
    lines += [[row["method"], *(over_seeds.percent(row[c]) for c in columns)] for row in rows]
    return harness.table(lines)


def _differences(versus: Sequence[Mapping[str, Any]]) -> str:
    lines = [["agreement minus", "WAR", "WAR of hard clips"]]
    for than in dict.fromkeys(d["than"] for d in versus):
        by_column = {d["column"]: d for d in versus if d["than"] == than}
        lines.append([than, *(over_seeds.points(by_column.get(c)) for c in ("war", "war_hard"))])
    return harness.table(lines)


@plots.styled
def picture(report: Mapping[str, Any]) -> Figure:
    """Draws WAR against the noise rate: a row for each kind of noise; all, easy and hard clips."""
    rows = report["rows"]
    kinds = [k for k in dict.fromkeys(row["kind"] for row in rows) if k != "none"] or ["none"]
    parts = {"war": "all clips", "war_easy": "easy clips", "war_hard": "hard clips"}
    parts = {c: name for c, name in parts.items() if any(row[c] for row in rows)}
    figure = Figure(figsize=(4.2 * len(parts) + 1.5, 3.6 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(parts), squeeze=False, sharex=True)
    for kind, panel_row in zip(kinds, panels, strict=True):
        inside = [row for row in rows if row["kind"] in (kind, "none")]
        for axes, (column, title) in zip(panel_row, parts.items(), strict=True):
            _curves(axes, inside, column)
            axes.set_title(f"{title}; wrong labels: {kind}")
            axes.set_xlabel("wrong training labels, %")
            axes.set_ylabel("WAR on the clean test split, %")
    figure.legend(*panels[0][0].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return figure


def _curves(axes: Axes, rows: Sequence[Mapping[str, Any]], column: str) -> None:
    """Draws one line with error bars per method; slightly shifted, so that bars do not overlap."""
    for n, method in enumerate(METHODS):
        points = [
            (row["rate"], row[column]["mean"], row[column]["low"], row[column]["high"])
            for row in rows
            if row["method"] == method and row[column]
        ]
        if not points:
            continue
        rate, mean, low, high = 100 * np.array(points, float).T
        axes.errorbar(
            rate + 0.15 * (n - len(METHODS) / 2), mean, [mean - low, high - mean],
            marker="o", markersize=4, capsize=2, label=method,
            linewidth=2.5 if method in ("agreement", "oracle") else 1,
            color="black" if method == "oracle" else f"C{n}",
            linestyle="--" if method == "oracle" else "-",
        )  # fmt: skip


def write(output: epath.Path, results: Sequence[Mapping[str, Any]]) -> str:
    """Writes noise.json, noise.md and noise.png, and returns the tables."""
    report = summary(results)
    text = table(report)
    grid.write_report(output, "noise", results, report, text, picture(report))
    return text


def main(_: Sequence[str]) -> None:
    """Trains the missing cells and prints the tables."""
    options = flags.FLAGS
    grid.check_known("--methods", options.methods, list(METHODS))
    seeds = [int(seed) for seed in options.seeds]
    if options.labels:
        if options.kinds or options.rates:
            raise app.UsageError(
                "--labels takes the place of --kinds and --rates: give one of them"
            )
        chosen = labeled_cells(options.methods, options.labels, seeds)
    else:
        chosen = cells(
            options.methods,
            options.kinds or KINDS[options.size].split(","),
            [float(rate) for rate in options.rates or RATES[options.size].split(",")],
            seeds,
        )
    output, results = grid.run_from_flags(chosen, SIZES[options.size] | QUIET)
    print(write(output, results))


if __name__ == "__main__":
    grid.define_flags("runs/noise", list(SIZES))
    flags.DEFINE_list("methods", list(METHODS), "Loss functions to compare.")
    flags.DEFINE_list("kinds", None, f"Kinds of wrong labels: {', '.join(inject.KINDS)}, votes.")
    flags.DEFINE_list("rates", None, "Shares of wrong labels, in [0, 1).")
    flags.DEFINE_list("labels", None, "Label files of rdfer inject, in place of kinds and rates.")
    app.run(main)
