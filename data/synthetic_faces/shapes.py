"""Shapes of a whole clip: polygons for every frame, each filled with one color.

Points are float64 [T, P, 3]: x, y and z (towards the viewer) in half face widths.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Shape:
    """Polygons that are filled together.

    Attributes:
      polygons: a few float64 [T, P, 3].
      color: float64 [T, 3] or [3], RGB, 0 to 255.
      visible: bool [T], or None if it is always visible.
    """

    polygons: tuple[np.ndarray, ...]
    color: np.ndarray
    visible: np.ndarray | None = None


def column(values) -> np.ndarray:
    """Returns per-frame values [T] (or one number) as [T, 1], to combine with points [P]."""
    return np.asarray(values, dtype=float).reshape(-1, 1)


def points(x, y, z=0.0) -> np.ndarray:
    """Returns points [T, P, 3] of coordinates that broadcast to [T, P]."""
    return np.stack(np.broadcast_arrays(np.atleast_2d(x), np.atleast_2d(y), np.atleast_2d(z)), -1)


def on_face(x, y, lift=0.0) -> np.ndarray:
    """Returns points [T, P, 3] on the front of the head, whose depth follows from the place."""
    x, y = np.broadcast_arrays(np.atleast_2d(x), np.atleast_2d(y))
    depth = np.sqrt((1 - (0.85 * x) ** 2 - (0.45 * y) ** 2).clip(0.05))
    return np.stack([x, y, 0.75 * depth + lift], axis=-1)


def mirror(shape: np.ndarray) -> np.ndarray:
    """Returns the points on the other side of the face."""
    return shape * [-1.0, 1.0, 1.0]


def ellipse(x, y, radius_x, radius_y, num: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y, each [T, num], of ellipses with the given per-frame centers and radii."""
    angle = np.linspace(0, 2 * np.pi, num, endpoint=False)
    return (
        column(x) + column(radius_x) * np.cos(angle),
        column(y) + column(radius_y) * np.sin(angle),
    )


def stroke(line: np.ndarray, width, taper: tuple[float, float] = (0.3, 0.3)) -> np.ndarray:
    """Returns the outline [T, 2P, 3] of a line [T, P, 3] drawn with a brush.

    Args:
      line: the middle of the stroke.
      width: of the brush, [T] or a number.
      taper: share of the width that is left at the first and at the last point.
    """
    along = np.gradient(line[..., :2], axis=1)
    along = along / (np.linalg.norm(along, axis=-1, keepdims=True) + 1e-9)
    across = np.stack([-along[..., 1], along[..., 0], np.zeros(along.shape[:2])], axis=-1)
    u = np.linspace(0, 1, line.shape[1])
    profile = np.interp(u, [0, 0.4, 0.7, 1], [taper[0], 1, 1, taper[1]])
    half = (0.5 * column(width) * profile)[..., None] * across
    return np.concatenate([line + half, (line - half)[:, ::-1]], axis=1)


def curve(x: tuple, y: tuple, num: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y, each [T, num], of the parabola through three per-frame points."""
    u = np.linspace(0, 1, num)
    first, middle, last = 2 * (u - 0.5) * (u - 1), 4 * u * (1 - u), 2 * u * (u - 0.5)

    def through(values: tuple) -> np.ndarray:
        return column(values[0]) * first + column(values[1]) * middle + column(values[2]) * last

    return through(x), through(y)


def fade(skin: np.ndarray, darker: float, strength: np.ndarray) -> np.ndarray:
    """Returns the color [T, 3] of a wrinkle: the skin's where strength is 0, darker where 1."""
    share = column(np.asarray(strength).clip(0, 1))
    return skin * (1 - share * (1 - darker))
