"""VideoPrediction -> the video with a box and the most probable expression at each face.

Where there are several, each has its number in summary.csv and prediction.json.
"""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from rdfer_jax import fonts
from rdfer_jax.media.sources import Video
from rdfer_jax.media.video import FALLBACK_FPS, VideoWriter
from rdfer_jax.predict.result import UNSURE, Face, VideoPrediction
from rdfer_jax.predict.timeline import class_color

#: Of the box of a face that has not been predicted.
UNKNOWN_COLOR = "#7f7f7f"
#: Height of the smallest text, pixels.
_LEAST_TEXT = 10


def write(source: Video, prediction: VideoPrediction, path: epath.Path) -> None:
    """Writes all frames of a video at their times, as H.264 in MP4.

    Between analyzed frames the last box stays.

    Raises:
      MediaError: the video cannot be read.
      OSError: the file cannot be written.
    """
    classes = fonts.names(prediction.classes)
    with VideoWriter(path, FALLBACK_FPS, prediction.size) as writer:
        for frame in source.frames():
            place = int(np.searchsorted(prediction.numbers, frame.number, side="right")) - 1
            image = frame.image.copy()
            for number, face in enumerate(prediction.faces, 1):
                if place >= 0 and face.present[place]:
                    which = f"{number}: " if len(prediction.faces) > 1 else ""
                    draw_face(image, face, place, classes, prediction.min_confidence, which)
            writer.write(image, frame.time)


def draw_face(
    image: np.ndarray,
    face: Face,
    place: int,
    classes: Sequence[str],
    min_confidence: float = 0.0,
    which: str = "",
) -> None:
    """Draws a face of the analyzed frame `place` into uint8 [H, W, 3], RGB; `which` precedes its class."""
    probs_N = face.timeline[place]
    if np.isnan(probs_N).any():
        draw_box(image, face.boxes[place], UNKNOWN_COLOR)
        return
    best = int(probs_N.argmax())
    name = classes[best] if probs_N[best] >= min_confidence else UNSURE
    draw_box(image, face.boxes[place], class_color(best), f"{which}{name} {probs_N[best]:.0%}")


def draw_box(image: np.ndarray, box: Sequence[float], color: str, text: str = "") -> None:
    """Draws a box (left, top, width, height) and a text above it into uint8 [H, W, 3], RGB.

    The color is "#rrggbb".
    """
    left, top, width, height = (round(float(side)) for side in box)
    side = min(image.shape[:2])
    thick = max(1, round(side / 240))
    cv2.rectangle(image, (left, top), (left + width, top + height), _rgb(color), thick)
    if text:
        _write(image, text, (left, top - 2 * thick), max(_LEAST_TEXT, side // 20), _rgb(color))


def _write(
    image: np.ndarray, text: str, at: tuple[int, int], size: int, color: tuple[int, ...]
) -> None:
    """Writes text of `size` pixels with its lower left corner at (x, y), or where the frame holds it."""
    font, outline = _font(fonts.path_for(text), size), max(1, size // 12)
    left, top, right, bottom = (round(side) for side in font.getbbox(text, stroke_width=outline))
    height, width = bottom - top, right - left
    x = max(0, min(at[0], image.shape[1] - width))
    y = max(0, min(at[1], image.shape[0]) - height)
    patch = image[y : y + height, x : x + width]
    picture = Image.fromarray(patch)
    ImageDraw.Draw(picture).text(
        (-left, -top), text, color, font, stroke_width=outline, stroke_fill=(0, 0, 0)
    )
    patch[:] = np.asarray(picture)


@functools.lru_cache(maxsize=64)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
