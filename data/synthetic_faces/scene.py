"""The scene around a face: pose, light, background, occlusion."""

import dataclasses

import cv2
import numpy as np

from .expressions import wander
from .shapes import Shape, column, points

#: Width and height of the picture in half face widths, and the point at its center.
WINDOW = 2.26
CENTER = (0.0, 0.12)


@dataclasses.dataclass(frozen=True)
class Pose:
    """Pose of the head and gaze in each frame; all float64 [T].

    Attributes:
      roll: rotation in the image plane, radians.
      yaw: rotation to the side, radians.
      pitch: nod, radians.
      scale: size, 1 on average.
      shift_x: horizontal shift, half face widths.
      shift_y: vertical shift, half face widths.
      gaze_x: horizontal position of the irises, -1 to 1.
      gaze_y: vertical position of the irises, -1 to 1.
    """

    roll: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray
    scale: np.ndarray
    shift_x: np.ndarray
    shift_y: np.ndarray
    gaze_x: np.ndarray
    gaze_y: np.ndarray


def sample_pose(rng: np.random.Generator, t: np.ndarray) -> Pose:
    """Samples a pose that drifts slowly over the times `t`, float64 [T] in [0, 1]."""

    def moving(spread: float, motion: float) -> np.ndarray:
        return rng.normal(0, spread) + rng.uniform(0, motion) * wander(rng, t)

    return Pose(
        roll=moving(0.03, 0.03).clip(-0.3, 0.3),
        yaw=moving(0.08, 0.06).clip(-0.4, 0.4),
        pitch=moving(0.04, 0.04).clip(-0.2, 0.2),
        scale=1 + moving(0.02, 0.01).clip(-0.1, 0.1),
        shift_x=moving(0.015, 0.015).clip(-0.15, 0.15),
        shift_y=moving(0.015, 0.015).clip(-0.15, 0.15),
        gaze_x=moving(0.25, 0.4).clip(-1, 1),
        gaze_y=moving(0.15, 0.3).clip(-1, 1),
    )


def place(pose: Pose, shape: np.ndarray) -> np.ndarray:
    """Projects points [T, P, 3] (or [1, P, 3]) into the picture: [T, P, 2] in [0, 1]."""
    x, y, z = shape[..., 0], shape[..., 1], shape[..., 2]
    yaw, pitch, roll = column(pose.yaw), column(pose.pitch), column(pose.roll)
    x, z = x * np.cos(yaw) + z * np.sin(yaw), z * np.cos(yaw) - x * np.sin(yaw)
    y = y * np.cos(pitch) + z * np.sin(pitch)
    scale = column(pose.scale) / WINDOW
    u = scale * (x * np.cos(roll) - y * np.sin(roll) - CENTER[0] + column(pose.shift_x))
    v = scale * (x * np.sin(roll) + y * np.cos(roll) - CENTER[1] + column(pose.shift_y))
    return np.stack([u, v], axis=-1) + 0.5


def sample_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Samples a blurred backdrop, uint8 [size, size, 3]: a gradient and a few blobs."""
    corners = rng.uniform(50, 200, (2, 2, 3)).astype(np.float32)
    picture = cv2.resize(0.5 * corners + 0.5 * corners.mean(axis=(0, 1)), (size, size))
    for _ in range(4):
        center = (rng.random(2) * size * 16).astype(int).tolist()
        radius = int(rng.uniform(0.06, 0.25) * size * 16)
        cv2.circle(picture, center, radius, rng.uniform(50, 200, 3).tolist(), -1, cv2.LINE_8, 4)
    return cv2.GaussianBlur(picture, (0, 0), 0.03 * size).astype(np.uint8)


def sample_occlusion(rng: np.random.Generator, t: np.ndarray, skin: np.ndarray) -> list[Shape]:
    """Samples an object that hides a part of the face for a while; none in most clips."""
    occluded, kind = rng.random() < 0.2, rng.integers(3)
    start, length = rng.uniform(0.0, 0.8), rng.uniform(0.15, 0.45)
    side, height = int(rng.choice([-1, 1])), rng.uniform(-0.1, 0.9)
    angle = rng.uniform(-0.4, 0.4)
    color = rng.uniform(20, 230, 3)
    if not occluded:
        return []
    inside = np.minimum((t - start) / 0.06, (start + length - t) / 0.06).clip(0, 1)
    away = side * 2.4 * (1 - inside * inside * (3 - 2 * inside))
    visible = inside > 0
    if kind == 0:
        return _hand(side, height, away, visible, skin)
    if kind == 1:  # a bar, such as a microphone, from below
        x, y = np.array([-0.11, 0.11, 0.11, -0.11]), np.array([0.0, 0.0, 2.0, 2.0])
        center_x, top = 0.25 * side, max(height, 0.35)
    else:  # a patch, such as a cup or a phone
        x, y = np.array([-0.38, 0.38, 0.38, -0.38]), np.array([-0.24, -0.24, 0.24, 0.24])
        center_x, top = 0.55 * side, height
    turned_x = x * np.cos(angle) - y * np.sin(angle)
    turned_y = x * np.sin(angle) + y * np.cos(angle)
    return [
        Shape((points(turned_x + center_x + column(away), turned_y + top, 1.0),), color, visible)
    ]


def _hand(side: int, height: float, away: np.ndarray, visible: np.ndarray, skin: np.ndarray):
    """Returns a hand that comes in from the side: a palm and four fingers."""
    palm_x = np.array([1.30, 0.85, 0.72, 0.78, 1.30])
    palm_y = np.array([-0.30, -0.26, 0.0, 0.26, 0.34])
    shapes = []
    for x, y, shade in [(palm_x, palm_y, 0.86)] + [
        (
            np.array([0.85, 0.42, 0.36, 0.42, 0.85]),
            place + np.array([-0.07, -0.06, 0, 0.06, 0.07]),
            tone,
        )
        for place, tone in ((-0.20, 0.94), (-0.06, 0.88), (0.08, 0.94), (0.21, 0.88))
    ]:
        shape = points(side * x + column(away), y + height, 1.0)
        shapes.append(Shape((shape,), skin * shade, visible))
    return shapes


@dataclasses.dataclass(frozen=True)
class Light:
    """How a clip is lit and filmed.

    Attributes:
      gain: float64 [T], brightness.
      slope_x: float64 [T], change of brightness across the picture.
      slope_y: float64 [T], change of brightness down the picture.
      tint: float64 [3], color of the light.
      blur: standard deviation, as a share of the image's side; 0 for none.
      noise: standard deviation of the image noise, gray levels.
    """

    gain: np.ndarray
    slope_x: np.ndarray
    slope_y: np.ndarray
    tint: np.ndarray
    blur: float
    noise: float


def sample_light(rng: np.random.Generator, t: np.ndarray) -> Light:
    """Samples a light that drifts slowly over the times `t`, float64 [T] in [0, 1]."""
    warmth = rng.normal(0, 0.06)
    return Light(
        gain=rng.uniform(0.75, 1.15) * (1 + rng.uniform(0, 0.06) * wander(rng, t)),
        slope_x=rng.uniform(-0.3, 0.3) + rng.uniform(0, 0.08) * wander(rng, t),
        slope_y=rng.uniform(-0.25, 0.15) + rng.uniform(0, 0.05) * wander(rng, t),
        tint=np.array([1 + warmth, 1 + rng.normal(0, 0.015), 1 - warmth]),
        blur=rng.uniform(0.004, 0.009) if rng.random() < 0.25 else 0.0,
        noise=rng.uniform(1, 4),
    )
