"""The charts of a report, drawn from what a run left.

Enters: rows of metrics.jsonl, predictions as plain arrays. Leaves: `Figure`s.

Shape letters: N clips.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from rdfer_jax import metrics
from rdfer_jax.html import percent
from rdfer_jax.report import intervals, svg

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Panels of the training curves: name, title, label of the axis, metrics by the end of their names.
PANELS = (
    ("loss", "Loss", "loss, nats", ("loss",)),
    ("scores", "How many are right", "share of clips", ("accuracy", "war", "uar")),
    ("rate", "Learning rate", "learning rate", ("learning_rate",)),
    ("gradient", "Size of the gradient", "norm, before it is clipped", ("grad_norm",)),
    ("kinds", "What the videos are taken for", "share of videos", ("clean", "hard", "noisy")),
    ("accord", "Agreement of a video's clips", "mean agreement", ("agreement",)),
)
#: Panels of shares, drawn from 0 to 100 %.
SHARES = ("scores", "kinds")
#: Bins of a histogram, groups of clips of equal number, points of a risk-coverage curve.
BINS, GROUPS, POINTS = 25, 10, 200
#: A risk-coverage curve starts at this coverage: the risk of a handful of clips is noise.
LEAST_COVERAGE = 0.02


class Key(NamedTuple):
    """An entry of a legend.

    Attributes:
      mark: bar, dot, line or rule.
      style: of the mark, s1 to s4.
      text: what it stands for.
    """

    mark: str
    style: str
    text: str


class Figure(NamedTuple):
    """A chart with its heading and its legend."""

    name: str
    title: str
    picture: Markup
    legend: Sequence[Key]


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """Draws the course of training, a panel for each of PANELS that has anything to show.

    Args:
      rows: as `writers.read_metrics` returns them.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = {}
    for panel, title, label, members in PANELS:
        chosen = [name for name in names if any(_ends(name, member) for member in members)]
        if chosen:
            found[panel] = _panel(
                panel, title, label, {name: _series(rows, name) for name in chosen}
            )
    return found


def histogram(
    name: str, title: str, label: str, values_N: Vector, is_above_N: Mask, names: tuple[str, str]
) -> Figure:
    """Draws how a value is distributed over two groups: one upward, the other downward.

    Args:
      name: of the figure on its page.
      title: its heading.
      label: what the value is.
      values_N: numbers in [0, 1].
      is_above_N: True for the clips of the upper group.
      names: of the upper and the lower group.
    """
    values_N = np.clip(values_N, 0, 1)
    low = _floor(values_N.tolist())
    edges = np.linspace(low, 1, BINS + 1)
    groups = [values_N[is_above_N], values_N[~is_above_N]]
    heights = [np.histogram(group, edges)[0] / max(len(group), 1) for group in groups]
    most = max(height.max() for height in heights)
    y = svg.axis_from_zero("share of the group", [-most, most], lambda v: svg.whole_percent(abs(v)))
    frame = svg.Frame(svg.axis(label, low, 1), y)
    marks, legend, medians = [], [], []
    for group, height, sign, style, text in zip(
        groups, heights, (1, -1), ("s1", "s2"), names, strict=True
    ):
        marks.append(svg.bars(frame, edges.tolist(), (sign * height).tolist(), style))
        legend.append(Key("bar", style, f"{text}: {len(group):,} clips"))
        if len(group):
            median = float(np.median(group))
            marks.append(svg.upright(frame, median, 0, y.high if sign > 0 else y.low))
            medians.append(f"{text}: {len(group):,} clips, median {median:.3f}")
    picture = svg.chart(name, title, "; ".join(medians) + ".", frame, *marks)
    return Figure(name, title, picture, legend)


class Tenth(NamedTuple):
    """Clips of about the same agreement: from, to, how many, and the share that is right."""

    low: float
    high: float
    size: int
    right: metrics.Interval


def tenths(agreement_N: Vector, correct_N: Mask) -> list[Tenth]:
    """Sorts clips by agreement into groups of equal number; equal ones stay in their order."""
    order = np.argsort(agreement_N, kind="stable")
    found = []
    for part in np.array_split(order, min(GROUPS, len(order))):
        values, right = agreement_N[part], int(correct_N[part].sum())
        found.append(
            Tenth(
                float(values.min()),
                float(values.max()),
                len(part),
                intervals.wilson(right, len(part)),
            )
        )
    return found


