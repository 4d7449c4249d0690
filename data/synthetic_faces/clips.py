"""Renders one clip and its truth from parameters, split and index; independent of TFDS."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from . import expressions, movement, scene
from . import labels as labels_lib
from . import parameters as parameters_lib
from .features import upper_face
from .head import behind, in_front
from .identity import sample_identity
from .mouth import lower_face
from .parameters import Parameters, Stream
from .shapes import Shape

#: Frames are rendered at twice their size or more, on at least this many pixels, and then averaged down,
#: because cv2 widens polygons by about half a pixel.
_CANVAS = 128
#: Fractional bits of coordinates in the drawing functions of cv2.
_SHIFT = 4


@dataclasses.dataclass(frozen=True)
class Clip:
    """A rendered clip with its truth.

    Attributes:
      frames: uint8 [T, image_size, image_size, 3], RGB, before JPEG.
      labels: its labels and votes.
      timeline: intensity of the expressions in each frame, and the key segment.
    """

    frames: np.ndarray
    labels: labels_lib.Labels
    timeline: expressions.Timeline


def render_clip(parameters: Parameters, split: str, index: int) -> Clip:
    """Returns clip `index` of the split; deterministic.

    Raises:
      ValueError: there is no such split.
      IndexError: there is no such clip.
    """
    labels = labels_lib.labels(parameters, split, index)
    timeline, actions = motion(parameters, split, index, labels)
    return Clip(render_frames(parameters, split, index, actions), labels, timeline)


def motion(
    parameters: Parameters, split: str, index: int, labels: labels_lib.Labels
) -> tuple[expressions.Timeline, dict[str, np.ndarray]]:
    """Returns the expressions of a clip over time, and the intensity of every action unit, each [T]."""
    if parameters.movement_pairs:
        timeline = movement.timeline(parameters, split, index, labels)
        labels = movement.drawn(labels)
    else:
        timeline = expressions.timeline(parameters, split, index, labels)
    return timeline, expressions.actions(parameters, split, index, labels, timeline)


def clip_id(split: str, index: int) -> str:
    """Returns the unique name of a clip."""
    return f"{split}_{index:06d}"


def record(parameters: Parameters, split: str, index: int) -> dict[str, Any]:
    """Returns the clip as a record of `data.schema`, frames as JPEG.

    Raises:
      ValueError: there is no such split.
      IndexError: there is no such clip.
    """
    clip = render_clip(parameters, split, index)
    return {
        "clip_id": clip_id(split, index),
        "frames": [encode_jpeg(frame, parameters.jpeg_quality) for frame in clip.frames],
        "label": clip.labels.label,
        "votes": clip.labels.votes,
        "true_label": clip.labels.true_label,
        "is_flipped": clip.labels.is_flipped,
        "is_hard": clip.labels.is_hard,
        "key_start": clip.timeline.key_start,
        "key_end": clip.timeline.key_end,
    }


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """Returns an RGB frame, uint8 [H, W, 3], as a JPEG without chroma subsampling."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY, quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip
    return cv2.imencode(".jpg", frame[..., ::-1], options)[1].tobytes()


def render_frames(
    parameters: Parameters, split: str, index: int, actions: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Renders the person and the scene of a clip with the given motion of the face.

    Args:
      parameters: parameters of the data set.
      split: split of the clip.
      index: index of the clip in its split.
      actions: intensity of every action unit of `expressions.ACTION_UNITS`, each [T].

    Returns:
      The frames, uint8 [T, image_size, image_size, 3], RGB.
    """

    def rng(stream: Stream) -> np.random.Generator:
        return parameters_lib.rng(parameters, split, index, stream)

    t = (np.arange(parameters.num_frames) + 0.5) / parameters.num_frames
    passing = t
    if parameters.movement_pairs and movement.plays_backward(parameters, split, index):
        passing = t[::-1]
    person = sample_identity(rng(Stream.IDENTITY))
    pose = scene.sample_pose(rng(Stream.POSE), t)
    shapes = [
        *behind(person, actions),
        *lower_face(person, actions),
        *upper_face(person, actions, pose.gaze_x, pose.gaze_y),
        *in_front(person, actions),
        *scene.sample_occlusion(rng(Stream.OCCLUSION), passing, person.skin),
    ]
    light = scene.sample_light(rng(Stream.LIGHT), t)
    canvas_size = max(2, -(-_CANVAS // parameters.image_size)) * parameters.image_size
    background = scene.sample_background(rng(Stream.BACKGROUND), canvas_size)
    frames = _fill(shapes, pose, background, parameters.image_size, light.blur)
    return _expose(frames, light, rng(Stream.NOISE))


def _fill(
    shapes: list[Shape], pose: scene.Pose, background: np.ndarray, size: int, blur: float
) -> np.ndarray:
    """Returns the background with the shapes painted over it, uint8 [T, size, size, 3]."""
    num_frames = len(pose.yaw)
    polygons = _place_all(shapes, pose, len(background))
    painted = []
    for shape, own_polygons in zip(shapes, polygons, strict=True):
        colors = np.broadcast_to(shape.color, (num_frames, 3)).clip(0, 255).tolist()
        visible = np.ones(num_frames, bool) if shape.visible is None else shape.visible
        painted.append((own_polygons, colors, visible.tolist()))
    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for i in range(num_frames):
        canvas = background.copy()
        for own_polygons, colors, visible in painted:
            if visible[i]:
                contours = [polygon[i] for polygon in own_polygons]
                cv2.fillPoly(canvas, contours, colors[i], cv2.LINE_8, _SHIFT)
        if blur:
            canvas = cv2.GaussianBlur(canvas, (0, 0), blur * len(canvas))
        cv2.resize(canvas, (size, size), dst=frames[i], interpolation=cv2.INTER_AREA)
    return frames


def _place_all(shapes: list[Shape], pose: scene.Pose, canvas_size: int) -> list[list[np.ndarray]]:
    """Returns fixed-point pixel coordinates of the polygons of each shape, each int32 [T, P, 2]."""
    num_frames = len(pose.yaw)
    flat = [polygon for shape in shapes for polygon in shape.polygons]
    together = np.concatenate(
        [np.broadcast_to(polygon, (num_frames, *polygon.shape[1:])) for polygon in flat], axis=1
    )
    # In cv2, an integer coordinate is the middle of a pixel.
    pixels = scene.place(pose, together) * canvas_size - 0.5
    pixels = np.round(pixels * (1 << _SHIFT)).astype(np.int32)
    ends = np.cumsum([polygon.shape[1] for polygon in flat])[:-1]
    parts = iter(np.split(pixels, ends, axis=1))
    return [[np.ascontiguousarray(next(parts)) for _ in shape.polygons] for shape in shapes]


def _expose(frames: np.ndarray, light: scene.Light, rng: np.random.Generator) -> np.ndarray:
    """Returns the frames with light and noise, uint8 [T, size, size, 3]."""
    num_frames, size = frames.shape[:2]
    ramp = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    field = (
        1
        + light.slope_x.astype(np.float32)[:, None, None] * ramp
        + light.slope_y.astype(np.float32)[:, None, None] * ramp[:, None]
    )
    field *= light.gain.astype(np.float32)[:, None, None]
    noise = rng.standard_normal((num_frames, size, size, 1), dtype=np.float32) * light.noise
    result = frames * field[..., None]
    result *= light.tint.astype(np.float32)
    result += noise
    return result.clip(0, 255).astype(np.uint8)
