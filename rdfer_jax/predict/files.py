"""Records of predicted videos -> JSON, CSV, a timeline to look at, an annotated video."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from rdfer_jax import plots
from rdfer_jax.media.video import Video
from rdfer_jax.predict.result import Face, VideoPrediction, status, stretches

#: Colours of the classes, which the colour-blind can tell apart; they come again when there are more.
COLORS = (plots.ORANGE, plots.BLUE, "#7f7f7f", plots.RED, plots.SKY, plots.GREEN, plots.PURPLE)

SUMMARY = (
    "video", "folder", "expression", "probability", "agreement", "key_start", "key_end",
    "analysed_frames", "frames_with_face", "faces", "problem",
)  # fmt: skip

NO_FACE = "no face was found"
TOO_BRIEF = "no face was in view long enough"


def folders(names: Sequence[str]) -> list[str]:
    """Returns a folder for each video, named after it; a number tells those of the same name apart."""
    found: list[str] = []
    for name in names:
        stem = epath.Path(name).name
        stem = "video" if stem in ("", ".", "..") else stem  # not the folder above
        folder, number = stem, 2
        while folder in found:
            folder, number = f"{stem}-{number}", number + 1
        found.append(folder)
    return found


def write(record: VideoPrediction, folder: epath.Path) -> None:
    """Writes prediction.json, frames.csv and timeline.png."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record.to_json(), indent=1, allow_nan=False)
    (folder / "prediction.json").write_text(text + "\n")
    (folder / "frames.csv").write_text(frames_csv(record))
    plots.save(timeline(record), folder / "timeline.png")


def frames_csv(record: VideoPrediction) -> str:
    """A line for each analysed frame and face; without a face, a line for each frame."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    boxes = ("left", "top", "width", "height")
    writer.writerow(["face", "frame", "time", "status", *boxes, *record.classes])
    for number, face in enumerate(record.faces or (None,), 1):
        for place, (frame, time) in enumerate(zip(record.numbers, record.times, strict=True)):
            row: list[Any] = [number if face else "", frame, f"{time:.3f}"]
            if face is None:
                row += ["absent"] + [""] * (4 + len(record.classes))
            else:
                row += [status(face, place)]
                row += [_number(side, 1) for side in face.boxes[place]]
                row += [_number(p, 4) for p in face.timeline[place]]
            writer.writerow(row)
    return file.getvalue()


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def problem(record: VideoPrediction) -> str:
    """Why nothing was predicted, or an empty text."""
    if record.faces:
        return ""
    return TOO_BRIEF if record.unread else NO_FACE


def summary(record: VideoPrediction, folder: str) -> dict[str, Any]:
    """The row of a video in summary.csv: of its largest face."""
    row: dict[str, Any] = {
        "video": record.name,
        "folder": folder,
        "analysed_frames": len(record.numbers),
        "frames_with_face": record.with_face,
        "faces": len(record.faces) + record.others + record.unread,
        "problem": problem(record),
    }
    if record.faces:
        face = record.faces[0]
        start, end = face.key_span(record.times)
        row |= {
            "expression": record.classes[face.expression],
            "probability": round(float(face.probs[face.expression]), 4),
            "agreement": round(face.agreement, 4),
            "key_start": round(start, 3),
            "key_end": round(end, 3),
        }
    return row


def write_summary(rows: Sequence[Mapping[str, Any]], path: epath.Path) -> None:
    """Writes summary.csv, a line for each video."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, SUMMARY, restval="")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file.getvalue())


def describe(record: VideoPrediction) -> str:
    """A record in one line for the terminal."""
    seen = f"face in {record.with_face} of {len(record.numbers)} frames"
    if found := problem(record):
        return f"{record.name}: {found}; {seen}"
    more = f"; {len(record.faces) - 1} more faces" if len(record.faces) > 1 else ""
    more += f"; {record.others} other faces left out" if record.others else ""
    return f"{record.name}: {_verdict(record, record.faces[0])}; {seen}{more}"


def _verdict(record: VideoPrediction, face: Face) -> str:
    start, end = face.key_span(record.times)
    return (
        f"{record.classes[face.expression]} {face.probs[face.expression]:.0%}, "
        f"agreement {face.agreement:.2f}, most from {start:.1f} to {end:.1f} s"
    )


