"""Pairs of classes that differ in movement only: one member is the other one played backward.

So the frames of the two have the same distribution, whatever is sampled from a clip, as long as their order
does not count. The order shows the class at one of two scales:

- onset: neighboring frames at the video's own rate. Bursts rise within a frame and fade over two, or the
  reverse. They start at random, so that frames more than a few apart have forgotten each other.
- order and duration: the whole clip. Two expressions, or a brief and a long one, with rest between them,
  that rise and fall alike.

Lengths of bursts are in frames, not in shares of the clip.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from . import expressions
from . import parameters as parameters_lib
from .expressions import Timeline
from .labels import Labels
from .parameters import CLASSES, MOVEMENT_CLASSES, Parameters, Stream


@dataclasses.dataclass(frozen=True)
class Movement:
    """How the expression of a class moves.

    Attributes:
      kind: of the pair.
      first: the expression, or that of the pair's first member that comes first.
      second: the other expression of an order; empty if there is one expression.
      backward: whether the class is the member of the pair that is played backward.
    """

    kind: Literal["onset", "order", "duration"]
    first: str
    second: str = ""
    backward: bool = False


#: Class -> its movement. The members of a pair follow each other.
MOVEMENTS: Mapping[str, Movement] = {
    "happy_quick_onset": Movement("onset", "happy"),
    "happy_slow_onset": Movement("onset", "happy", backward=True),
    "angry_quick_onset": Movement("onset", "angry"),
    "angry_slow_onset": Movement("onset", "angry", backward=True),
    "surprise_then_sad": Movement("order", "surprise", "sad"),
    "sad_then_surprise": Movement("order", "surprise", "sad", backward=True),
    "fear_brief_then_long": Movement("duration", "fear"),
    "fear_long_then_brief": Movement("duration", "fear", backward=True),
}

#: Intensity of the frames of a burst and between bursts, as shares of the peak.
BURST, REST = [1.0, 0.6], 0.2
#: Probability that a burst starts in a frame that follows no unfinished burst.
START = 1 / 3
#: Frames of rest between two expressions, at least: no snippet of fewer frames shows both.
GAP = 6
#: Shares of the frames that the two expressions of an order have, and a brief and a long expression.
ORDER_SHARE, BRIEF_SHARE, LONG_SHARE = (0.25, 0.35), (0.12, 0.18), (0.40, 0.50)
#: Length of an expression of an order or a duration in a hard clip, relative to an easy one.
HARD_LENGTH = 0.7


def timeline(parameters: Parameters, split: str, index: int, labels: Labels) -> Timeline:
    """Samples when the expressions of a clip are shown, and how strongly.

    `key` and `other` are the intensities of the movement's first and second expression. The key segment
    reaches from the first to the last frame with an expression.
    """
    rng = parameters_lib.rng(parameters, split, index, Stream.TIMELINE)
    movement = MOVEMENTS[MOVEMENT_CLASSES[labels.true_label]]
    if movement.kind == "onset":
        tracks = _bursts(rng, parameters.num_frames, labels.is_hard)[None]
    else:
        tracks = _two(rng, parameters.num_frames, labels.is_hard, movement.kind)
    if movement.kind == "duration":
        tracks = tracks.sum(axis=0, keepdims=True)
    if movement.backward:
        tracks = tracks[:, ::-1]
    shown = np.flatnonzero(tracks.sum(axis=0))
    other = tracks[1] if len(tracks) > 1 else np.zeros(parameters.num_frames)
    return Timeline(tracks[0], other, int(shown[0]), int(shown[-1]) + 1)


def drawn(labels: Labels) -> Labels:
    """Returns labels whose true and other label are the expressions to draw, indices of CLASSES."""
    movement = MOVEMENTS[MOVEMENT_CLASSES[labels.true_label]]
    second = CLASSES.index(movement.second) if movement.second else -1
    return dataclasses.replace(labels, true_label=CLASSES.index(movement.first), other_label=second)


def plays_backward(parameters: Parameters, split: str, index: int) -> bool:
    """Samples whether things that pass through the scene do so backward, whatever the class.

    They enter more often than they leave, which would tell a clip from one that is played backward.
    """
    return bool(parameters_lib.rng(parameters, split, index, Stream.DIRECTION).random() < 0.5)


def _peak(rng: np.random.Generator, is_hard: bool) -> float:
    return rng.uniform(*(expressions.HARD_PEAK if is_hard else expressions.EASY_PEAK))


def _bursts(rng: np.random.Generator, num_frames: int, is_hard: bool) -> np.ndarray:
    """Samples bursts that rise at once, inside a random segment, float64 [T].

    A Markov chain that starts before the clip. It soon forgets: its other eigenvalues have the absolute
    value START^(1/2), so that START^4 = 1 % of its memory is left after eight frames.
    """
    peak = _peak(rng, is_hard)
    share = expressions.HARD_SHARE if is_hard else expressions.EASY_SHARE
    length = round(rng.uniform(*share) * num_frames)
    start = rng.integers(num_frames - length + 1)
    levels: list[float] = []
    before = 32
    while len(levels) < before + num_frames:
        levels += BURST if rng.random() < START else [REST]
    inside = slice(start, start + length)
    track = np.zeros(num_frames)
    track[inside] = peak * np.array(levels[before : before + num_frames])[inside]
    return track


def _two(rng: np.random.Generator, num_frames: int, is_hard: bool, kind: str) -> np.ndarray:
    """Samples two expressions one after the other with rest between them, float64 [2, T]."""
    shares = (BRIEF_SHARE, LONG_SHARE) if kind == "duration" else (ORDER_SHARE, ORDER_SHARE)
    scale = HARD_LENGTH if is_hard else 1.0
    lengths = [max(3, round(scale * rng.uniform(*share) * num_frames)) for share in shares]
    peaks = [_peak(rng, is_hard)] * 2 if kind == "duration" else [_peak(rng, is_hard) for _ in "12"]
    slack = num_frames - sum(lengths) - GAP
    before, until = np.sort(rng.integers(slack + 1, size=2)).tolist()
    starts = (before, until + lengths[0] + GAP)
    tracks = [
        peak * expressions.envelope(num_frames, start, start + length, rng.uniform(0.15, 0.35, 2))
        for start, length, peak in zip(starts, lengths, peaks, strict=True)
    ]
    return np.stack(tracks)
