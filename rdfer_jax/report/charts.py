"""The charts of a report.

Enters: rows of metrics.jsonl, predictions as plain arrays. Leaves: `Chart`s for the page.

Shape letters: N clips.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from rdfer_jax import intervals, metrics, plots
from rdfer_jax.html import percent
from rdfer_jax.plots import BLUE, GREEN, INK, RED, WIDTH, styled

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Groups of clips with similar agreement, and points of a risk-coverage curve.
GROUPS, POINTS = 10, 200
#: Smallest coverage of a risk-coverage curve: the risk of a handful of clips is noise.
MIN_COVERAGE = 0.02
_LINES = ((BLUE, "-"), (RED, "--"), (GREEN, ":"))


class Chart(NamedTuple):
    """A chart with its heading."""

    title: str
    svg: Markup


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Chart]:
    """Returns the training curves by the name of their panel, for the panels that have any.

    Args:
      rows: rows as `writers.read_metrics` returns them.
    """
    charts = {}
    for panel, by_name in plots.curves(rows).items():
        last = max(steps[-1] for steps, _ in by_name.values())
        changes = [_change(name, values) for name, (_, values) in by_name.items()]
        summary = f"Over {last:,} steps: {', '.join(filter(None, changes))}."
        title = plots.PANELS[panel].title
        figure = plots.curves_figure(panel, by_name)
        charts[panel] = Chart(title, plots.to_svg(figure, panel, title, summary))
    return charts


def histogram(
    name: str, title: str, label: str, values_N: Vector, is_first_N: Mask, names: tuple[str, str]
) -> Chart:
    """Returns the distribution of a value in two groups.

    Args:
      name: name of the chart on its page.
      title: heading.
      label: what the value is.
      values_N: numbers in [0, 1].
      is_first_N: True for the clips of the first group.
      names: names of the two groups.
    """
    groups = {names[0]: (BLUE, is_first_N), names[1]: (RED, ~is_first_N)}
    summary = "; ".join(
        f"{group}: {mask_N.sum():,} clips, median {np.median(values_N[mask_N]):.3f}"
        for group, (_, mask_N) in groups.items()
        if mask_N.any()
    )
    figure = plots.histograms(values_N, groups, label)
    return Chart(title, plots.to_svg(figure, name, title, f"{summary}."))


class Group(NamedTuple):
    """Clips of similar agreement: lowest and highest agreement, number of clips, accuracy."""

    low: float
    high: float
    size: int
    accuracy: metrics.Interval


def group_by_agreement(agreement_N: Vector, correct_N: Mask) -> list[Group]:
    """Sorts clips by agreement into groups of equal size; ties stay in their order."""
    order = np.argsort(agreement_N, kind="stable")
    groups = []
    for members in np.array_split(order, min(GROUPS, len(order))):
        values, right = agreement_N[members], int(correct_N[members].sum())
        accuracy = intervals.wilson(right, len(members))
        groups.append(Group(float(values.min()), float(values.max()), len(members), accuracy))
    return groups


def accuracy_by_agreement(groups: Sequence[Group], overall: float) -> Chart:
    """Returns the accuracy of each group with its interval.

    Args:
      groups: groups of clips, lowest agreement first.
      overall: accuracy on all clips.
    """
    title = "Accuracy by agreement"
    texts = [
        f"agreement {g.low:.3f} to {g.high:.3f}: {percent(g.accuracy.mean)} of {g.size} clips are right"
        for g in groups
    ]
    svg = plots.to_svg(
        _accuracy_figure(groups, overall),
        "by-agreement",
        title,
        f"From {texts[0]}, to {texts[-1]}.",
    )
    return Chart(title, svg)


@styled
def _accuracy_figure(groups: Sequence[Group], overall: float) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    places = range(1, len(groups) + 1)
    mean, low, high = np.array([group.accuracy for group in groups]).T
    axes.errorbar(
        places, mean, [mean - low, high - mean],
        fmt="o", color=BLUE, markersize=5, label="accuracy with 95% interval",
    )  # fmt: skip
    axes.axhline(overall, color=INK, linestyle="--", linewidth=1.2, label=_all_clips(overall))
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0.4, len(groups) + 0.6)
    axes.set_xticks(places)
    axes.set_xlabel("group, from lowest to highest agreement")
    axes.set_ylabel("accuracy")
    _legend_below(figure, columns=1)
    return figure


def risk_coverage(scores: Mapping[str, Vector], correct_N: Mask) -> Chart:
    """Returns the error rate among the most trusted clips, for several measures of trust.

    Args:
      scores: numbers [N] by name, higher for more trusted clips.
      correct_N: whether the prediction is right.
    """
    title = "Errors among the most certain predictions"
    orders = {**scores, "best possible order": correct_N.astype(np.float64)}
    areas = {
        name: f"{name}: area {metrics.aurc(score, correct_N):.4f}" for name, score in orders.items()
    }
    figure = _risk_figure(orders, areas, correct_N)
    return Chart(title, plots.to_svg(figure, "risk", title, "; ".join(areas.values()) + "."))


@styled
def _risk_figure(
    orders: Mapping[str, Vector], labels: Mapping[str, str], correct_N: Mask
) -> Figure:
    count, overall = len(correct_N), float(1 - correct_N.mean())
    first = max(math.ceil(MIN_COVERAGE * count), 1) - 1
    shown = np.unique(np.linspace(first, count - 1, POINTS).round().astype(int))
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, score), (color, line) in zip(orders.items(), _LINES, strict=True):
        curve = metrics.risk_coverage(score, correct_N)
        axes.plot(
            curve.coverage[shown], curve.risk[shown], line, color=color, label=labels[name],
            linewidth=1.8, marker="o" if len(shown) == 1 else None,
        )  # fmt: skip
    axes.axhline(overall, color=INK, linestyle="--", linewidth=1, label=_all_clips(overall))
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, max(1.05 * axes.get_ylim()[1], 0.01))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("coverage: share of clips, most certain first")
    axes.set_ylabel("share of errors")
    _legend_below(figure, columns=1)
    return figure


def _legend_below(figure: Figure, columns: int) -> None:
    figure.legend(loc="outside lower center", ncols=columns, fontsize=10)


def _all_clips(share: float) -> str:
    return f"all clips: {percent(share)}"


def _change(name: str, values: Sequence[float]) -> str:
    """First and last value of a metric in words; "" if none is finite."""
    finite = [value for value in values if math.isfinite(value)]
    return f"{plots.readable(name)} from {finite[0]:.4g} to {finite[-1]:.4g}" if finite else ""
