"""How good is the label audit, beside cleanlab, on simulated predictions with known wrong labels?

    python -m experiments.audit_grid --output=runs/audit_grid [--seeds=0,1,2,3,4] [--sizes=500,4000]

A cell is a kind of noise, a rate, a kind of network and a number of videos; see experiments.simulated. All
contestants get the same probabilities of K = 5 clips. Needs no network and no data set; it takes minutes.
Writes results.json (every cell and seed) and results.md. The settings of the audit were chosen on the seeds
from 100 on.

Contestants:
- audit: rdfer_jax.find_label_issues.
- before: the audit of earlier versions: the likelihood fit's share, in the order of the odds.
- cleanlab: get_label_quality_scores on the mean of the clips, by each method; the ensemble's scores of the
  clips; and find_label_issues with each filter. The best of them in a cell, by its mean over the seeds,
  counts, which nobody can choose without the truth.

Figures: average precision of the order (ap), F1 of the list (f1), the estimated share of wrong labels, and
the precision of lists with a promise.
"""

import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from etils import epath

from benchmarks import harness
from experiments import over_seeds
from experiments.simulated import NETWORKS, NOISES, Floats, Simulated, simulate
from rdfer_jax import find_label_issues, paths
from rdfer_jax.labels.noise_matrix import Ints, fit_noise, noise_matrix

RATES = (0.1, 0.2, 0.3, 0.4)
#: Promised precisions of a list.
PROMISES = (0.8, 0.9, 0.95)
METHODS = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
FILTERS = (
    "prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given",
    "low_normalized_margin", "low_self_confidence",
)  # fmt: skip


class Cell(NamedTuple):
    """A kind of simulated data set."""

    noise: str
    rate: float
    network: str
    videos: int


def cells(
    sizes: Sequence[int],
    noises: Sequence[str] = NOISES,
    rates: Sequence[float] = RATES,
    networks: Sequence[str] = NETWORKS,
) -> list[Cell]:
    """Returns the cells of a grid, those without wrong labels first."""
    nothing = [Cell("none", 0.0, network, n) for n in sizes for network in networks]
    grid = itertools.product(noises, rates, networks, sizes)
    return nothing + [Cell(*values) for values in grid]


def average_precision(score_N: Floats, is_wrong_N: np.ndarray) -> float:
    """Returns the mean precision at the ranks of the wrong labels; ties are in the order of the videos.

    NaN if nothing is wrong.
    """
    hits_N = is_wrong_N[np.argsort(-score_N, kind="stable")]
    ranks = np.flatnonzero(hits_N) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean()) if len(ranks) else float("nan")


def f1(listed_N: np.ndarray, is_wrong_N: np.ndarray) -> float:
    """Returns the F1 of a list of wrong labels; NaN if nothing is wrong."""
    if not is_wrong_N.any():
        return float("nan")
    return float(2 * (listed_N & is_wrong_N).sum() / (listed_N.sum() + is_wrong_N.sum()))


