"""The charts of experiments.analysis; the title of each is the question that it answers.

Enters: plain arrays and numbers, and masks of the kinds of videos. Leaves: Matplotlib figures.

Shape letters: B videos, E epochs.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from rdfer_jax import metrics
from rdfer_jax.calibration import ece, reliability
from rdfer_jax.plots import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, RED, SKY, styled

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Epochs = Sequence[int | None]

_FAINT = "#bbbbbb"
#: Colors of the kinds of videos, in their order: clean and easy, clean but hard, mislabeled.
_KINDS = (BLUE, ORANGE, RED)
_LINES = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, INK, MUTED)
_MARKERS = "osD^vP*X"
#: Largest number of epochs with a violin, and of videos of a kind with a dot.
_VIOLINS, _DOTS = 10, 3000
#: Smallest loss shown, in nats: the axis is logarithmic.
_MIN_LOSS = 1e-4


@styled
def agreement(agreement_EB: Vector, kinds: Mapping[str, Mask], epochs: Epochs) -> Figure:
    """Draws the distribution of agreement over the epochs, a panel for each kind of video.

    Args:
      agreement_EB: numbers in [0, 1].
      kinds: up to three masks bool [B], by name.
      epochs: their numbers, None for an unknown one; at most ten of them are shown.
    """
    shown = np.unique(np.linspace(0, len(epochs) - 1, _VIOLINS).round().astype(int))
    figure, panels = _panels(len(kinds), 4.0, 4.6)
    edges = np.linspace(0, 1, 41)
    for axes, color, (kind, part_B) in zip(panels, _KINDS, kinds.items(), strict=False):
        for place, row_B in enumerate(agreement_EB[shown][:, part_B]):
            if row_B.size:
                _violin(axes, place, row_B, edges, color)
        axes.set_title(f"{kind}: {part_B.sum():,} videos", fontsize=11, loc="left")
        axes.set_xticks(range(len(shown)), [_epoch(epochs[index]) for index in shown])
        axes.set_xlim(-0.6, len(shown) - 0.4)
        axes.set_ylim(_floor(agreement_EB[shown]), 1.01)
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("soft agreement of the video's clips\n(1: all clips predict the same)")
    handles = [
        panels[-1].fill_between([], [], color=MUTED, alpha=0.35),
        *panels[-1].plot([], [], color=INK, linewidth=4, solid_capstyle="butt"),
        *panels[-1].plot([], [], "o", color="white", markeredgecolor=INK, markersize=6),
    ]
    names = "share of the videos (width)", "interquartile range", "median"
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(
        "Do the clips of hard videos disagree, and those of mislabeled videos agree? (training split)"
    )
    return figure


def _violin(axes: Axes, place: float, values_B: Vector, edges: Vector, color: str) -> None:
    """Draws a mirrored histogram with its median and quartiles."""
    count = np.histogram(np.clip(values_B, 0, 1), edges)[0]
    width = 0.45 * count / count.max()
    outline = np.repeat(width, 2)
    heights = np.repeat(edges, 2)[1:-1]
    axes.fill_betweenx(heights, place - outline, place + outline, color=color, alpha=0.45, lw=0)
    low, median, high = np.quantile(values_B, (0.25, 0.5, 0.75))
    axes.plot([place] * 2, [low, high], color=INK, linewidth=4, solid_capstyle="butt")
    axes.plot(place, median, "o", color="white", markeredgecolor=INK, markersize=6)


@styled
def against(
    agreement_B: Vector,
    confidence_B: Vector,
    loss_B: Vector,
    kinds: Mapping[str, Mask],
    correlations: Mapping[str, Mapping[str, float | None]],
) -> Figure:
    """Draws agreement against confidence and against loss, a column for each kind of video.

    Args:
      agreement_B: numbers in [0, 1].
      confidence_B: maximum softmax of the clips' mean distribution, in [0, 1].
      loss_B: loss of the given label, in nats.
      kinds: up to three masks bool [B], by name.
      correlations: rank correlation of agreement with "confidence" and with "loss", by kind.
    """
    figure, panels = _panels(len(kinds), 4.0, 8.2, rows=2)
    rng = np.random.default_rng(0)
    sampled_B = np.zeros(len(agreement_B), bool)
    for part_B in kinds.values():
        sampled_B[rng.permutation(np.flatnonzero(part_B))[:_DOTS]] = True
    rows = (
        ("confidence", confidence_B, "confidence: max softmax of the clips' mean"),
        ("loss", np.maximum(loss_B, _MIN_LOSS), "loss of the given label (nats)"),
    )
    for row, (name, values_B, label) in zip(panels.reshape(2, -1), rows, strict=True):
        for axes, color, (kind, part_B) in zip(row, _KINDS, kinds.items(), strict=False):
            _dots(axes, values_B[sampled_B], agreement_B[sampled_B], part_B[sampled_B], color)
            correlation = correlations[kind][name]
            text = "none" if correlation is None else f"{correlation:+.2f}"
            axes.set_title(f"rank correlation {text}", fontsize=9, loc="right", color=INK)
            axes.set_title(f"{kind}: {part_B.sum():,}", fontsize=11, loc="left", color=color)
            axes.set_xlabel(label)
            axes.set_ylim(_floor(agreement_B), 1.01)
            if name == "loss":
                axes.set_xscale("log")
                axes.set_xlim(float(values_B.min()) / 1.5, 1.5 * float(values_B.max()))
            else:
                axes.set_xlim(-0.02, 1.02)
        row[0].set_ylabel("soft agreement of the video's clips")
    figure.suptitle(
        "What does agreement show that confidence and loss do not? "
        "(a dot is a training video; gray: of the other kinds)"
    )
    return figure


def _dots(axes: Axes, x_B: Vector, y_B: Vector, part_B: Mask, color: str) -> None:
    """Draws all videos in gray, and on top of them those of one kind in color."""
    for mask_B, shade, size in ((np.ones_like(part_B), _FAINT, 4), (part_B, color, 7)):
        alpha = float(np.clip(400 / max(mask_B.sum(), 1), 0.25, 0.8))
        axes.scatter(
            x_B[mask_B], y_B[mask_B], s=size, color=shade, alpha=alpha, linewidth=0, rasterized=True
        )


@styled
def auroc(
    aurocs: Mapping[str, Mapping[str, Sequence[float | None]]], epochs: Epochs, memory: str
) -> Figure:
    """Draws the AUROC of every score over the epochs, a panel for each task.

    Args:
      aurocs: E numbers by task and score; None where AUROC is undefined.
      epochs: their numbers, None for an unknown one.
      memory: suffix of the name of a mean over the epochs; its line is dashed.
    """
    figure, panels = _panels(len(aurocs), 4.6, 6.4)
    for axes, (task, by_score) in zip(panels, aurocs.items(), strict=True):
        _score_lines(axes, by_score, epochs, memory)
        axes.set_title(f"find {task}", fontsize=11, loc="left")
        axes.set_xlabel("epoch")
        _epoch_axis(axes, epochs)
        handles, names = axes.get_legend_handles_labels()
        best_first = sorted(range(len(names)), key=lambda index: names[index][:5], reverse=True)
        axes.legend(
            [handles[index] for index in best_first], [names[index] for index in best_first],
            title=f"after {'the last epoch' if epochs[-1] is None else f'epoch {epochs[-1]}'}",
            loc="upper left", bbox_to_anchor=(0, -0.14), fontsize=9, alignment="left",
        )  # fmt: skip
    known = [v for by_score in aurocs.values() for row in by_score.values() for v in row]
    panels[0].set_ylim(min([0.45, *(v for v in known if v is not None)]) - 0.02, 1.01)
    panels[0].set_ylabel("AUROC on the training split")
    figure.suptitle("Which score finds wrong labels, and which finds hard videos?")
    return figure


def _score_lines(
    axes: Axes, by_score: Mapping[str, Sequence[float | None]], epochs: Epochs, memory: str
) -> None:
    """Draws a line for each score, with its last value in the legend; and the level of chance."""
    bases = list(dict.fromkeys(name.removesuffix(memory) for name in by_score))
    # A single epoch needs no curve: its scores stand side by side.
    shifts = np.linspace(-0.4, 0.4, len(by_score)) if len(epochs) == 1 else np.zeros(len(by_score))
    for shift, (name, row) in zip(shifts, by_score.items(), strict=True):
        style = bases.index(name.removesuffix(memory)) % len(_LINES)
        is_mean = name.endswith(memory)
        axes.plot(
            [(epoch or 0) + shift for epoch in epochs],
            [_number(value) for value in row],
            "--" if is_mean else "-",
            color=_LINES[style],
            marker=_MARKERS[style],
            markerfacecolor="white" if is_mean else _LINES[style],
            markersize=5 if len(epochs) <= 20 else 0,
            linewidth=1.6,
            label=f"{'  -  ' if row[-1] is None else f'{row[-1]:.3f}'}  {name}",
        )
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle=":")
    axes.annotate(
        "chance", (1, 0.5), (-2, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", color=MUTED, fontsize=9,
    )  # fmt: skip


@styled
def calibration(confidences: Mapping[str, Vector], correct_B: Mask) -> Figure:
    """Draws reliability and risk against coverage for several confidences.

    Args:
      confidences: float64 [B] in [0, 1], by name.
      correct_B: whether the prediction is right.
    """
    figure, (left, right) = _panels(2, 5.4, 5.4, same_y=False)
    _reliability(left, confidences, correct_B)
    _risk(right, confidences, correct_B)
    for axes in (left, right):
        axes.legend(fontsize=9, loc="upper left")
    figure.suptitle(
        f"Test split: {len(correct_B):,} videos, accuracy {np.mean(correct_B):.1%}", fontsize=13
    )
    return figure


def _reliability(axes: Axes, confidences: Mapping[str, Vector], correct_B: Mask) -> None:
    axes.plot([0, 1], [0, 1], ":", color=MUTED, label="calibrated: accuracy = confidence")
    for color, marker, (name, values_B) in zip(_LINES, _MARKERS, confidences.items(), strict=False):
        curve = reliability(values_B, correct_B)
        filled = curve.size > 0
        x, y = curve.confidence[filled], curve.accuracy[filled]
        axes.plot(x, y, color=color, linewidth=1.2, alpha=0.8)
        axes.scatter(
            x, y, 12 + 300 * curve.size[filled] / len(correct_B), color=color, marker=marker,
            alpha=0.8, linewidth=0, label=f"{name}: ECE {ece(values_B, correct_B):.3f}",
        )  # fmt: skip
    axes.set_title("Is accuracy equal to confidence?", fontsize=11, loc="left")
    axes.set_xlabel("confidence (mean of each of 15 bins; area: share of the videos)")
    axes.set_ylabel("accuracy")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)


def _risk(axes: Axes, confidences: Mapping[str, Vector], correct_B: Mask) -> None:
    for color, (name, values_B) in zip(_LINES, confidences.items(), strict=False):
        label = f"{name}: AURC {metrics.aurc(values_B, correct_B):.4f}"
        risk = metrics.risk_coverage(values_B, correct_B)
        axes.plot(*risk, color=color, linewidth=1.6, label=label)
    label = f"best order: AURC {metrics.aurc(correct_B, correct_B):.4f}"
    axes.plot(*metrics.risk_coverage(correct_B, correct_B), ":", color=MUTED, label=label)
    axes.set_title("Are the least confident predictions wrong?", fontsize=11, loc="left")
    axes.set_xlabel("coverage: share of the videos, most confident first")
    axes.set_ylabel("risk: share of errors")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)


@styled
def classes(by_class: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the numbers of each class, a row per class; a panel without numbers is left out.

    Args:
      by_class: as `analysis.by_class` returns it.
    """
    parts = [
        ("Are wrong labels found?", "AUROC on the training split", "auroc_flipped",
         (BLUE, GREEN, PURPLE), 0.5),
        ("Do the clips agree?", "mean soft agreement", "agreement", _KINDS, 1.0),
        ("Is the class recognized?", "recall on the test split", "recall", (INK,), 0.0),
    ]  # fmt: skip
    parts = [part for part in parts if any(part[2] in row for row in by_class.values())]
    figure, panels = _panels(len(parts), 4.2, 2.4 + 0.34 * len(by_class))
    for axes, (title, label, key, colors, highest_floor) in zip(panels, parts, strict=True):
        cells = [row.get(key, {}) for row in by_class.values()]
        series = [cell if isinstance(cell, Mapping) else {label: cell} for cell in cells]
        names = list(dict.fromkeys(name for row in series for name in row))
        values = [[_number(row.get(name)) for row in series] for name in names]
        for color, marker, name, row in zip(
            itertools.cycle(colors), _MARKERS, names, values, strict=False
        ):
            axes.scatter(
                row, range(len(row)), s=46, c=color, marker=marker, alpha=0.85, lw=0, label=name
            )
        floor = _floor(np.array([highest_floor, *(value for row in values for value in row)]))
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_xlabel(label)
        axes.set_xlim(floor, 1.015)
        if len(names) > 1:
            below = (0, -0.7 / (0.34 * len(by_class) + 0.6))
            axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=below)
    panels[0].set_yticks(range(len(by_class)), list(by_class))
    panels[0].set_ylim(len(by_class) - 0.5, -0.5)
    panels[0].set_ylabel("class (in training: the given label)")
    figure.suptitle("Are labels of some expressions harder to check?")
    return figure


def _panels(
    columns: int, width: float, height: float, rows: int = 1, same_y: bool = True
) -> tuple[Figure, NDArray[Any]]:
    """Returns a figure and its panels as a vector; `width` is in inches per panel, `height` in total."""
    figure = Figure(figsize=(width * columns, height), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=same_y, squeeze=False)
    return figure, panels.ravel()


def _floor(values: Vector) -> float:
    """Returns where an axis of shares starts: slightly below the largest tenth below all values."""
    return float(np.floor(10 * np.nanmin(values)) / 10) - 0.015


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _epoch(epoch: int | None) -> str:
    return "final" if epoch is None else str(epoch)


def _epoch_axis(axes: Axes, epochs: Epochs) -> None:
    """Labels epochs with whole numbers; a single epoch is centered."""
    if len(epochs) == 1:
        axes.set_xticks([epochs[0] or 0], [_epoch(epochs[0])])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
