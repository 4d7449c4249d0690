"""Expressions as intensities of facial action units over time.

Action units and the prototypes of the basic emotions follow the Facial Action Coding System (FACS). An
intensity of 1 is the strongest that is rendered.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from . import parameters as parameters_lib
from .labels import Labels
from .parameters import CLASSES, NEUTRAL, Parameters, Stream

#: FACS number -> name.
ACTION_UNITS = {
    "AU1": "inner brow raiser",
    "AU2": "outer brow raiser",
    "AU4": "brow lowerer",
    "AU5": "upper lid raiser",
    "AU6": "cheek raiser",
    "AU7": "lid tightener",
    "AU9": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU12": "lip corner puller",
    "AU15": "lip corner depressor",
    "AU17": "chin raiser",
    "AU20": "lip stretcher",
    "AU23": "lip tightener",
    "AU25": "lips part",
    "AU26": "jaw drop",
    "AU45": "blink",
}

#: Class -> action units at full strength.
PROTOTYPES: Mapping[str, Mapping[str, float]] = {
    "happy": {"AU6": 0.9, "AU12": 1.0, "AU25": 0.7},
    "sad": {"AU1": 1.0, "AU4": 0.5, "AU15": 1.0, "AU17": 0.8, "AU45": 0.30},
    "neutral": {},
    "angry": {"AU4": 1.0, "AU5": 0.35, "AU7": 0.8, "AU23": 1.0, "AU17": 0.3},
    "surprise": {"AU1": 0.9, "AU2": 1.0, "AU5": 0.8, "AU25": 0.7, "AU26": 1.0},
    "disgust": {"AU4": 0.45, "AU7": 0.5, "AU9": 1.0, "AU10": 1.0, "AU15": 0.3, "AU25": 0.3},
    "fear": {"AU1": 1.0, "AU2": 0.4, "AU4": 0.7, "AU5": 1.0, "AU20": 1.0, "AU25": 0.7, "AU26": 0.2},
}

#: Lowest intensity of an expression inside its segment, as a share of its peak.
FLOOR = 0.1

EASY_SHARE, EASY_PEAK = (0.50, 0.85), (0.80, 1.00)
HARD_SHARE, HARD_PEAK = (0.25, 0.35), (0.40, 0.60)
OTHER_SHARE = (0.15, 0.30)
#: Peak of the interfering expression: relative to the key expression, or absolute in a neutral clip.
OTHER_RATIO, OTHER_PEAK_NEUTRAL = (0.40, 0.75), (0.15, 0.30)


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Intensity of the expressions in each frame.

    Attributes:
      key: float64 [T], intensity of the key expression; zero outside its segment, and everywhere
        in a neutral clip.
      other: float64 [T], intensity of the interfering expression; zero in an easy clip.
      key_start: first frame of the key segment.
      key_end: one past its last frame.
    """

    key: np.ndarray
    other: np.ndarray
    key_start: int
    key_end: int


def timeline(parameters: Parameters, split: str, index: int, labels: Labels) -> Timeline:
    """Samples when the expressions of a clip rise, hold and fall; see README.md for the bounds."""
    rng = parameters_lib.rng(parameters, split, index, Stream.TIMELINE)
    n = parameters.num_frames
    draws = rng.random(7)
    key_ramps, other_ramps = rng.uniform(0.15, 0.35, (2, 2))
    other = np.zeros(n)
    if not labels.is_hard:
        length = _frames(draws[0], EASY_SHARE, n)
        start = int(draws[1] * (n - length + 1))
        key = envelope(n, start, start + length, key_ramps) * _between(draws[2], EASY_PEAK)
    else:
        length, other_length = _frames(draws[0], HARD_SHARE, n), _frames(draws[3], OTHER_SHARE, n)
        start, other_start = _apart(n, length, other_length, draws[1], draws[4], draws[5] < 0.5)
        peak = _between(draws[2], HARD_PEAK)
        key = envelope(n, start, start + length, key_ramps) * peak
        other_peak = peak * _between(draws[6], OTHER_RATIO)
        if labels.true_label == NEUTRAL:
            other_peak = _between(draws[6], OTHER_PEAK_NEUTRAL)
        other = envelope(n, other_start, other_start + other_length, other_ramps) * other_peak
    if labels.true_label == NEUTRAL:
        start, end = _longest_rest(other)
        return Timeline(np.zeros(n), other, start, end)
    return Timeline(key, other, start, start + length)


