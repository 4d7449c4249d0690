"""Brows, eyes, nose and wrinkles, moved by the action units of the upper face."""

import numpy as np

from .head import Actions
from .identity import Identity
from .shapes import (
    Shape,
    column,
    curve,
    ellipse,
    fade,
    mirror,
    on_face,
    points,
    stroke,
)

#: Wrinkles below this strength are not rendered.
_FAINT = 0.06


def upper_face(
    person: Identity, actions: Actions, gaze_x: np.ndarray, gaze_y: np.ndarray
) -> list[Shape]:
    """Returns forehead lines, nose, eyes and brows, back to front.

    Args:
      person: the person.
      actions: intensities of the action units, each [T].
      gaze_x: horizontal position of the iris in the eye, [T], -1 to 1.
      gaze_y: vertical position, [T], -1 to 1.
    """
    return [
        *_forehead(person, actions),
        *_nose(person, actions),
        *_eyes(person, actions, gaze_x, gaze_y),
        *_brows(person, actions),
    ]


def _brows(person: Identity, actions: Actions) -> list[Shape]:
    inner, outer, lower = actions["AU1"], actions["AU2"], actions["AU4"]
    # The corrugator lowers less where the frontalis lifts the inner end: oblique brows.
    drop = 0.21 * lower * (1 - 0.65 * np.minimum(inner, 1)) + 0.05 * actions["AU9"]
    inner_y = person.brow_y - 0.23 * inner - 0.06 * outer + drop
    outer_y = person.brow_y + 0.04 - 0.02 * inner - 0.22 * outer + 0.02 * lower
    middle_y = 0.5 * (inner_y + outer_y) - person.brow_arch - 0.06 * outer + 0.04 * lower
    inner_x = person.eye_x - 0.60 * person.brow_length - 0.07 * lower
    outer_x = person.eye_x + person.brow_length
    x, y = curve((inner_x, 0.5 * (inner_x + outer_x), outer_x), (inner_y, middle_y, outer_y))
    thickness = person.brow_thickness * (1 + 0.15 * lower)
    brow = stroke(on_face(x, y), thickness, (0.7, 0.25))
    return [Shape((brow, mirror(brow)), person.brow)]


def _eyes(person: Identity, actions: Actions, gaze_x: np.ndarray, gaze_y) -> list[Shape]:
    u = np.linspace(-1, 1, 9)
    shut = np.minimum(actions["AU45"], 1)
    raised, tight, cheek = actions["AU5"], actions["AU7"], actions["AU6"]
    bottom = person.eye_height * (0.62 + 0.25 * raised - 0.60 * tight - 0.95 * cheek)
    top = person.eye_height * (0.9 + 0.85 * raised - 0.40 * tight - 0.15 * cheek)
    top = np.maximum(top, -bottom + 0.02)
    top = top * (1 - shut) - (bottom - 0.01) * shut
    slant = person.eye_slant * person.eye_width * u
    arch, level = 1 - u**2, person.eye_y + slant
    x = person.eye_x + person.eye_width * u
    upper = level - column(top) * (1 - np.abs(u) ** 2.2)
    lower = np.maximum(level + column(bottom) * arch, upper)
    white = on_face(np.concatenate([x, x[::-1]]), np.concatenate([upper, lower[:, ::-1]], axis=1))
    crease = level - column(np.maximum(top, 0.4 * person.eye_height)) * arch - 0.055
    shapes = [
        Shape(_pair(stroke(on_face(x, crease), 0.022)), person.skin * 0.72),
        Shape(_pair(white), np.array([246.0, 244, 240])),
    ]
    # Both eyes look the same way, so only the lids are mirrored.
    irises, pupils, lights = [], [], []
    for side in (1, -1):
        center_x = side * person.eye_x + 0.07 * gaze_x
        center_y = person.eye_y + 0.03 * gaze_y

        def between_lids(disc, side=side):
            lid_u = ((disc[0] * side - person.eye_x) / person.eye_width).clip(-1, 1)
            u_level = person.eye_y + person.eye_slant * person.eye_width * lid_u
            lid_top = u_level - column(top) * (1 - np.abs(lid_u) ** 2.2)
            lid_bottom = np.maximum(u_level + column(bottom) * (1 - lid_u**2), lid_top)
            return on_face(disc[0], np.clip(disc[1], lid_top, lid_bottom))

        irises.append(between_lids(ellipse(center_x, center_y, person.iris, person.iris, 14)))
        pupils.append(between_lids(ellipse(center_x, center_y, 0.045, 0.045, 8)))
        lights.append(between_lids(ellipse(center_x - 0.03, center_y - 0.035, 0.02, 0.02, 6)))
    lash = stroke(on_face(x, upper), 0.042, (0.5, 0.7))
    under = stroke(on_face(x, lower), 0.02, (0.2, 0.6))
    is_open = shut < 0.7
    return [
        *shapes,
        Shape(tuple(irises), person.iris_color, is_open),
        Shape(tuple(pupils), np.array([18.0, 14, 14]), is_open),
        Shape(tuple(lights), np.array([250.0, 250, 250]), is_open),
        Shape(_pair(under), person.skin * 0.62),
        Shape(_pair(lash), person.skin * 0.25),
        *_crows_feet(person, actions),
    ]


