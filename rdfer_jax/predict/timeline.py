"""VideoPrediction -> a picture of the probabilities over time.

At each time the probabilities add up to 100 %. Each expression is a colored area with its name in it, the
key expression at the bottom. Above is the face at even steps of time, framed in the color of its
expression; key frames have arrows. Times without a face or without frames are hatched.

Letters: A analyzed frames and the gaps in time between them, E = A + 1 their edges, N classes.
"""

import dataclasses

import cv2
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from rdfer_jax import fonts, plots
from rdfer_jax.faces.tracks import gaps, runs_of_true
from rdfer_jax.predict.result import Face, VideoPrediction

#: Colors of the classes, which are told apart in color blindness; they repeat if there are more classes.
COLORS = (
    *(plots.ORANGE, plots.BLUE, "#7f7f7f", plots.RED, plots.SKY, plots.GREEN, plots.PURPLE),
    *("#f0e442", "#8c564b", "#5d3a9b", "#a6d96a"),
)

#: Faces that get a panel, the largest ones.
_PANELS = 4
#: Classes that never become this probable are drawn as one area.
_LEAST = 0.08
_NO_FACE, _NO_FRAMES = "no face", "no frames"
_OTHERS_COLOR, _HATCH_COLOR, _TEXT_COLOR = "#d9d9d9", "#bbbbbb", "#444444"
#: Width of a key frame and of a character, as shares of the width of a panel.
_FRAME_WIDTH, _LETTER_WIDTH = 0.09, 0.014


def class_color(index: int) -> str:
    """Returns the color of a class as #rrggbb."""
    return COLORS[index % len(COLORS)]


@plots.styled
def timeline(prediction: VideoPrediction) -> Figure:
    """Draws the probability of each expression over time, with the key frames above; a panel per face."""
    title = fonts.drawable(epath.Path(prediction.name).name)
    prediction = dataclasses.replace(prediction, classes=tuple(fonts.names(prediction.classes)))
    with fonts.lettering([*prediction.classes, title]):
        return _draw(prediction, title)


def _draw(prediction: VideoPrediction, title: str) -> Figure:
    shown = prediction.faces[:_PANELS]
    rows = max(len(shown), 1)
    edges_E, is_frame_A = _edges(prediction.times)
    figure = Figure(figsize=(10, 3.9 * rows + 0.3), dpi=150, layout="constrained")
    grid = figure.subplots(2 * rows, 1, squeeze=False, sharex=True, height_ratios=[1, 3.4] * rows)
    strips, panels = grid[0::2, 0], grid[1::2, 0]
    for number, (face, strip, axes) in enumerate(zip(shown, strips, panels, strict=False), 1):
        _draw_probabilities(axes, prediction, face, edges_E, is_frame_A)
        _draw_pictures(strip, axes, edges_E, face, prediction.times)
        which = f"face {number}: " if len(prediction.faces) > 1 else ""
        strip.set_title(f"{which}{prediction.verdict(face)}", fontsize=11, loc="left")
    if not shown:
        text = {"ha": "center", "va": "center", "fontsize": 14}
        panels[0].text(0.5, 0.5, prediction.problem, text, transform=panels[0].transAxes)
    for axes in panels:
        axes.set_xlim(edges_E[0], edges_E[-1])
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        axes.set_ylabel("probability")
        axes.grid(visible=False)
    for strip in strips:
        strip.axis("off")
    panels[-1].set_xlabel("time, seconds")
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    return figure