@plots.styled
def timeline(record: VideoPrediction) -> Figure:
    """Draws the probability of each expression over time, with the key frames above; a panel per face."""
    shown = record.faces[:4]
    rows = max(len(shown), 1)
    figure = Figure(figsize=(10, 3.9 * rows + 0.3), layout="constrained")
    grid = figure.subplots(2 * rows, 1, squeeze=False, sharex=True, height_ratios=[1, 3.4] * rows)
    panels, strips = grid[1::2, 0], grid[0::2, 0]
    for number, (face, axes, strip) in enumerate(zip(shown, panels, strips, strict=False), 1):
        _draw_face(axes, record, face)
        _draw_key_frames(strip, axes, record.times, face)
        which = f"face {number}: " if len(shown) > 1 else ""
        strip.set_title(f"{which}{_verdict(record, face)}", fontsize=10, loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    if not shown:
        text = {"ha": "center", "va": "center", "fontsize": 14}
        panels[0].text(0.5, 0.5, problem(record), text, transform=panels[0].transAxes)
    for axes in panels:
        axes.set_xlim(0, max([0.1, *record.times[-1:].tolist()]))
        axes.set_ylim(0, 1)
        axes.set_ylabel("probability")
    for strip in strips:
        strip.axis("off")
    panels[-1].set_xlabel("time, seconds")
    figure.suptitle(epath.Path(record.name).name, fontsize=12, x=0.01, ha="left")
    return figure


def _draw_face(axes: Axes, record: VideoPrediction, face: Face) -> None:
    """Lines of the classes; the key stretch is shaded, and hatched where nothing was predicted."""
    times_A = record.times
    for index, name in enumerate(record.classes):
        is_key = index == face.expression
        axes.plot(
            times_A, face.timeline[:, index], color=COLORS[index % len(COLORS)], label=name,
            linewidth=2.4 if is_key else 1.2, zorder=3 if is_key else 2,
            linestyle="-" if index < len(COLORS) else "--",
            marker="." if len(times_A) == 1 else None,
        )  # fmt: skip
    axes.axvspan(*face.key_span(times_A), color=COLORS[face.expression % len(COLORS)], alpha=0.12)
    step = float(np.median(np.diff(times_A))) / 2 if len(times_A) > 1 else 0.05
    unread_A = np.isnan(face.timeline[:, 0])
    for stretch in stretches(unread_A):
        first, last = times_A[stretch[[0, -1]]]
        axes.axvspan(
            first - step, last + step, facecolor="none", edgecolor="#bbbbbb",
            hatch="///", linewidth=0,
        )  # fmt: skip
    if unread_A.any():
        axes.plot([], [], color="#bbbbbb", linewidth=6, alpha=0.6, label="no face")


def _draw_key_frames(strip: Axes, axes: Axes, times_A: np.ndarray, face: Face) -> None:
    """Key frames above their times, moved apart where they would lie upon each other."""
    length, width = max([0.1, *times_A[-1:].tolist()]), 0.085
    shown = sorted(face.thumbnails, key=lambda found: found[0])
    centre = width / 2
    for place, (time, image) in enumerate(shown):
        room = 1 - width * (len(shown) - place - 0.5)
        centre = min(max(time / length, centre), room)
        picture = OffsetImage(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), zoom=0.75)
        strip.add_artist(
            AnnotationBbox(picture, (centre, 0.5), xycoords="axes fraction", frameon=False, pad=0)
        )
        axes.annotate(
            "", (time, 0.93), (centre * length, 1.0), annotation_clip=False,
            arrowprops={"arrowstyle": "-|>", "color": "#555555", "linewidth": 0.8},
        )  # fmt: skip
        centre += width


def annotate(source: Video, record: VideoPrediction, path: epath.Path) -> None:
    """Writes the video again, with boxes and the most probable expression of each face drawn in.

    All frames are written, at their mean rate; between analysed frames the last box stays.

    Raises:
      OSError: the file cannot be written.
    """
    rate = _rate(record)
    height, width = record.size
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width - width % 2, height - height % 2)
    )
    if not writer.isOpened():
        raise OSError(f"{path}: OpenCV cannot write a video there")
    try:
        for frame in source.frames():
            place = int(np.searchsorted(record.numbers, frame.number, side="right")) - 1
            image = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
            for face in record.faces:
                if place >= 0 and face.present[place]:
                    _draw_box(image, face, place, record.classes)
            writer.write(np.ascontiguousarray(image[: height - height % 2, : width - width % 2]))
    finally:
        writer.release()


def _rate(record: VideoPrediction) -> float:
    """Frames a second, from the numbers and times of the analysed ones."""
    if len(record.times) < 2 or record.times[-1] <= record.times[0]:
        return 25.0
    frames = record.numbers[-1] - record.numbers[0]
    return float(frames / (record.times[-1] - record.times[0]))


def _draw_box(image: np.ndarray, face: Face, place: int, classes: Sequence[str]) -> None:
    left, top, width, height = (round(float(side)) for side in face.boxes[place])
    probs_N = face.timeline[place]
    known = not np.isnan(probs_N).any()
    best = int(probs_N.argmax()) if known else 0
    color = _bgr(COLORS[best % len(COLORS)] if known else "#7f7f7f")
    thick = max(1, round(min(image.shape[:2]) / 240))
    cv2.rectangle(image, (left, top), (left + width, top + height), color, thick)
    if known:
        text, scale = f"{classes[best]} {probs_N[best]:.0%}", min(image.shape[:2]) / 600
        place_text = (max(left, 0), max(top - 4 * thick, round(24 * scale)))
        cv2.putText(image, text, place_text, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 3 * thick)
        cv2.putText(image, text, place_text, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thick)


def _bgr(color: str) -> tuple[int, int, int]:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return blue, green, red
