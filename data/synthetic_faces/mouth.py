"""The mouth, the chin and their folds, moved by the action units of the lower face."""

import numpy as np

from .head import Actions
from .identity import Identity
from .shapes import Shape, column, curve, fade, mirror, on_face, stroke

#: Folds below this strength are not rendered.
_FAINT = 0.06
#: Positions from the left corner of the mouth to the right one.
_ACROSS = np.linspace(-1, 1, 11)


def lower_face(person: Identity, actions: Actions) -> list[Shape]:
    """Returns the shapes of mouth, folds and chin, back to front.

    Args:
      person: the person.
      actions: intensities of the action units, each [T].
    """
    return [*_folds(person, actions), *_mouth(person, actions), *_chin(person, actions)]


def _corners(person: Identity, actions: Actions) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y of the right corner of the mouth, each [T]."""
    smile, stretch = actions["AU12"], actions["AU20"]
    x = person.mouth_width * (
        1 + 0.30 * smile + 0.38 * stretch - 0.28 * actions["AU23"] - 0.20 * actions["AU26"]
    )
    y = person.mouth_y - 0.22 * smile + 0.23 * actions["AU15"] + 0.05 * stretch
    return x, y + 0.06 * actions["AU26"]


def _mouth(person: Identity, actions: Actions) -> list[Shape]:
    corner_x, corner_y = _corners(person, actions)
    part, drop, smile = actions["AU25"], actions["AU26"], actions["AU12"]
    raised, chin, tight = actions["AU10"], actions["AU17"], actions["AU23"]
    middle = person.mouth_y + 0.04 * smile - 0.05 * actions["AU15"] - 0.06 * chin
    seam_up = middle - 0.045 * part - 0.10 * raised - 0.03 * drop
    seam_down = middle + 0.065 * part + 0.34 * drop - 0.02 * raised
    seam_down = np.maximum(seam_down, seam_up)
    thin = (1 - 0.85 * tight.clip(0, 1)) * (1 - 0.25 * smile) * (1 - 0.25 * actions["AU20"])
    thick_up = 0.062 * person.lip * thin + 0.02 * raised
    thick_down = 0.082 * person.lip * thin + 0.02 * chin

    # A stretched or dropped mouth is squarer than a parabola.
    power = column(2 + 1.6 * actions["AU20"] + 0.8 * drop)
    bow = 1 - np.abs(_ACROSS) ** power
    x = column(corner_x) * _ACROSS
    tilt = person.smile_side * column(smile) * 0.5 * _ACROSS
    ends = column(corner_y) + tilt
    top_in = ends + (column(seam_up) - ends) * bow
    bottom_in = np.maximum(ends + (column(seam_down) - ends) * bow, top_in)
    cupid = 1 - 0.22 * np.exp(-((_ACROSS / 0.16) ** 2)) - 0.15 * np.abs(_ACROSS)
    top_out = top_in - column(thick_up) * bow * cupid
    bottom_out = bottom_in + column(thick_down) * bow

    gap = seam_down - seam_up
    is_open = gap > 0.02
    teeth = np.minimum(bottom_in, top_in + column(0.03 + 0.06 * (raised + smile).clip(0, 1)) * bow)
    tongue = np.maximum(top_in, bottom_in - 0.10 * bow)
    seam = stroke(on_face(x, 0.5 * (top_in + bottom_in)), 0.026, (0.8, 0.8))
    return [
        *_mustache(person, x, top_out),
        Shape((_band(x, top_out, bottom_out),), person.lips),
        Shape((_band(x, top_in, bottom_in),), np.array([58.0, 20, 24]), is_open),
        Shape((_band(x, tongue, bottom_in),), np.array([178.0, 84, 88]), gap > 0.16),
        Shape((_band(x, top_in, teeth),), np.array([240.0, 236, 226]), is_open),
        Shape((seam,), person.lips * 0.45, ~is_open),
    ]


def _band(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Returns the area between two lines [T, P] with the same x."""
    both_x = np.concatenate([x, x[:, ::-1]], axis=1)
    return on_face(both_x, np.concatenate([upper, lower[:, ::-1]], axis=1))


def _mustache(person: Identity, x: np.ndarray, top: np.ndarray) -> list[Shape]:
    if not person.mustache:
        return []
    line = on_face(0.95 * x, top - 0.045 + 0.03 * np.abs(_ACROSS))
    return [Shape((stroke(line, 0.085, (0.3, 0.3)),), 0.8 * person.hair + 0.2 * person.skin)]


def _folds(person: Identity, actions: Actions) -> list[Shape]:
    """Returns the nasolabial folds, which smiling, sneering and stretching deepen."""
    corner_x, corner_y = _corners(person, actions)
    smile, raised, wrinkle = actions["AU12"], actions["AU10"], actions["AU9"]
    strength = person.lines * (
        0.15 + 0.7 * smile + 0.8 * raised + 0.4 * wrinkle + 0.3 * actions["AU20"]
    )
    top_x, top_y = person.nose_width + 0.06, person.nose_y - 0.03 - 0.05 * wrinkle
    end_x, end_y = corner_x + 0.10, corner_y - 0.02 + 0.04 * raised
    middle_x = 0.5 * (top_x + end_x) + 0.05 + 0.06 * smile
    fold = stroke(
        on_face(*curve((top_x, middle_x, end_x), (top_y, 0.5 * (top_y + end_y) - 0.03, end_y))),
        0.034,
    )
    down = actions["AU15"] * person.lines
    below_x, below_y = corner_x + 0.02, corner_y + 0.03
    pouch = stroke(
        on_face(
            *curve(
                (below_x, below_x + 0.05, below_x + 0.06), (below_y, below_y + 0.07, below_y + 0.16)
            )
        ),
        0.034,
    )
    return [
        Shape((fold, mirror(fold)), fade(person.skin, 0.68, strength), strength > _FAINT),
        Shape((pouch, mirror(pouch)), fade(person.skin, 0.68, down), down > _FAINT),
    ]


def _chin(person: Identity, actions: Actions) -> list[Shape]:
    """Returns the furrow below the lower lip."""
    drop = 0.26 * actions["AU26"]
    raised = actions["AU17"]
    y = person.mouth_y + 0.19 + drop - 0.04 * raised
    furrow = on_face(*curve((-0.16, 0, 0.16), (y + 0.02, y - 0.01 - 0.03 * raised, y + 0.02)))
    return [
        Shape((stroke(furrow, 0.032),), fade(person.skin, 0.70, 0.35 + 0.6 * raised)),
    ]
