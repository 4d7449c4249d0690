"""The head without its facial features: neck, ears, skull, hair, beard, glasses."""

from collections.abc import Mapping

import numpy as np

from .identity import Identity
from .shapes import Shape, column, ellipse, on_face, points, stroke

#: Name of an action unit -> intensity in each frame, [T].
Actions = Mapping[str, np.ndarray]


def behind(person: Identity, actions: Actions) -> list[Shape]:
    """Returns the shapes behind the face and the outline of the face, back to front."""
    x, y = outline(person, actions)
    shapes = []
    if person.hair_style == "long":
        hair_x = 1.0 * x * np.where(y > 0, 1.22 + 0.12 * (y > 0.5), 1.16)
        shapes.append(Shape((points(hair_x, np.where(y > 0, y * 1.05, y * 1.10)),), person.hair))
    elif person.hair_style != "bald":
        upper = y < 0.05
        hair_x, hair_y = np.where(upper, x * 1.10, x * 0.98), np.where(upper, y * 1.10, y * 0.2)
        shapes.append(Shape((points(hair_x, hair_y),), person.hair))
    neck = points([-0.52, 0.52, 0.60, -0.60], [0.6, 0.6, 2.2, 2.2], -0.2)
    shirt = points([-0.62, 0.0, 0.62, 1.6, 1.7, -1.7, -1.6], [1.42, 1.62, 1.42, 1.6, 2.4, 2.4, 1.6])
    ear_x, ear_y = ellipse(person.width * 1.0, -0.08, 0.13, 0.24)
    ear = points(ear_x, ear_y)
    shapes += [
        Shape((neck,), person.skin * 0.80),
        Shape((shirt,), person.shirt),
        Shape((ear, ear * [-1, 1, 1]), person.skin * 0.90),
        Shape((points(x, y),), person.skin),
    ]
    if person.beard:
        shapes.append(_beard(person, x, y))
    return shapes


def outline(person: Identity, actions: Actions) -> tuple[np.ndarray, np.ndarray]:
    """Returns x and y, each [T, 40], of the outline of the head, starting at the top."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    side, down = np.sin(angle), -np.cos(angle)
    jaw = 0.20 * actions["AU26"] - 0.03 * actions["AU17"]
    bottom = column(person.chin + jaw)
    y = np.where(down > 0, down * bottom, down * person.top)
    wide = np.sign(side) * np.abs(side) ** person.roundness
    narrowing = 1 - person.taper * np.clip(down, 0, 1) ** 2
    cheeks = 1 + column(0.04 * actions["AU12"]) * np.exp(-(((down - 0.35) / 0.25) ** 2))
    return person.width * wide * narrowing * cheeks, y


def _beard(person: Identity, x: np.ndarray, y: np.ndarray) -> Shape:
    """Returns a beard: the lower outline, closed along the cheeks and above the mouth."""
    low = np.flatnonzero(y[0] > 0.18)
    side_x, side_y = x[:, low], y[:, low]
    inner_x = np.array([-0.62, -0.30, 0.0, 0.30, 0.62])
    inner_y = np.array([0.45, 0.42, 0.40, 0.42, 0.45])
    frames = len(side_x)
    closed_x = np.concatenate([side_x, np.tile(inner_x, (frames, 1))], axis=1)
    closed_y = np.concatenate([side_y, np.tile(inner_y, (frames, 1))], axis=1)
    color = person.beard * person.hair + (1 - person.beard) * person.skin
    return Shape((points(closed_x, closed_y),), color)


def in_front(person: Identity, actions: Actions) -> list[Shape]:
    """Returns the shapes in front of the facial features: front hair and glasses."""
    shapes = []
    if person.hair_style != "bald":
        shapes.append(_front_hair(person, actions))
    if person.glasses:
        shapes += _glasses(person)
    return shapes


def _front_hair(person: Identity, actions: Actions) -> Shape:
    """Returns the hair above the hairline, which moves slightly with the brows."""
    lift = column(-0.03 * actions["AU2"])
    side = np.linspace(-1, 1, 13)
    over = points(1.08 * person.width * side, -1.12 * person.top * np.sqrt(1.02 - side**2))
    drop = {"short": 0.26, "fringe": 0.12, "long": 0.48}[person.hair_style]
    if person.hair_style == "fringe":
        line = person.hairline + 0.10 + 0.03 * np.cos(9 * side + 6 * person.parting)
    else:
        line = person.hairline + 0.10 * np.abs(side - person.parting)
    line = np.where(np.abs(side) > 0.8, line + drop * (np.abs(side) - 0.8) / 0.2, line)
    under = points(1.0 * person.width * side[::-1], line[::-1] + lift, 0.45 * (1 - side[::-1] ** 2))
    over = np.broadcast_to(over, (len(under), *over.shape[1:]))
    return Shape((np.concatenate([over, under], axis=1),), person.hair)


def _glasses(person: Identity) -> list[Shape]:
    """Returns rims around both eyes and a bridge, too thin to hide the lids."""
    x, y = ellipse(person.eye_x, person.eye_y + 0.02, 0.31, 0.25, 20)
    closed = np.concatenate([x, x[:, :1]], axis=1), np.concatenate([y, y[:, :1]], axis=1)
    rim = stroke(on_face(*closed, 0.08), 0.045, (1, 1))
    inner = person.eye_x - 0.31
    bridge_x = np.linspace(-inner, inner, 5)
    bridge = on_face(bridge_x, person.eye_y - 0.02 - 0.04 * (1 - (bridge_x / inner) ** 2), 0.1)
    parts = (rim, rim * [-1, 1, 1], stroke(bridge, 0.05, (1, 1)))
    return [Shape((part,), person.glasses_color) for part in parts]
