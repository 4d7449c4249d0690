"""Pictures of results: confusion matrix, training curves, agreement by kind of clip.

Enters: plain arrays, rows of metrics.jsonl. Leaves: PNG bytes, which `save` writes and `to_rgb`
decodes for TensorBoard. Matplotlib is used without pyplot, so there is no display, no global
state and nothing to close.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
)
KIND_COLORS = {"clean": BLUE, "hard": ORANGE, "noisy": RED}

# The panels of the training curves: title, label of the axis, names of the metrics.
_PANELS = (
    ("Loss", "nats", ("loss",)),
    ("Accuracy (WAR) and UAR", "share", ("accuracy", "war", "uar")),
    ("Agreement and kinds of videos", "share", ("agreement", "clean", "hard", "noisy")),
)
_LINES = ("-", "--", ":", "-.")
_CURVE_COLORS = {
    "loss": BLUE,
    "accuracy": SKY,
    "war": BLUE,
    "uar": GREEN,
    "agreement": PURPLE,
    **KIND_COLORS,
}


def confusion_matrix_figure(
    confusion_CC: ArrayLike, class_names: Sequence[str], title: str = ""
) -> bytes:
    """Draws a confusion matrix: coloured by the share of the row, with percent and counts.

    Args:
      confusion_CC: counts [C, C], rows true, columns predicted.
      class_names: C names.
      title: above the picture.

    Returns:
      A PNG.

    Raises:
      ValueError: the names do not fit the matrix.
    """
    confusion_CC = np.asarray(confusion_CC)
    num_classes = len(class_names)
    if confusion_CC.shape != (num_classes, num_classes):
        raise ValueError(f"{num_classes} class names for a matrix {confusion_CC.shape}")
    occurrences_C = confusion_CC.sum(axis=1)
    share_CC = confusion_CC / np.maximum(occurrences_C, 1)[:, None]

    # Inches of a cell: large ones for few classes, but never smaller than its two lines of text.
    cell = float(np.clip(7 / num_classes, 0.46, 0.95))
    font = 11 if num_classes <= 8 else 9 if num_classes <= 15 else 6.5
    names_font = min(font + 1, 10)
    figure = Figure(figsize=(cell * num_classes, cell * num_classes), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))  # Names and title lie outside; `to_png` makes room.
    image = axes.imshow(share_CC, cmap="Blues", vmin=0, vmax=1)
    for row in range(num_classes):
        for column in range(num_classes):
            count = confusion_CC[row, column]
            if not count:
                continue
            share = share_CC[row, column]
            axes.text(
                column,
                row,
                f"{100 * share:.0f}%\n{count}",
                ha="center",
                va="center",
                fontsize=font,
                linespacing=1.15,
                color="white" if share > 0.6 else "#1a1a1a",
                fontweight="bold" if row == column else "normal",
            )
    axes.set_xticks(
        range(num_classes), class_names, rotation=45, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(
        range(num_classes),
        [
            f"{name} ({count:,})" if count else f"{name} (no clips)"
            for name, count in zip(class_names, occurrences_C, strict=True)
        ],
    )
    axes.tick_params(labelsize=names_font, length=0)
    axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted", fontsize=names_font + 1)
    axes.set_ylabel("true (clips)", fontsize=names_font + 1)
    axes.set_title(title, fontsize=names_font + 3, pad=10)
    bar = figure.add_axes((1.02, 0, 0.16 / (cell * num_classes), 1))
    figure.colorbar(image, cax=bar, label="share of the true class")
    bar.tick_params(labelsize=names_font - 1)
    return to_png(figure)


def training_curves(rows: Sequence[Mapping[str, Any]], title: str = "") -> bytes:
    """Draws what metrics.jsonl holds: loss, accuracy with WAR and UAR, agreement with the kinds.

    A metric belongs to a panel by the end of its name, so that "agreement" and "test_agreement"
    share one, and a colour; the kind of line tells apart what comes before the end.

    Args:
      rows: as `writers.read_metrics` returns them: dicts with "step" and scalars by name, where
        None is a value that was not finite. Names that belong to no panel are left out.
      title: above the picture.

    Returns:
      A PNG.
    """
    figure = Figure(figsize=(9, 10), dpi=110, layout="constrained")
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    prefixes: list[str] = []
    for axes, (panel_title, unit, members) in zip(panels, _PANELS, strict=True):
        for name in names:
            prefix, _, member = f"_{name}".rpartition("_")
            if member in members:
                if prefix not in prefixes:
                    prefixes.append(prefix)
                line = _LINES[prefixes.index(prefix) % len(_LINES)]
                _draw_curve(axes, rows, name, _CURVE_COLORS[member], line)
        axes.set_title(panel_title, fontsize=11, loc="left")
        axes.set_ylabel(unit)
        if unit == "share":
            axes.set_ylim(-0.03, 1.03)
        elif axes.lines:
            axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        tidy(axes)
        if axes.lines:
            # Beside the panel, where no curve can run under it.
            axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
        else:
            axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", color="gray")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("step")
    if title:
        figure.suptitle(title, fontsize=13)
    return to_png(figure)


def _draw_curve(
    axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, color: str, line: str
) -> None:
    steps = [row["step"] for row in rows if name in row]
    values = [np.nan if row[name] is None else row[name] for row in rows if name in row]
    few = len(steps) <= 40
    axes.plot(
        steps,
        values,
        line,
        color=color,
        label=name,
        linewidth=1.6,
        marker="o" if few else None,
        markersize=3.5,
    )


def agreement_histogram(
    agreement_N: ArrayLike, is_flipped_N: ArrayLike, is_hard_N: ArrayLike, title: str = ""
) -> bytes:
    """Draws the distribution of agreement of three kinds of videos whose truth is known.

    Clean: neither hard nor flipped. Hard: hard, with the right label. Flipped: with a wrong
    label, hard or not.

    Args:
      agreement_N: numbers in [0, 1].
      is_flipped_N: booleans, True where the given label is wrong.
      is_hard_N: booleans, True where the video is difficult.
      title: above the picture.

    Returns:
      A PNG.

    Raises:
      ValueError: the shapes differ, or an agreement is not in [0, 1].
    """
    agreement_N = np.asarray(agreement_N, np.float64)
    is_flipped_N, is_hard_N = np.asarray(is_flipped_N, bool), np.asarray(is_hard_N, bool)
    if agreement_N.ndim != 1 or not agreement_N.shape == is_flipped_N.shape == is_hard_N.shape:
        raise ValueError(
            "agreement, is_flipped and is_hard must be vectors of one length, got shapes "
            f"{agreement_N.shape}, {is_flipped_N.shape} and {is_hard_N.shape}"
        )
    if not ((agreement_N >= -1e-6) & (agreement_N <= 1 + 1e-6)).all():
        raise ValueError("agreement must lie in [0, 1]")
    kinds = (
        ("clean", BLUE, ~is_flipped_N & ~is_hard_N),
        ("hard, right label", ORANGE, ~is_flipped_N & is_hard_N),
        ("flipped label", RED, is_flipped_N),
    )
    edges = np.linspace(0, 1, 26)
    figure = Figure(figsize=(8, 6.4), dpi=110, layout="constrained")
    panels = figure.subplots(len(kinds), 1, sharex=True, sharey=True)
    for axes, (name, color, is_kind_N) in zip(panels, kinds, strict=True):
        values = np.clip(agreement_N[is_kind_N], 0, 1)
        axes.set_title(f"{name}: {values.size:,} videos", fontsize=11, loc="left")
        tidy(axes)
        if not values.size:
            continue
        share = np.histogram(values, edges)[0] / values.size
        axes.bar(edges[:-1], share, width=np.diff(edges), align="edge", color=color, alpha=0.8)
        median = float(np.median(values))
        axes.axvline(median, color="#1a1a1a", linewidth=1.2, linestyle="--")
        axes.set_title(f"median {median:.2f}", fontsize=10, loc="right")
    panels[1].set_ylabel("share of the kind's videos")
    panels[-1].set_xlabel("agreement of the video's clips")
    panels[-1].set_xlim(0, 1)
    if title:
        figure.suptitle(title, fontsize=13)
    return to_png(figure)


def save(png: bytes, path: epath.PathLike) -> None:
    """Writes a picture to a local path or an object store; its folder is made if missing."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png)


def to_rgb(png: bytes) -> np.ndarray:
    """Decodes a PNG to uint8 [H, W, 3], RGB, as `MetricWriter.write_images` takes it.

    Raises:
      ValueError: the bytes are no picture.
    """
    bgr_HWC = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if bgr_HWC is None:
        raise ValueError(f"no picture: {png[:16]!r}")
    return np.ascontiguousarray(bgr_HWC[:, :, ::-1])


def tidy(axes: Axes) -> None:
    """Leaves of an axes' frame only what helps to read values: two sides and a faint grid."""
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def to_png(figure: Figure) -> bytes:
    """Renders a figure, cut to what is drawn."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)  # The figure keeps it: a canvas that draws without a display.
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.15, facecolor="white")
    return buffer.getvalue()
