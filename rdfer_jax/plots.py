"""Charts: their style, their rendering as PNG and SVG, and the ones that a training run writes.

Enters: plain arrays, rows of metrics.jsonl. Leaves: Matplotlib figures, which `save` writes as PNG,
`to_rgb` renders for TensorBoard, and `to_svg` renders for an HTML page. Matplotlib is used without pyplot,
so no display is needed and no figure has to be closed.

A function that draws a chart is decorated with `styled`.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree import ElementTree

import cv2
import matplotlib
import numpy as np
from etils import epath
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from rdfer_jax import fonts

# Colors by Okabe and Ito, which remain distinct under color blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
)
INK, MUTED, AXIS, HAIRLINE = "#1d1f23", "#5a6068", "#7d838c", "#e1e2e5"
KIND_COLORS = {"clean": BLUE, "hard": ORANGE, "noisy": RED}
#: On a page the colors are those of style.css, which has a light and a dark variant of each.
_PAGE_COLORS = {
    BLUE: "--s1", RED: "--s2", GREEN: "--s3", PURPLE: "--s4", SKY: "--s5", ORANGE: "--s6",
    INK: "--ink", MUTED: "--muted", AXIS: "--control", HAIRLINE: "--hairline",
}  # fmt: skip

#: Decorates a function that draws or renders a chart: sets the style of all charts. Dollar signs are no
#: formulas, and text stays text in SVG.
styled = matplotlib.rc_context(
    {
        "text.parse_math": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": AXIS,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.titlesize": 11,
        "grid.color": HAIRLINE,
        "xtick.color": AXIS,
        "ytick.color": AXIS,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "legend.frameon": False,
        "svg.fonttype": "none",
    }
)

#: Width of a chart on a page, in inches.
WIDTH = 5.0
#: Bins of a histogram.
BINS = 25
#: Lines with at most this many points show each of them.
FEW_POINTS = 24


class Panel(NamedTuple):
    """A chart of the training curves.

    Attributes:
      title: heading.
      label: label of the vertical axis.
      members: the metrics that it shows, by the end of their names.
    """

    title: str
    label: str
    members: tuple[str, ...]


#: The charts of the training curves, by name.
PANELS = {
    "loss": Panel("Loss", "loss, nats", ("loss",)),
    "scores": Panel("Accuracy", "share of clips", ("accuracy", "war", "uar")),
    "rate": Panel("Learning rate", "learning rate", ("learning_rate",)),
    "gradient": Panel("Gradient norm", "norm before clipping", ("grad_norm",)),
    "kinds": Panel("Clean, hard and noisy videos", "share of videos", ("clean", "hard", "noisy")),
    "agreement": Panel("Agreement of the clips of a video", "mean agreement", ("agreement",)),
}
_LINES = ("-", "--", ":", "-.")
_CURVE_COLORS = {
    "loss": BLUE,
    "accuracy": SKY,
    "war": BLUE,
    "uar": GREEN,
    "learning_rate": BLUE,
    "grad_norm": BLUE,
    "agreement": PURPLE,
    **KIND_COLORS,
}

#: Steps and values of a metric; NaN where it was not finite.
Curve = tuple[list[int], list[float]]


@styled
def confusion_matrix_figure(
    confusion_CC: ArrayLike, class_names: Sequence[str], title: str = ""
) -> Figure:
    """Draws a confusion matrix, colored by the share of the row, with percentages and counts.

    Args:
      confusion_CC: counts [C, C], rows true, columns predicted.
      class_names: C names.
      title: text above the chart.

    Raises:
      ValueError: the number of names is not C.
    """
    confusion_CC = np.asarray(confusion_CC)
    num_classes = len(class_names)
    class_names, title = fonts.names(class_names), fonts.drawable(title)
    if confusion_CC.shape != (num_classes, num_classes):
        raise ValueError(f"{num_classes} class names for a matrix {confusion_CC.shape}")
    with fonts.lettering([*class_names, title]):
        return _draw_confusion(confusion_CC, class_names, title)


def _draw_confusion(confusion_CC: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    num_classes = len(class_names)
    total_C = confusion_CC.sum(axis=1)
    share_CC = confusion_CC / np.maximum(total_C, 1)[:, None]
    # Inches per cell: large for few classes, but never smaller than its two lines of text.
    cell = float(np.clip(7 / num_classes, 0.46, 0.95))
    font = 11 if num_classes <= 8 else 9 if num_classes <= 15 else 6.5
    names_font = min(font + 1, 10)
    figure = Figure(figsize=(cell * num_classes, cell * num_classes), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))  # Names and title lie outside; `to_png` makes room.
    axes.spines[["top", "right"]].set_visible(True)
    image = axes.imshow(share_CC, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(confusion_CC):
        if count:
            share = share_CC[row, column]
            axes.text(
                column, row, f"{100 * share:.0f}%\n{count}", ha="center", va="center",
                fontsize=font, linespacing=1.15, color="white" if share > 0.6 else INK,
                fontweight="bold" if row == column else "normal",
            )  # fmt: skip
    axes.set_xticks(
        range(num_classes), class_names, rotation=45, ha="right", rotation_mode="anchor"
    )
    axes.set_yticks(
        range(num_classes),
        [
            f"{name} ({count:,})" if count else f"{name} (no clips)"
            for name, count in zip(class_names, total_C, strict=True)
        ],
    )
    axes.tick_params(labelsize=names_font, length=0)
    axes.set_xticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(visible=True, which="minor", axis="both", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted", fontsize=names_font + 1)
    axes.set_ylabel("true (clips)", fontsize=names_font + 1)
    axes.set_title(title, fontsize=names_font + 3, pad=10)
    bar = figure.add_axes((1.02, 0, 0.16 / (cell * num_classes), 1))
    figure.colorbar(image, cax=bar, label="share of the true class")
    bar.grid(visible=False)
    bar.tick_params(labelsize=names_font - 1)
    return figure


def curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Returns the metrics by panel and name, for the panels that have any.

    A metric belongs to a panel by the end of its name: "agreement" and "test_agreement" share one.

    Args:
      rows: rows as `writers.read_metrics` returns them: dicts with "step" and scalars by name, where
        None is a value that was not finite. Other metrics are ignored.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    panels = {
        panel: {name: _curve(rows, name) for name in names if _member(name, members)}
        for panel, (_, _, members) in PANELS.items()
    }
    return {panel: by_name for panel, by_name in panels.items() if by_name}


@styled
def training_curves(rows: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Draws all training curves, a panel for each of PANELS that has any.

    Args:
      rows: as in `curves`.
      title: text above the chart.
    """
    by_panel = curves(rows)
    height = max(math.ceil(len(by_panel) / 2), 1)
    figure = Figure(figsize=(2 * WIDTH, 3.2 * height), dpi=110, layout="constrained")
    panels = figure.subplots(height, 2, squeeze=False).ravel()
    for axes, (panel, by_name) in zip(panels, by_panel.items(), strict=False):
        draw_curves(axes, panel, by_name)
        axes.set_title(PANELS[panel].title, loc="left")
    for axes in panels[len(by_panel) :]:
        axes.set_axis_off()
    if not by_panel:
        panels[0].text(0.5, 0.5, "no metrics recorded", ha="center", color=MUTED)
    if title:
        figure.suptitle(title, fontsize=13)
    return figure