def _crows_feet(person: Identity, actions: Actions) -> list[Shape]:
    strength = actions["AU6"] * person.lines
    x, y = person.eye_x + person.eye_width + 0.05, person.eye_y
    lines: list[np.ndarray] = []
    for rise in (-0.07, 0.03):
        line = curve((x, x + 0.06, x + 0.13), (y, y + rise / 2, y + rise))
        lines += _pair(stroke(on_face(*line), 0.025))
    bag_x = person.eye_x + person.eye_width * np.linspace(-0.8, 0.9, 7)
    bag_y = person.eye_y + 0.13 + 0.05 * (1 - np.linspace(-1, 1, 7) ** 2)
    bag = stroke(on_face(bag_x, bag_y), 0.03)
    return [
        Shape(tuple(lines), fade(person.skin, 0.68, strength), strength > _FAINT),
        Shape(_pair(bag), fade(person.skin, 0.75, strength), strength > _FAINT),
    ]


def _nose(person: Identity, actions: Actions) -> list[Shape]:
    wrinkle = actions["AU9"]
    wing = person.nose_width * (1 + 0.18 * wrinkle)
    tip_y = person.nose_y - 0.05 * wrinkle - 0.02 * actions["AU10"]
    shade = person.skin * 0.80
    bridge = curve((0.06, 0.05, 0.10), (person.eye_y + 0.06, 0.02, tip_y - 0.06))
    base_x, base_y = curve((-wing, 0, wing), (tip_y - 0.02 - 0.03 * wrinkle, tip_y + 0.055, tip_y))
    base_y = base_y - column(0.03 * wrinkle) * np.linspace(0, 1, 7)
    hole = points(*ellipse(0.45 * wing, tip_y - 0.005, 0.035, 0.022, 8), 0.92)
    wing_line = curve((0.85 * wing, 1.12 * wing, wing), (tip_y - 0.13, tip_y - 0.06, tip_y), 5)
    lines = []
    for rise in (-0.02, 0.06, 0.14):
        line_x = np.linspace(-0.13, 0.13, 5)
        lines.append(stroke(on_face(line_x, person.eye_y + rise + 2.2 * line_x**2, 0.1), 0.032))
    frown = actions["AU4"] * (1 - 0.4 * np.minimum(actions["AU1"], 1)) + 0.5 * wrinkle
    upright = on_face(
        column(0.06 - 0.02 * actions["AU4"]) + np.zeros(4),
        person.brow_y + np.linspace(-0.06, 0.14, 4),
        0.05,
    )
    return [
        Shape((stroke(points(*bridge, 0.9), 0.03),), person.skin * 0.88),
        Shape((stroke(points(base_x, base_y, 0.95), 0.035),), shade * 0.85),
        Shape(_pair(stroke(on_face(*wing_line, 0.1), 0.03)), shade),
        Shape((hole, mirror(hole)), person.skin * 0.45),
        Shape(tuple(lines), fade(person.skin, 0.62, wrinkle), wrinkle > _FAINT),
        Shape(_pair(stroke(upright, 0.03)), fade(person.skin, 0.60, frown), frown > 2 * _FAINT),
    ]


def _forehead(person: Identity, actions: Actions) -> list[Shape]:
    """Returns lines across the forehead: short with AU1 only, wide with AU1 and AU2."""
    strength = person.lines * np.maximum(actions["AU1"], actions["AU2"])
    half = 0.22 + 0.25 * np.minimum(actions["AU2"], 1)
    lines = []
    for place in (-0.17, -0.27):
        u = np.linspace(-1, 1, 7)
        y = person.brow_y + place - 0.04 * column(actions["AU2"]) * (1 - u**2) - 0.03
        lines.append(stroke(on_face(column(half) * u, y), 0.03))
    return [Shape(tuple(lines), fade(person.skin, 0.74, strength), strength > 2 * _FAINT)]


def _pair(shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return shape, mirror(shape)