def figures(data: Simulated) -> dict[str, float]:
    """Returns the figures of all contestants on a data set; those of cleanlab start with its name."""
    wrong_N, mean_NC = data.is_wrong, data.probs.mean(axis=1)
    ours = find_label_issues(data.label, data.probs)
    listed_N = ours.kind == "mislabeled"
    found = {
        "share": float(wrong_N.mean()),
        "audit ap": average_precision(-ours.rank.astype(float), wrong_N),
        "audit f1": f1(listed_N, wrong_N),
        "audit called": float(listed_N.mean()),
        "audit share": ours.share.estimate,
        "audit low": ours.share.low,
        "audit high": ours.share.high,
        "audit told": float(ours.share.told),
    }
    for promise in PROMISES:
        kept_N = ours.false_alarms <= 1 - promise + 1e-9
        found[f"listed {promise}"] = float(kept_N.mean())
        found[f"right {promise}"] = float((kept_N & wrong_N).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cleanlab warns of classes without an issue
        theirs = _cleanlab(data, mean_NC, wrong_N)
    return found | _before(data.label, mean_NC, wrong_N) | theirs


def _before(label_N: Ints, mean_NC: Floats, wrong_N: np.ndarray) -> dict[str, float]:
    at_label_NC = np.eye(mean_NC.shape[1], dtype=bool)[label_N]
    p_label_N, p_other_N = mean_NC[at_label_NC], np.where(at_label_NC, -1, mean_NC).max(axis=1)
    score_N = p_other_N / (p_label_N + p_other_N)
    share = fit_noise(label_N, mean_NC).share
    rank_N = np.argsort(np.argsort(-score_N, kind="stable"))
    listed_N = (rank_N < round(share * len(label_N))) & (score_N > 0.5)
    return {
        "before ap": average_precision(score_N, wrong_N),
        "before f1": f1(listed_N, wrong_N),
        "before called": float(listed_N.mean()),
        "before share": share,
    }


def _cleanlab(data: Simulated, mean_NC: Floats, wrong_N: np.ndarray) -> dict[str, float]:
    from cleanlab import filter as filters
    from cleanlab import rank

    scores = {m: rank.get_label_quality_scores(data.label, mean_NC, method=m) for m in METHODS}
    scores["ensemble"] = rank.get_label_quality_ensemble_scores(
        data.label, list(data.probs.transpose(1, 0, 2)), verbose=False
    )
    found = {f"cleanlab ap {m}": average_precision(-s, wrong_N) for m, s in scores.items()}
    for name in FILTERS:
        listed_N = filters.find_label_issues(data.label, mean_NC, filter_by=name, n_jobs=1)
        found[f"cleanlab f1 {name}"] = f1(listed_N, wrong_N)
        found[f"cleanlab called {name}"] = float(listed_N.mean())
    return found | {"cleanlab share": noise_matrix(data.label, mean_NC).share}


def measure(cell: Cell, seeds: Iterable[int]) -> dict[int, dict[str, float]]:
    """Returns the figures of a cell by seed."""
    noise = "symmetric" if cell.noise == "none" else cell.noise
    return {
        seed: figures(simulate(cell.videos, noise, cell.rate, cell.network, seed)) for seed in seeds
    }


def summary(by_seed: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Returns the figures of a cell: means over seeds, the best of cleanlab, and the differences to it."""
    found: dict[str, Any] = {
        name: float(np.mean([figures[name] for figures in by_seed.values()]))
        for name in next(iter(by_seed.values()))
    }
    for figure in ("ap", "f1"):
        names = [name for name in found if name.startswith(f"cleanlab {figure} ")]
        best = max(names, key=lambda name: found[name])
        found[f"cleanlab {figure}"] = found[best]
        for ours in ("audit", "before"):
            paired = over_seeds.paired(by_seed, by_seed, f"{ours} {figure}", best)
            found[f"{ours} {figure} minus cleanlab"] = over_seeds.to_dict(paired)
    return found


def overview(rows: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    """Returns Markdown tables: groups of cells, then what is worse than cleanlab."""
    wrong = [(cell, row) for cell, row in rows if cell.rate]
    return "\n\n".join(
        [
            "Order and list; in points, against the best of cleanlab in each cell.",
            _compared(wrong),
            "Share of wrong labels.",
            _shares(rows),
            "Lists with a promise: all videos of a group of cells together.",
            _promises(wrong),
            "Nothing wrong: videos called mislabeled.",
            _nothing([(cell, row) for cell, row in rows if not cell.rate]),
        ]
    )


def _groups(rows: Sequence[tuple[Cell, Any]]) -> dict[str, list[Any]]:
    """Groups of cells by name: by noise and network, by size, and all."""
    groups: dict[str, list[Any]] = {}
    for cell, row in rows:
        for name in (f"{cell.noise}, {cell.network}", f"{cell.videos:,} videos", "all"):
            groups.setdefault(name, []).append(row)
    order = [name for name in groups if "," in name and "videos" not in name]
    return {n: groups[n] for n in [*order, *(n for n in groups if n not in order)]}


def _compared(rows: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    lines = [
        ["cells", "AP: audit", "before", "cleanlab", "audit minus cleanlab", "worst cell",
         "F1: audit", "before", "cleanlab", "audit minus cleanlab", "worst cell"]
    ]  # fmt: skip
    for name, group in _groups(rows).items():
        line = [f"{name} ({len(group)})"]
        for figure in ("ap", "f1"):
            for who in ("audit", "before", "cleanlab"):
                line.append(f"{100 * np.mean([row[f'{who} {figure}'] for row in group]):.1f}")
            difference = [row[f"audit {figure} minus cleanlab"]["mean"] for row in group]
            line += [_mean(difference), f"{100 * min(difference):+.1f}"]
        lines.append(line)
    return harness.table(lines)


def _mean(values: Sequence[float]) -> str:
    """Mean of differences over cells in points, and its 95 % interval."""
    return over_seeds.points(over_seeds.to_dict(over_seeds.mean_interval(values)))


def _shares(rows: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    lines = [["noise", "rate", "true", "audit", "ends", "told", "before", "confident learning"]]
    by: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for cell, row in rows:
        by.setdefault((cell.noise, cell.rate), []).append(row)
    for (noise, rate), group in by.items():
        names = ("share", *(f"audit {n}" for n in ("share", "low", "high", "told")),
                 "before share", "cleanlab share")  # fmt: skip
        mean = {name: float(np.mean([row[name] for row in group])) for name in names}
        lines.append(
            [noise, f"{rate:.0%}", f"{mean['share']:.1%}", f"{mean['audit share']:.1%}",
             f"{mean['audit low']:.1%} to {mean['audit high']:.1%}", f"{mean['audit told']:.0%}",
             f"{mean['before share']:.1%}", f"{mean['cleanlab share']:.1%}"]
        )  # fmt: skip
    return harness.table(lines)


def _promises(rows: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    lines = [["cells", *(f"{p:.0%}: listed, true precision" for p in PROMISES)]]
    for name, group in _groups(rows).items():
        line = [name]
        for promise in PROMISES:
            listed = float(np.mean([row[f"listed {promise}"] for row in group]))
            right = float(np.mean([row[f"right {promise}"] for row in group]))
            line.append(f"{listed:.1%}, {right / listed:.1%}" if listed else "none")
        lines.append(line)
    return harness.table(lines)


def _nothing(rows: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    default = f"cleanlab called {FILTERS[0]}"
    lines = [["network", "videos", "audit", "before", "cleanlab"]]
    for cell, row in rows:
        called = (row[name] for name in ("audit called", "before called", default))
        lines.append([cell.network, f"{cell.videos:,}", *(f"{value:.2%}" for value in called)])
    return harness.table(lines)


def main(_: Sequence[str]) -> None:
    """Measures all cells, prints the tables and writes them."""
    seeds = [int(seed) for seed in flags.FLAGS.seeds]
    rows, report = [], []
    chosen = cells(
        [int(size) for size in flags.FLAGS.sizes],
        flags.FLAGS.noises,
        [float(rate) for rate in flags.FLAGS.rates],
        flags.FLAGS.networks,
    )
    for cell in chosen:
        by_seed = measure(cell, seeds)
        rows.append((cell, summary(by_seed)))
        report.append(cell._asdict() | {"by_seed": by_seed, "summary": rows[-1][1]})
    text = overview(rows)
    folder = epath.Path(flags.FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(harness.to_json({"seeds": seeds, "cells": report}))
    (folder / "results.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    flags.DEFINE_list("seeds", "0,1,2,3,4", "Seeds of the simulations.")
    flags.DEFINE_list("sizes", "500,4000", "Numbers of videos.")
    flags.DEFINE_list("noises", list(NOISES), "Kinds of noise.")
    flags.DEFINE_list("rates", [str(rate) for rate in RATES], "Shares of wrong labels.")
    flags.DEFINE_list("networks", list(NETWORKS), "Kinds of networks.")
    paths.DEFINE_path("output", "runs/audit_grid", "Folder for the results.")
    app.run(main)