@styled
def curves_figure(panel: str, by_name: Mapping[str, Curve]) -> Figure:
    """Draws one panel of the training curves on its own, without a title."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    draw_curves(figure.subplots(), panel, by_name)
    return figure


def draw_curves(axes: Axes, panel: str, by_name: Mapping[str, Curve]) -> None:
    """Draws metrics over the steps; the color tells the metric, the line style the split.

    Args:
      axes: where to draw.
      panel: name of the panel, one of PANELS.
      by_name: the curves, by the name of the metric.
    """
    label, members = PANELS[panel].label, PANELS[panel].members
    prefixes = list(dict.fromkeys(name.removesuffix(_member(name, members)) for name in by_name))
    for name, (steps, values) in by_name.items():
        member = _member(name, members)
        line = _LINES[prefixes.index(name.removesuffix(member)) % len(_LINES)]
        marker = "o" if len(steps) <= FEW_POINTS else None
        axes.plot(
            steps, values, line, color=_CURVE_COLORS[member], label=readable(name),
            linewidth=1.6, marker=marker, markersize=3.5,
        )  # fmt: skip
    finite = [v for _, values in by_name.values() for v in values if math.isfinite(v)]
    if panel in ("scores", "kinds"):
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    elif panel == "agreement":
        axes.set_ylim(floor(finite), 1.005)
    elif finite:
        axes.set_ylim(bottom=min(0, *finite))
    last = max((step for steps, _ in by_name.values() for step in steps), default=0)
    axes.set_xlim(left=0, right=max(last, 1) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set_xlabel("training step")
    axes.set_ylabel(label)
    if len(by_name) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2, fontsize=10)


def readable(name: str) -> str:
    """Returns the name of a metric in words, such as "test WAR" for test_war."""
    if name == "accuracy":
        return "training accuracy"
    return " ".join({"war": "WAR", "uar": "UAR"}.get(part, part) for part in name.split("_"))


@styled
def histograms(
    values_N: ArrayLike, groups: Mapping[str, tuple[str, np.ndarray]], label: str, title: str = ""
) -> Figure:
    """Draws the distribution of a value in several groups, one below the other, with their medians.

    Args:
      values_N: numbers in [0, 1].
      groups: color and mask bool [N] of each group, by name.
      label: what the value is.
      title: text above the chart.
    """
    values_N = np.clip(np.asarray(values_N, np.float64), 0, 1)
    low = floor(values_N.tolist())
    edges = np.linspace(low, 1, BINS + 1)
    figure = Figure(figsize=(WIDTH, 0.9 + 1.25 * len(groups)), dpi=160, layout="constrained")
    panels = figure.subplots(len(groups), 1, sharex=True, sharey=True)
    for axes, (name, (color, is_member_N)) in zip(panels, groups.items(), strict=True):
        member_values = values_N[is_member_N]
        axes.set_title(f"{name}: {member_values.size:,}", loc="left", fontsize=10)
        if member_values.size:
            share = np.histogram(member_values, edges)[0] / member_values.size
            axes.bar(edges[:-1], share, width=np.diff(edges), align="edge", color=color)
            median = float(np.median(member_values))
            axes.axvline(median, color=INK, linewidth=1.2, linestyle="--")
            axes.set_title(f"median {median:.3f}", loc="right", fontsize=10)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    panels[-1].set_xlim(low, 1)
    panels[-1].set_xlabel(label)
    figure.supylabel("share of the group", fontsize=10)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def agreement_histogram(
    agreement_N: ArrayLike, is_flipped_N: ArrayLike, is_hard_N: ArrayLike, title: str = ""
) -> Figure:
    """Draws the distribution of agreement of clean, hard and mislabeled videos.

    Clean: neither hard nor mislabeled. Hard: hard, with a right label. Mislabeled: hard or not.

    Args:
      agreement_N: numbers in [0, 1].
      is_flipped_N: booleans, True where the given label is wrong.
      is_hard_N: booleans, True where the video is hard.
      title: text above the chart.

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
    groups = {
        "clean videos": (BLUE, ~is_flipped_N & ~is_hard_N),
        "hard videos, right label": (ORANGE, ~is_flipped_N & is_hard_N),
        "mislabeled videos": (RED, is_flipped_N),
    }
    return histograms(agreement_N, groups, "agreement of the clips of a video", title)