def _edges(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the times at which analyzed frames, or gaps, give way to the next, and which are frames."""
    if not len(times):
        return np.array([0.0, 0.1]), np.array([], bool)
    half = float(np.median(np.diff(times))) / 2 if len(times) > 1 else 0.05
    edges, is_frame = [times[0] - half], []
    for before, after, is_gap in zip(times[:-1], times[1:], gaps(times), strict=True):
        edges += [before + half, after - half] if is_gap else [(before + after) / 2]
        is_frame += [True, False] if is_gap else [True]
    return np.array([*edges, times[-1] + half]), np.array([*is_frame, True])


def _draw_probabilities(
    axes: Axes,
    prediction: VideoPrediction,
    face: Face,
    edges_E: np.ndarray,
    is_frame_A: np.ndarray,
) -> None:
    """Stacks the classes, the key expression at the bottom, and hatches what is not predicted."""
    probs_AN = np.full((len(is_frame_A), len(prediction.classes)), np.nan)
    probs_AN[is_frame_A] = face.timeline
    below_A = np.zeros(len(probs_AN))
    peaks_N = np.nan_to_num(probs_AN).max(axis=0)
    order = sorted(range(len(peaks_N)), key=lambda n: (n != face.expression, -face.probs[n]))
    named = [n for n in order if peaks_N[n] >= _LEAST or n == face.expression]
    areas = [(prediction.classes[n], class_color(n), probs_AN[:, n]) for n in named]
    if rest := [n for n in order if n not in named]:
        name = prediction.classes[rest[0]] if len(rest) == 1 else "others"
        areas.append((name, _OTHERS_COLOR, probs_AN[:, rest].sum(axis=1)))
    for name, color, share_A in areas:
        axes.fill_between(
            np.repeat(edges_E, 2)[1:-1],
            np.repeat(below_A, 2),
            np.repeat(below_A + share_A, 2),
            facecolor=color, edgecolor="white", linewidth=0.8,
        )  # fmt: skip
        _write_names(axes, name, color, edges_E, below_A, share_A)
        below_A = below_A + share_A
    for run in runs_of_true(np.isnan(probs_AN[:, 0])):
        start, end = edges_E[run[0]], edges_E[run[-1] + 1]
        axes.axvspan(start, end, facecolor="none", edgecolor=_HATCH_COLOR, hatch="///", linewidth=0)
        why = _NO_FACE if is_frame_A[run].any() else _NO_FRAMES
        if end - start >= _width(why, edges_E):
            text = {"ha": "center", "va": "center", "fontsize": 10}
            axes.text((start + end) / 2, 0.5, why, text, color=_TEXT_COLOR)


def _write_names(
    axes: Axes, name: str, color: str, edges_E: np.ndarray, below_A: np.ndarray, share_A: np.ndarray
) -> None:
    """Writes the name of a class into its area, where that is highest, if it is large enough."""
    half = _width(name, edges_E) / 2
    text = {"ha": "center", "va": "center", "fontsize": 10}
    text["color"] = "white" if _luminance(color) < 0.5 else "black"
    for run in runs_of_true(np.nan_to_num(share_A) >= _LEAST):
        start, end = edges_E[run[0]], edges_E[run[-1] + 1]
        if end - start < 2 * half:
            continue
        # In the middle of the frames that are nearly as high as the peak, but not across an end.
        plateau = run[share_A[run] >= 0.9 * share_A[run].max()]
        center = (edges_E[plateau[0]] + edges_E[plateau[-1] + 1]) / 2
        center = float(np.clip(center, start + half, end - half))
        place = min(int(np.searchsorted(edges_E, center)) - 1, run[-1])
        axes.text(center, below_A[place] + share_A[place] / 2, name, text)


def _width(text: str, edges_E: np.ndarray) -> float:
    """Returns about how long a text is, in seconds of the time axis."""
    return _LETTER_WIDTH * len(text) * float(edges_E[-1] - edges_E[0])


def _luminance(color: str) -> float:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _draw_pictures(
    strip: Axes, axes: Axes, edges_E: np.ndarray, face: Face, times_A: np.ndarray
) -> None:
    """Draws the face at even steps of time and its key frames, moved apart where they would overlap."""
    start, length = edges_E[0], edges_E[-1] - edges_E[0]
    keys = {time for time, _ in face.thumbnails}
    shown = sorted(_spaced(face, _FRAME_WIDTH * length), key=lambda picture: picture[0])
    center = _FRAME_WIDTH / 2
    for place, (time, image) in enumerate(shown):
        room = 1 - _FRAME_WIDTH * (len(shown) - place - 0.5)
        center = min(max((time - start) / length, center), room)
        picture = OffsetImage(cv2.resize(image, (160, 160), interpolation=_method(image)), zoom=0.3)
        probs_N = face.timeline[int(np.abs(times_A - time).argmin())]
        color = _HATCH_COLOR if np.isnan(probs_N).any() else class_color(int(probs_N.argmax()))
        strip.add_artist(
            AnnotationBbox(
                picture, (center, 0.5), xycoords="axes fraction", pad=0.15,
                bboxprops={"facecolor": color, "edgecolor": "none"},
            )
        )  # fmt: skip
        if time in keys:
            axes.annotate(
                "", (time, 0.96), (start + center * length, 1.0), annotation_clip=False,
                arrowprops={"arrowstyle": "-|>", "color": _TEXT_COLOR, "linewidth": 0.8},
            )  # fmt: skip
        center += _FRAME_WIDTH


def _spaced(face: Face, least: float) -> list[tuple[float, np.ndarray]]:
    """Returns the key frames of a face, and its portraits that are `least` seconds from all of them."""
    keys = list(face.thumbnails)
    return keys + [
        portrait
        for portrait in face.portraits
        if all(abs(portrait[0] - time) >= least for time, _ in keys)
    ]


def _method(image: np.ndarray) -> int:
    return cv2.INTER_AREA if len(image) > 160 else cv2.INTER_CUBIC
