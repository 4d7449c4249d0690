"""E1 and E2: accuracy on a clean test split, and what is found, with more and more wrong labels.

    python -m experiments.noise --size=small --jobs=2 --output=runs/noise   # two CPU cores
    python -m experiments.noise --size=full --jobs=8 --output=runs/noise    # one large GPU
    python -m experiments.noise --size=config --config=configs/dfew.py:1 --rates=0,0.3 --output=...

Every method sees the same data, wrong labels, first parameters and order for a seed, so differences are
paired over seeds. Stopped and started again, it goes on with the cells that have not finished. With
--size=config the settings are those of the file: for any data set that has been built, whose own labels
then count as true.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from etils import epath
from matplotlib.figure import Figure

from experiments import grid
from experiments.grid import Cell, Noise
from rdfer_jax import metrics, plots
from rdfer_jax.labels import inject

#: What each method changes. Settings of its paper where it names them for this kind of noise.
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

#: Methods that only replace what is done about wrong labels do not pay for our memory and teacher.
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

#: Columns of the table: name in results.json, heading.
COLUMNS = {
    "war": "WAR", "uar": "UAR", "war_easy": "easy", "war_hard": "hard",
    "noise_auroc_agreement": "flipped, by agreement", "noise_auroc_loss": "by loss",
    "noise_auroc_agreement_among_hard": "among hard, by agreement",
    "noise_auroc_loss_among_hard": "by loss", "hard_auroc_agreement": "hard, by agreement",
}  # fmt: skip

#: Methods that leave out what is wrong. Without wrong labels they leave nothing out, and are REFERENCE.
SELECTING = ("oracle", "small_loss")
REFERENCE = "label_smoothing"


def cells(
    methods: Sequence[str], kinds: Sequence[str], rates: Sequence[float], seeds: Sequence[int]
) -> list[Cell]:
    """Returns the cells: each method with each kind and rate of noise and each seed.

    Without noise the kind means nothing: these cells occur once, and those of SELECTING not at all.
    """
    found = {}
    for seed in seeds:
        for rate in rates:
            for kind in kinds:
                noise = Noise(kind, rate, seed) if rate else Noise("none", 0.0, seed)
                for method in methods:
                    if not rate and method in SELECTING:
                        continue
                    changes = METHODS[method]
                    if method != "agreement":
                        changes = NO_AGREEMENT | changes
                    if method == "small_loss":  # it is told the rate, as in its paper
                        changes = changes | {"loss.forget_rate": rate}
                    name = f"{method}-{noise.name}" + ("" if rate else f"-s{seed}")
                    found[name] = Cell(name, changes, noise, seed)
    return list(found.values())


def gather(results: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, float], dict[int, Any]]:
    """Results by (method, kind, rate), then by seed; the kind of a rate of 0 is "none".

    Without noise, those of SELECTING are what REFERENCE is.
    """
    found: dict[tuple[str, str, float], dict[int, Any]] = {}
    for result in results:
        noise = result["noise"]
        method = result["name"].split("-")[0]
        names = [method]
        if method == REFERENCE and not noise["rate"]:
            names += SELECTING
        for name in names:
            key = (name, noise["kind"], noise["rate"])
            found.setdefault(key, {})[result["seed"]] = result["results"]
    return found


def mean(by_seed: Mapping[int, Any], column: str) -> metrics.Interval | None:
    """Mean and interval of a column over the seeds that have it; None without any."""
    values = [r[column] for r in by_seed.values() if r.get(column) is not None]
    return metrics.mean_interval(values) if values else None


def paired(
    found: Mapping[Any, Mapping[int, Any]],
    first: Any,
    second: Any,
    column: str,
    second_column: str | None = None,
) -> metrics.Interval | None:
    """Mean and interval of first minus second over the seeds that both have; None without any.

    Args:
      found: results by what was run, then by seed.
      first: a key of found.
      second: a key of found.
      column: what is compared.
      second_column: what of the second, if not the same.
    """
    one, two = found.get(first, {}), found.get(second, {})
    pairs = [
        (one[s].get(column), two[s].get(second_column or column))
        for s in sorted(set(one) & set(two))
    ]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    return metrics.paired_interval(differences) if differences else None


def plain(interval: metrics.Interval | None) -> dict[str, float] | None:
    """An interval for JSON."""
    return interval._asdict() if interval else None


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means and intervals of every column, and the differences of agreement to every other method."""
    found = gather(results)
    rows: list[dict[str, Any]] = []
    versus: list[dict[str, Any]] = []
    for (method, kind, rate), by_seed in found.items():
        row: dict[str, Any] = {"method": method, "kind": kind, "rate": rate, "seeds": len(by_seed)}
        for column in COLUMNS:
            row[column] = plain(mean(by_seed, column))
        score = paired(
            found, (method, kind, rate), (method, kind, rate),
            "noise_auroc_agreement_among_hard", "noise_auroc_loss_among_hard",
        )  # fmt: skip
        row["agreement_minus_loss_among_hard"] = plain(score)
        rows.append(row)
        if method != "agreement":
            for column in ("war", "war_hard"):
                difference = paired(found, ("agreement", kind, rate), (method, kind, rate), column)
                if difference:
                    versus.append(
                        {"kind": kind, "rate": rate, "than": method, "column": column}
                        | difference._asdict()
                    )
    order = {name: i for i, name in enumerate(METHODS)}
    rows.sort(key=lambda row: (row["rate"], row["kind"], order[row["method"]]))
    versus.sort(key=lambda row: (row["rate"], row["kind"], order[row["than"]], row["column"]))
    return {"rows": rows, "agreement_minus": versus}


