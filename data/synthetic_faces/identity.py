"""The identity of a rendered person: the face at rest.

Lengths are in half face widths. x points to the right of the image, y down; the middle between the eyes
is near (0, -0.2). Colors are RGB, 0 to 255.
"""

import dataclasses

import numpy as np

_SKINS = np.array(
    [
        [255, 224, 196], [244, 205, 175], [234, 188, 150], [222, 170, 130],
        [200, 145, 105], [174, 120, 84], [141, 92, 62], [110, 70, 48], [240, 198, 182],
    ]
)  # fmt: skip
_HAIRS = np.array(
    [
        [30, 24, 22], [56, 38, 28], [92, 62, 40], [135, 96, 56],
        [196, 158, 92], [150, 70, 36], [150, 148, 146], [214, 210, 204],
    ]
)  # fmt: skip
_IRISES = np.array([[62, 40, 26], [92, 62, 34], [70, 98, 124], [86, 112, 74], [44, 34, 30]])
_LIPS = np.array([[196, 104, 100], [182, 88, 92], [204, 78, 92], [164, 84, 74]])

HAIR_STYLES = ("bald", "short", "fringe", "long")


@dataclasses.dataclass(frozen=True)
class Identity:
    """A person's face at rest; see the docstring of the module for the units."""

    width: float
    top: float
    chin: float
    taper: float
    roundness: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    eye_slant: float
    iris: float
    brow_y: float
    brow_thickness: float
    brow_arch: float
    brow_length: float
    nose_width: float
    nose_y: float
    mouth_y: float
    mouth_width: float
    lip: float
    hairline: float
    parting: float
    lines: float
    smile_side: float
    hair_style: str
    beard: float
    mustache: bool
    glasses: bool
    skin: np.ndarray
    hair: np.ndarray
    brow: np.ndarray
    iris_color: np.ndarray
    lips: np.ndarray
    shirt: np.ndarray
    glasses_color: np.ndarray


def sample_identity(rng: np.random.Generator) -> Identity:
    """Samples a person."""
    u = rng.uniform
    skin = _mix(rng, _SKINS, 6)
    hair = _mix(rng, _HAIRS, 8)
    lips = 0.4 * _mix(rng, _LIPS, 8) + 0.6 * skin * [0.85, 0.50, 0.52]
    bearded = rng.random() < 0.15
    return Identity(
        width=u(0.92, 1.06),
        top=u(1.20, 1.38),
        chin=u(1.16, 1.34),
        taper=u(0.14, 0.38),
        roundness=u(0.88, 1.08),
        eye_x=u(0.38, 0.45),
        eye_y=u(-0.26, -0.18),
        eye_width=u(0.22, 0.27),
        eye_height=u(0.105, 0.140),
        eye_slant=u(-0.12, 0.10),
        iris=u(0.090, 0.110),
        brow_y=u(-0.57, -0.51),
        brow_thickness=u(0.080, 0.125),
        brow_arch=u(0.02, 0.08),
        brow_length=u(0.24, 0.30),
        nose_width=u(0.12, 0.19),
        nose_y=u(0.17, 0.27),
        mouth_y=u(0.58, 0.65),
        mouth_width=u(0.33, 0.41),
        lip=u(0.7, 1.3),
        hairline=u(-0.98, -0.84),
        parting=u(-0.5, 0.5),
        lines=u(0.6, 1.0),
        smile_side=u(-0.12, 0.12),
        hair_style=HAIR_STYLES[rng.choice(4, p=[0.1, 0.4, 0.2, 0.3])],
        beard=u(0.25, 0.6) * bearded,
        mustache=bool(rng.random() < 0.08),
        glasses=bool(rng.random() < 0.15),
        skin=skin,
        hair=hair,
        brow=np.minimum(hair * u(0.5, 0.8), 0.5 * skin),
        iris_color=_mix(rng, _IRISES, 8),
        lips=lips.clip(0, 255),
        shirt=rng.uniform(30, 230, 3),
        glasses_color=rng.uniform(15, 80) * np.ones(3),
    )


def _mix(rng: np.random.Generator, palette: np.ndarray, spread: float) -> np.ndarray:
    """Samples a color near a mixture of two neighboring colors of the palette."""
    i = rng.integers(len(palette) - 1)
    share = rng.random()
    color = share * palette[i] + (1 - share) * palette[i + 1]
    return (color + rng.normal(0, spread, 3)).clip(0, 255)