def floor(values: Sequence[float]) -> float:
    """Returns where an axis of numbers in [0, 1] starts: the largest tenth below all, less than 1."""
    finite = [value for value in values if math.isfinite(value)]
    return max(0.0, min(math.floor(10 * min(finite, default=0)), 9) / 10)


def save(figure: Figure, path: epath.PathLike) -> None:
    """Writes a figure as PNG to a local path or an object store; creates its folder."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_png(figure))


@styled
def to_png(figure: Figure) -> bytes:
    """Renders a figure as PNG, cropped to its content."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)  # The figure keeps this canvas, which needs no display.
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.15, facecolor="white")
    return buffer.getvalue()


def to_rgb(figure: Figure) -> np.ndarray:
    """Renders a figure as uint8 [H, W, 3], RGB, as `MetricWriter.write_images` takes it."""
    bgr_HWC = cv2.imdecode(np.frombuffer(to_png(figure), np.uint8), cv2.IMREAD_COLOR)
    assert bgr_HWC is not None
    return np.ascontiguousarray(bgr_HWC[:, :, ::-1])


@styled
def to_svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """Renders a figure as an SVG element for a page with style.css; equal figures give equal text.

    The element loads nothing, runs nothing and takes its colors and its font from the page.

    Args:
      figure: the figure; its background stays transparent.
      name: identifies the chart on its page: letters and dashes.
      title: what the chart shows, for screen readers.
      description: what is to be seen in it, for screen readers.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids differ between the charts of a page
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    referenced = set(re.findall(r"#([\w-]+)", buffer.getvalue().decode()))
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        if attributes.get("id") not in referenced:
            attributes.pop("id", None)
        if "style" in attributes:
            attributes["style"] = _page_style(attributes["style"])
        element.attrib.clear()
        element.attrib.update(attributes)
    parts = [child for child in root if child.tag in ("g", "defs") and child.find("style") is None]
    svg = ElementTree.Element(
        "svg",
        {
            "class": "chart",
            "viewBox": root.attrib["viewBox"],
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-desc",
            "style": "stroke-linejoin: round; stroke-linecap: butt",  # Matplotlib's defaults
        },
    )
    for tag, text in (("title", title), ("desc", description)):
        ElementTree.SubElement(svg, tag, id=f"{name}-{tag}").text = text
    svg.extend(parts)
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _page_style(style: str) -> str:
    """Replaces colors by those of the page, and the font by that of the page."""
    style = re.sub(r"font-family: [^;]*; ?", "", style)
    return re.sub(
        r"#[0-9a-f]{6}",
        lambda match: f"var({_PAGE_COLORS[match[0]]})" if match[0] in _PAGE_COLORS else match[0],
        style,
    )


def _local(name: str) -> str:
    """The name of an element or attribute without its namespace."""
    return name.rpartition("}")[2]


def _member(name: str, members: Sequence[str]) -> str:
    """The member that a metric's name ends in; "" if there is none."""
    return next((m for m in members if name == m or name.endswith(f"_{m}")), "")


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> Curve:
    own = [row for row in rows if name in row]
    values = [math.nan if row[name] is None else float(row[name]) for row in own]
    return [row["step"] for row in own], values
