"""VideoPrediction -> the video with a box and the most probable expression at each face."""

from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath

from rdfer_jax.media.sources import Video
from rdfer_jax.media.video import FALLBACK_FPS, VideoWriter
from rdfer_jax.predict.result import Face, VideoPrediction
from rdfer_jax.predict.timeline import class_color

_GRAY = "#7f7f7f"


def write(source: Video, prediction: VideoPrediction, path: epath.Path) -> None:
    """Writes all frames of a video at their times, as H.264 in MP4.

    Between analyzed frames the last box stays.

    Raises:
      MediaError: the video cannot be read.
      OSError: the file cannot be written.
    """
    with VideoWriter(path, FALLBACK_FPS, prediction.size) as writer:
        for frame in source.frames():
            place = int(np.searchsorted(prediction.numbers, frame.number, side="right")) - 1
            image = frame.image.copy()
            for face in prediction.faces:
                if place >= 0 and face.present[place]:
                    draw_face(image, face, place, prediction.classes)
            writer.write(image, frame.time)


def draw_face(image: np.ndarray, face: Face, place: int, classes: Sequence[str]) -> None:
    """Draws a face of the analyzed frame `place` into uint8 [H, W, 3], RGB."""
    left, top, width, height = (round(float(side)) for side in face.boxes[place])
    probs_N = face.timeline[place]
    is_predicted = not np.isnan(probs_N).any()
    best = int(probs_N.argmax()) if is_predicted else 0
    color = _rgb(class_color(best) if is_predicted else _GRAY)
    side = min(image.shape[:2])
    thick, scale = max(1, round(side / 240)), side / 600
    cv2.rectangle(image, (left, top), (left + width, top + height), color, thick)
    if is_predicted:
        text = f"{classes[best]} {probs_N[best]:.0%}"
        at = (max(left, 0), max(top - 4 * thick, round(24 * scale)))
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 3 * thick)
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thick)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
