"""The pictures of experiments.analysis, each an answer to the question in its title.

Enters: plain arrays and numbers, and masks that say of what kind a video is. Leaves: PNG bytes, as from
`rdfer_jax.plots`.

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
from rdfer_jax.plots import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, tidy, to_png

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Epochs = Sequence[int | None]

_BLACK, _GRAY, _FAINT = "#1a1a1a", "#888888", "#bbbbbb"
#: Of the kinds of videos, in their order: clean and easy, clean but hard, flipped.
_KINDS = (BLUE, ORANGE, RED)
_LINES = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, _BLACK, _GRAY)
_MARKERS = "osD^vP*X"
#: At most so many epochs have room for a violin, and so many videos of a kind for a dot.
_VIOLINS, _DOTS = 10, 3000
#: The least loss that is drawn, in nats: the axis is logarithmic.
_LEAST_LOSS = 1e-4


def agreement(agreement_EB: Vector, kinds: Mapping[str, Mask], epochs: Epochs) -> bytes:
    """Draws the distribution of agreement over the epochs, a panel for each kind of video.

    Args:
      agreement_EB: numbers in [0, 1].
      kinds: up to three masks bool [B], by name.
      epochs: their numbers, None for one that is not known; at most ten of them are drawn.
    """
    drawn = np.unique(np.linspace(0, len(epochs) - 1, _VIOLINS).round().astype(int))
    figure, panels = _panels(len(kinds), 4.0, 4.6)
    edges = np.linspace(0, 1, 41)
    for axes, color, (kind, part_B) in zip(panels, _KINDS, kinds.items(), strict=False):
        for place, row_B in enumerate(agreement_EB[drawn][:, part_B]):
            if row_B.size:
                _violin(axes, place, row_B, edges, color)
        axes.set_title(f"{kind}: {part_B.sum():,} videos", fontsize=11, loc="left")
        axes.set_xticks(range(len(drawn)), [_epoch(epochs[index]) for index in drawn])
        axes.set_xlim(-0.6, len(drawn) - 0.4)
        axes.set_ylim(_floor(agreement_EB[drawn]), 1.01)
        axes.set_xlabel("epoch")
        tidy(axes)
    panels[0].set_ylabel("soft agreement of the video's clips\n(1: all clips predict the same)")
    handles = [
        panels[-1].fill_between([], [], color=_GRAY, alpha=0.35),
        *panels[-1].plot([], [], color=_BLACK, linewidth=4, solid_capstyle="butt"),
        *panels[-1].plot([], [], "o", color="white", markeredgecolor=_BLACK, markersize=6),
    ]
    names = "share of the videos (width)", "middle half of them", "median"
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(
        "Do the clips of hard videos disagree, and those of mislabelled ones agree? (training split)"
    )
    return to_png(figure)


def _violin(axes: Axes, place: float, values_B: Vector, edges: Vector, color: str) -> None:
    """Draws a histogram, mirrored, with its median and quartiles."""
    count = np.histogram(np.clip(values_B, 0, 1), edges)[0]
    width = 0.45 * count / count.max()
    outline = np.repeat(width, 2)
    heights = np.repeat(edges, 2)[1:-1]
    axes.fill_betweenx(heights, place - outline, place + outline, color=color, alpha=0.45, lw=0)
    low, median, high = np.quantile(values_B, (0.25, 0.5, 0.75))
    axes.plot([place] * 2, [low, high], color=_BLACK, linewidth=4, solid_capstyle="butt")
    axes.plot(place, median, "o", color="white", markeredgecolor=_BLACK, markersize=6)


def against(
    agreement_B: Vector,
    confidence_B: Vector,
    loss_B: Vector,
    kinds: Mapping[str, Mask],
    correlations: Mapping[str, Mapping[str, float | None]],
) -> bytes:
    """Draws agreement against confidence and against loss, a column for each kind of video.

    Args:
      agreement_B: numbers in [0, 1].
      confidence_B: maximum softmax of the clips' mean distribution, in [0, 1].
      loss_B: of the given label, in nats.
      kinds: up to three masks bool [B], by name.
      correlations: rank correlations of agreement with "confidence" and "loss", by kind.
    """
    figure, panels = _panels(len(kinds), 4.0, 8.2, rows=2)
    rng = np.random.default_rng(0)
    drawn_B = np.zeros(len(agreement_B), bool)
    for part_B in kinds.values():
        members = np.flatnonzero(part_B)
        drawn_B[rng.permutation(members)[:_DOTS]] = True
    rows = (
        ("confidence", confidence_B, "confidence: max softmax of the clips' mean"),
        ("loss", np.maximum(loss_B, _LEAST_LOSS), "loss of the given label (nats)"),
    )
    for row, (name, values_B, label) in zip(panels.reshape(2, -1), rows, strict=True):
        for axes, color, (kind, part_B) in zip(row, _KINDS, kinds.items(), strict=False):
            for shown_B, shade, size in ((drawn_B, _FAINT, 4), (drawn_B & part_B, color, 7)):
                axes.scatter(
                    values_B[shown_B],
                    agreement_B[shown_B],
                    s=size,
                    color=shade,
                    alpha=float(np.clip(400 / max(shown_B.sum(), 1), 0.25, 0.8)),
                    linewidth=0,
                    rasterized=True,
                )
            correlation = correlations[kind][name]
            text = "none" if correlation is None else f"{correlation:+.2f}"
            axes.set_title(f"rank correlation {text}", fontsize=9, loc="right", color=_BLACK)
            axes.set_title(f"{kind}: {part_B.sum():,}", fontsize=11, loc="left", color=color)
            axes.set_xlabel(label)
            axes.set_ylim(_floor(agreement_B), 1.01)
            tidy(axes)
            if name == "loss":
                axes.set_xscale("log")
                axes.set_xlim(float(values_B.min()) / 1.5, 1.5 * float(values_B.max()))
            else:
                axes.set_xlim(-0.02, 1.02)
        row[0].set_ylabel("soft agreement of the video's clips")
    figure.suptitle(
        "What does agreement know that confidence and loss do not? "
        "(a dot: a training video, gray: of the other kinds)"
    )
    return to_png(figure)


def auroc(
    found: Mapping[str, Mapping[str, Sequence[float | None]]], epochs: Epochs, memory: str
) -> bytes:
    """Draws the AUROC of every score over the epochs, a panel for each task.

    Args:
      found: E numbers by task and score; None where there is no AUROC.
      epochs: their numbers, None for one that is not known.
      memory: how the name of a mean over the epochs ends; its line is dashed.
    """
    figure, panels = _panels(len(found), 4.6, 6.4)
    for axes, (task, rows) in zip(panels, found.items(), strict=True):
        single = list(dict.fromkeys(name.removesuffix(memory) for name in rows))
        # A single epoch needs no curve: the scores then stand side by side.
        aside = np.linspace(-0.4, 0.4, len(rows)) if len(epochs) == 1 else np.zeros(len(rows))
        for shift, (name, row) in zip(aside, rows.items(), strict=True):
            style = single.index(name.removesuffix(memory)) % len(_LINES)
            axes.plot(
                [(epoch or 0) + shift for epoch in epochs],
                [_number(value) for value in row],
                "--" if name.endswith(memory) else "-",
                color=_LINES[style],
                marker=_MARKERS[style],
                markerfacecolor="white" if name.endswith(memory) else _LINES[style],
                markersize=5 if len(epochs) <= 20 else 0,
                linewidth=1.6,
                label=f"{'  -  ' if row[-1] is None else f'{row[-1]:.3f}'}  {name}",
            )
        axes.axhline(0.5, color=_GRAY, linewidth=1, linestyle=":")
        axes.annotate(
            "chance",
            (1, 0.5),
            (-2, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
            color=_GRAY,
            fontsize=9,
        )
        axes.set_title(f"find {task}", fontsize=11, loc="left")
        axes.set_xlabel("epoch")
        _epoch_axis(axes, epochs)
        tidy(axes)
        handles, names = axes.get_legend_handles_labels()
        best_first = sorted(range(len(names)), key=lambda index: names[index][:5], reverse=True)
        axes.legend(
            [handles[index] for index in best_first],
            [names[index] for index in best_first],
            title=f"after {'the last epoch' if epochs[-1] is None else f'epoch {epochs[-1]}'}",
            loc="upper left",
            bbox_to_anchor=(0, -0.14),
            frameon=False,
            fontsize=9,
            alignment="left",
        )
    least = [
        value
        for rows in found.values()
        for row in rows.values()
        for value in row
        if value is not None
    ]
    panels[0].set_ylim(min([0.45, *least]) - 0.02, 1.01)
    panels[0].set_ylabel("AUROC on the training split")
    figure.suptitle("Which score finds wrong labels, and which finds hard videos?")
    return to_png(figure)


def calibration(confidences: Mapping[str, Vector], correct_B: Mask) -> bytes:
    """Draws reliability, and risk against coverage, of several confidences.

    Args:
      confidences: float64 [B] in [0, 1], by name.
      correct_B: whether the prediction was right.
    """
    figure, (left, right) = _panels(2, 5.4, 5.4, same_y=False)
    left.plot([0, 1], [0, 1], ":", color=_GRAY, label="calibrated: accuracy = confidence")
    best = metrics.risk_coverage(correct_B, correct_B)
    for color, marker, (name, values_B) in zip(_LINES, _MARKERS, confidences.items(), strict=False):
        curve = metrics.reliability(values_B, correct_B)
        filled = curve.size > 0
        error = metrics.ece(values_B, correct_B)
        place, height = curve.confidence[filled], curve.accuracy[filled]
        left.plot(place, height, color=color, linewidth=1.2, alpha=0.8)
        share = curve.size[filled] / len(correct_B)
        left.scatter(
            place,
            height,
            12 + 300 * share,
            color=color,
            marker=marker,
            alpha=0.8,
            linewidth=0,
            label=f"{name}: ECE {error:.3f}",
        )
        risk = metrics.risk_coverage(values_B, correct_B)
        area = metrics.aurc(values_B, correct_B)
        right.plot(*risk, color=color, linewidth=1.6, label=f"{name}: AURC {area:.4f}")
    area = metrics.aurc(correct_B, correct_B)
    right.plot(*best, ":", color=_GRAY, label=f"best order: AURC {area:.4f}")
    left.set_title(
        "Is a prediction right as often as its confidence says?", fontsize=11, loc="left"
    )
    left.set_xlabel("confidence (mean of each of 15 bins; area: share of the videos)")
    left.set_ylabel("accuracy")
    left.set_xlim(-0.02, 1.02)
    left.set_ylim(-0.02, 1.02)
    right.set_title("Are the least confident predictions the wrong ones?", fontsize=11, loc="left")
    right.set_xlabel("coverage: share of the videos kept, the most confident first")
    right.set_ylabel("risk: share of errors among them")
    right.set_xlim(0, 1.02)
    right.set_ylim(bottom=0)
    for axes in (left, right):
        tidy(axes)
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    figure.suptitle(
        f"Test split: {len(correct_B):,} videos, accuracy {np.mean(correct_B):.1%}", fontsize=13
    )
    return to_png(figure)


def classes(found: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Draws what is known of each class, a row for each; a part that no class has is left out.

    Args:
      found: as `analysis.by_class` returns it.
    """
    parts = [
        (
            "Are flipped labels found?",
            "AUROC on the training split",
            "auroc_flipped",
            (BLUE, GREEN, PURPLE),
        ),
        ("How far do the clips agree?", "mean soft agreement", "agreement", _KINDS),
        ("Is the class recognised?", "recall on the test split", "recall", (_BLACK,)),
    ]
    parts = [part for part in parts if any(part[2] in row for row in found.values())]
    figure, panels = _panels(len(parts), 4.2, 2.4 + 0.34 * len(found))
    for axes, (title, label, key, colors) in zip(panels, parts, strict=True):
        cells = [row.get(key, {}) for row in found.values()]
        series = [cell if isinstance(cell, Mapping) else {label: cell} for cell in cells]
        names = list(dict.fromkeys(name for row in series for name in row))
        values = [[_number(row.get(name)) for row in series] for name in names]
        for color, marker, name, row in zip(
            itertools.cycle(colors), _MARKERS, names, values, strict=False
        ):
            axes.scatter(row, range(len(row)), 46, color, marker, alpha=0.85, lw=0, label=name)
        least = {"auroc_flipped": 0.5, "agreement": 1.0, "recall": 0.0}[key]
        floor = _floor(np.array([least, *(value for row in values for value in row)]))
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_xlabel(label)
        axes.set_xlim(floor, 1.015)
        tidy(axes)
        if len(names) > 1:
            below = (0, -0.7 / (0.34 * len(found) + 0.6))
            axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=below)
    panels[0].set_yticks(range(len(found)), list(found))
    panels[0].set_ylim(len(found) - 0.5, -0.5)
    panels[0].set_ylabel("class (in training: the given label)")
    figure.suptitle("Are some expressions harder to check than others?")
    return to_png(figure)


def _panels(
    columns: int, width: float, height: float, rows: int = 1, same_y: bool = True
) -> tuple[Figure, NDArray[Any]]:
    """A figure with panels of a width in inches, side by side; the panels as a vector."""
    figure = Figure(figsize=(width * columns, height), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, sharey=same_y, squeeze=False)
    return figure, panels.ravel()


def _floor(values: Vector) -> float:
    """Where an axis of shares starts: a little below a round number that is below all of them."""
    return float(np.floor(10 * np.nanmin(values)) / 10) - 0.015


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _epoch(epoch: int | None) -> str:
    return "final" if epoch is None else str(epoch)


def _epoch_axis(axes: Axes, epochs: Epochs) -> None:
    """Names epochs at whole numbers; a single one stands in the middle."""
    if len(epochs) == 1:
        axes.set_xticks([epochs[0] or 0], [_epoch(epochs[0])])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