def table(report: Mapping[str, Any]) -> str:
    """The summary as plain Markdown tables, in percent: mean and half the width of the 95 % interval."""
    lines = []
    for kind, rate in dict.fromkeys((row["kind"], row["rate"]) for row in report["rows"]):
        rows = [row for row in report["rows"] if (row["kind"], row["rate"]) == (kind, rate)]
        columns = [column for column in COLUMNS if any(row[column] for row in rows)]
        seeds = max(row["seeds"] for row in rows)
        lines += [f"\n{rate:.0%} wrong labels, {kind}; {seeds} seeds\n"]
        lines += [grid.line(["method", *(COLUMNS[c] for c in columns)])]
        lines += [grid.line(["---"] * (len(columns) + 1))]
        lines += [grid.line([row["method"], *(percent(row[c]) for c in columns)]) for row in rows]
        versus = [v for v in report["agreement_minus"] if (v["kind"], v["rate"]) == (kind, rate)]
        if versus:
            lines += [
                "",
                grid.line(["agreement minus", "WAR", "WAR of hard clips"]),
                grid.line(["---"] * 3),
            ]
            for than in dict.fromkeys(v["than"] for v in versus):
                by_column = {v["column"]: v for v in versus if v["than"] == than}
                cells_ = [bounds(by_column.get(c)) for c in ("war", "war_hard")]
                lines += [grid.line([than, *cells_])]
        scores = [row for row in rows if row["agreement_minus_loss_among_hard"]]
        if scores:
            lines += [
                "",
                grid.line(["run", "AUROC among hard: agreement minus loss"]),
                grid.line(["---"] * 2),
            ]
            lines += [
                grid.line([row["method"], bounds(row["agreement_minus_loss_among_hard"])])
                for row in scores
            ]
    return "\n".join(lines)


def picture(report: Mapping[str, Any]) -> bytes:
    """WAR against the rate of wrong labels, a panel for each kind and for all, easy and hard clips."""
    rows = report["rows"]
    kinds = [k for k in dict.fromkeys(row["kind"] for row in rows) if k != "none"] or ["none"]
    parts = {"war": "all clips", "war_easy": "easy clips", "war_hard": "hard clips"}
    parts = {c: name for c, name in parts.items() if any(row[c] for row in rows)}
    figure = Figure(figsize=(4.2 * len(parts) + 1.5, 3.6 * len(kinds)), layout="constrained")
    panels = figure.subplots(len(kinds), len(parts), squeeze=False, sharex=True)
    for i, kind in enumerate(kinds):
        for j, (column, title) in enumerate(parts.items()):
            axes = panels[i][j]
            for n, method in enumerate(METHODS):
                points = [
                    (row["rate"], row[column]["mean"], row[column]["low"], row[column]["high"])
                    for row in rows
                    if row["method"] == method and row["kind"] in (kind, "none") and row[column]
                ]
                if not points:
                    continue
                rate, mean, low, high = 100 * np.array(points, float).T
                bold = method in ("agreement", "oracle")
                axes.errorbar(
                    rate + 0.15 * (n - len(METHODS) / 2), mean, [mean - low, high - mean],
                    marker="o", markersize=4, linewidth=2.5 if bold else 1, capsize=2,
                    color="black" if method == "oracle" else f"C{n}",
                    linestyle="--" if method == "oracle" else "-", label=method,
                )  # fmt: skip
            axes.set_title(f"{title}; wrong labels: {kind}")
            axes.set_xlabel("wrong training labels, %")
            axes.set_ylabel("WAR on the clean test split, %")
            plots.tidy(axes)
    figure.legend(*panels[0][0].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    return plots.to_png(figure)


def percent(value: Mapping[str, float] | None) -> str:
    """A mean and half the width of its interval, in percent."""
    if value is None:
        return "-"
    half = (value["high"] - value["low"]) / 2
    return f"{100 * value['mean']:.1f}" + (f" ± {100 * half:.1f}" if np.isfinite(half) else "")


def bounds(value: Mapping[str, float] | None) -> str:
    """A difference and its interval, in percentage points."""
    if value is None:
        return "-"
    found = f"{100 * value['mean']:+.1f}"
    if np.isfinite(value["low"]):
        found += f" ({100 * value['low']:+.1f} to {100 * value['high']:+.1f})"
    return found


def write(output: epath.Path, results: Sequence[Mapping[str, Any]]) -> str:
    """Writes noise.json, noise.md and noise.png, and returns the tables."""
    report = summary(results)
    text = table(report)
    grid.write_report(output, "noise", results, report, text, picture(report))
    return text


def main(_: Sequence[str]) -> None:
    """Runs what is missing and reports."""
    options = flags.FLAGS
    grid.check_known("--methods", options.methods, list(METHODS))
    chosen = cells(
        options.methods,
        options.kinds or KINDS[options.size].split(","),
        [float(rate) for rate in options.rates or RATES[options.size].split(",")],
        [int(seed) for seed in options.seeds],
    )
    output, results = grid.run_asked(chosen, SIZES[options.size] | QUIET)
    print(write(output, results))


if __name__ == "__main__":
    grid.define_flags("runs/noise", list(SIZES))
    flags.DEFINE_list("methods", list(METHODS), "Methods to compare.")
    flags.DEFINE_list("kinds", None, f"Kinds of wrong labels: {', '.join(inject.KINDS)}.")
    flags.DEFINE_list("rates", None, "Shares of wrong labels.")
    app.run(main)