def accuracy_by_agreement(groups: Sequence[Tenth], overall: float) -> Figure:
    """Draws the share that is right for each of some groups, with its interval."""
    name, title = "tenths", "How many are right, by agreement"
    places = list(range(1, len(groups) + 1))
    x = svg.Axis(
        "groups, from the lowest to the highest agreement",
        0.4,
        len(groups) + 0.6,
        [(place, str(place)) for place in places],
    )
    frame = svg.Frame(x, svg.axis("share that is right", 0, 1, svg.whole_percent))
    hints = [
        f"agreement {g.low:.3f} to {g.high:.3f}: {percent(g.right.mean)} of {g.size} clips are right"
        for g in groups
    ]
    picture = svg.chart(
        name,
        title,
        f"From {hints[0]}, to {hints[-1]}.",
        frame,
        svg.level(frame, overall),
        svg.whiskers(frame, places, [g.right for g in groups], hints, "s1"),
    )
    legend = [
        Key("dot", "s1", "share that is right, with its interval"),
        Key("rule", "", f"all clips: {percent(overall)}"),
    ]
    return Figure(name, title, picture, legend)


def risk_coverage(scores: Mapping[str, Vector], correct_N: Mask) -> Figure:
    """Draws the share of errors among the most trusted clips, for each score of trust.

    Args:
      scores: numbers [N] by the name of the score, higher is more trusted.
      correct_N: whether the prediction is right.
    """
    name, title = "risk", "Errors left if only the surest count"
    orders = {**scores, "best possible order": correct_N.astype(np.float64)}
    count = len(correct_N)
    first = max(math.ceil(LEAST_COVERAGE * count), 1) - 1
    picked = np.unique(np.linspace(first, count - 1, POINTS).round().astype(int))
    found = {text: metrics.risk_coverage(score, correct_N) for text, score in orders.items()}
    everything = float(1 - correct_N.mean())
    highest = max(everything, *(float(curve.risk[picked].max()) for curve in found.values()))
    frame = svg.Frame(
        svg.axis("share of the clips that count", 0, 1, svg.whole_percent),
        svg.axis_from_zero("share of errors", [highest], svg.whole_percent),
    )
    marks, legend, words = [svg.level(frame, everything)], [], []
    for i, (text, curve) in enumerate(found.items(), start=1):
        xs, ys = curve.coverage[picked].tolist(), curve.risk[picked].tolist()
        marks.append(svg.line(frame, xs, ys, f"s{i}"))
        area = f"{text}: area {metrics.aurc(orders[text], correct_N):.4f}"
        legend.append(Key("line", f"s{i}", area))
        words.append(area)
    legend.append(Key("rule", "", f"all clips, or any order: {percent(everything)}"))
    return Figure(
        name, title, svg.chart(name, title, "; ".join(words) + ".", frame, *marks), legend
    )


def _panel(
    panel: str, title: str, label: str, series: Mapping[str, tuple[list[int], list[float]]]
) -> Figure:
    """Draws metrics over the steps."""
    steps = [step for some, _ in series.values() for step in some]
    values = [value for _, some in series.values() for value in some]
    if panel in SHARES:
        y = svg.axis(label, 0, 1, svg.whole_percent)
    elif panel == "accord":
        y = svg.axis(label, _floor(values), 1)
    else:
        y = svg.axis_from_zero(label, values)
    frame = svg.Frame(svg.axis("training step", 0, max(max(steps), 1)), y)
    marks, legend, words = [], [], []
    for i, (name, (xs, ys)) in enumerate(series.items()):
        style = f"s{i % 4 + 1}"
        marks.append(svg.line(frame, xs, ys, style))
        legend.append(Key("line", style, _readable(name)))
        finite = [value for value in ys if math.isfinite(value)]
        if finite:
            words.append(f"{_readable(name)} from {finite[0]:.4g} to {finite[-1]:.4g}")
    summary = f"Over {max(steps):,} steps: {', '.join(words)}."
    picture = svg.chart(panel, title, summary, frame, *marks)
    return Figure(panel, title, picture, legend if len(legend) > 1 else [])


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """The steps and values of a metric; NaN where it was not finite."""
    own = [row for row in rows if name in row]
    values = [math.nan if row[name] is None else float(row[name]) for row in own]
    return [row["step"] for row in own], values


def _ends(name: str, member: str) -> bool:
    return name == member or name.endswith(f"_{member}")


def _floor(values: Sequence[float]) -> float:
    """Where an axis of numbers in [0, 1] may start: at a tenth, below 1."""
    finite = [value for value in values if math.isfinite(value)]
    return max(0.0, min(math.floor(10 * min(finite, default=0)), 9) / 10)


def _readable(name: str) -> str:
    """The name of a metric as a reader sees it: test_war -> test WAR."""
    if name == "accuracy":
        return "training accuracy"
    return " ".join({"war": "WAR", "uar": "UAR"}.get(part, part) for part in name.split("_"))