def envelope(num_frames: int, start: int, end: int, ramps: np.ndarray) -> np.ndarray:
    """Returns intensities, float64 [num_frames]: onset, apex of 1, offset; 0 outside the segment.

    Args:
      num_frames: number of frames of the clip.
      start: first frame of the segment.
      end: one past its last frame.
      ramps: [2], onset and offset as shares of the segment, each below a half.
    """
    place = (np.arange(num_frames) + 0.5 - start) / (end - start)
    ramp = np.minimum(place / ramps[0], (1 - place) / ramps[1]).clip(0, 1)
    ramp = ramp / ramp.max()  # so that even a segment of two frames reaches its apex
    inside = FLOOR + (1 - FLOOR) * ramp * ramp * (3 - 2 * ramp)
    return np.where((place > 0) & (place < 1), inside, 0.0)


def actions(
    parameters: Parameters, split: str, index: int, labels: Labels, time: Timeline
) -> dict[str, np.ndarray]:
    """Returns the intensity of each action unit, name -> float64 [T], 0 to about 1.2.

    Combines the two expressions with the person's own strength of each action unit, resting face, idle
    motion, blinks and speech.
    """
    rng = parameters_lib.rng(parameters, split, index, Stream.ACTION)
    n = parameters.num_frames
    t = (np.arange(n) + 0.5) / n
    habits = rng.uniform(0.85, 1.15, (len(CLASSES), len(ACTION_UNITS)))
    weakest = rng.integers(len(ACTION_UNITS), size=len(CLASSES))
    habits[np.arange(len(CLASSES)), weakest] *= 0.5
    result = {}
    for column, name in enumerate(ACTION_UNITS):
        result[name] = 0.04 * wander(rng, t)
        for label, intensity in ((labels.true_label, time.key), (labels.other_label, time.other)):
            if label >= 0:
                full = PROTOTYPES[CLASSES[label]].get(name, 0.0)
                result[name] = result[name] + full * habits[label, column] * intensity
    for name, low, high in (("AU1", 0, 0.08), ("AU4", 0, 0.12), ("AU12", -0.06, 0.12)):
        result[name] = result[name] + rng.uniform(low, high)
    speech = _speech(rng, t)
    result["AU25"] = result["AU25"] + 0.35 * speech
    result["AU26"] = result["AU26"] + 0.22 * speech
    result["AU15"] = result["AU15"] + 0.8 * np.maximum(0, -result["AU12"])
    result["AU45"] = np.maximum(result["AU45"], _blinks(rng, t))
    return {name: value.clip(0, 1.2) for name, value in result.items()}


def wander(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Samples a slow random motion of about unit size, float64 [T], at times `t` in [0, 1]."""
    frequency, phase = rng.uniform(0.3, 2.0, (3, 1)), rng.uniform(0, 2 * np.pi, (3, 1))
    return np.sin(2 * np.pi * frequency * t + phase).sum(axis=0) / np.sqrt(1.5)


def _speech(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Samples the opening of a talking mouth, 0 to 1; about a third of the clips have speech."""
    talks, center, width = rng.random() < 0.3, rng.random(), rng.uniform(0.15, 0.5)
    frequency, phase = rng.uniform(4, 9), rng.uniform(0, 2 * np.pi)
    window = np.exp(-(((t - center) / width) ** 2))
    return talks * window * (0.5 + 0.5 * np.sin(2 * np.pi * frequency * t + phase))


def _blinks(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Samples the closing of the eyes, 0 to 1; about one blink per clip."""
    centers = np.where(rng.random(3) < 0.35, rng.random(3), -9.0)
    return np.exp(-(((t[:, None] - centers) / 0.03) ** 2)).max(axis=1)


def _between(draw: float, bounds: tuple[float, float]) -> float:
    return bounds[0] + draw * (bounds[1] - bounds[0])


def _frames(draw: float, share: tuple[float, float], num_frames: int) -> int:
    """Returns a uniform number of frames whose share of the clip is within the bounds."""
    low, high = max(1, np.ceil(share[0] * num_frames)), max(1, np.floor(share[1] * num_frames))
    return int(low + np.floor(draw * (max(low, high) - low + 1)))


def _apart(
    num_frames: int, length: int, other_length: int, first: float, second: float, swap: bool
) -> tuple[int, int]:
    """Returns the starts of two segments with at least one frame between them."""
    slack = num_frames - length - other_length - 1
    cut_low, cut_high = sorted((int(first * (slack + 1)), int(second * (slack + 1))))
    if swap:
        return cut_high + other_length + 1, cut_low
    return cut_low, cut_high + length + 1


def _longest_rest(other: np.ndarray) -> tuple[int, int]:
    """Returns the longest range of frames without any expression."""
    busy = np.flatnonzero(other)
    if not busy.size:
        return 0, len(other)
    before, after = (0, int(busy[0])), (int(busy[-1]) + 1, len(other))
    return max(before, after, key=lambda span: span[1] - span[0])
