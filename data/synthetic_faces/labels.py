"""The labels of a clip: true and given class, hardness, and annotators' votes.

Labels do not depend on the rendering, so the labels of a whole data set are cheap to compute.
"""

import dataclasses
import functools

import numpy as np

from . import parameters as parameters_lib
from .confusions import CONFUSION, MATRICES, MOVEMENT
from .parameters import CLASSES, DFEW_COUNTS, NEUTRAL, Parameters, Stream

NUM_CLASSES = len(CLASSES)
NUM_ANNOTATORS = 10
#: With `flip_kind='instance'`, the flip rate of hard clips relative to easy ones.
HARD_FLIP_RATIO = 3.0


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of one clip.

    Attributes:
      true_label: index of the rendered class.
      label: index of the given class, which may be wrong.
      is_hard: whether the clip is hard.
      other_label: class of the interfering expression of a hard clip, never neutral and never the
        true class; -1 in an easy clip, and in every clip of the pairs that differ in movement.
      votes: float32 [C], the votes of the annotators per class, sum 10.
    """

    true_label: int
    label: int
    is_hard: bool
    other_label: int
    votes: np.ndarray

    @property
    def is_flipped(self) -> bool:
        """Whether the given label is wrong."""
        return self.label != self.true_label


def labels(parameters: Parameters, split: str, index: int) -> Labels:
    """Returns the labels of clip `index` of the split.

    Raises:
      ValueError: there is no such split.
      IndexError: there is no such clip.
    """
    num_clips = parameters.num_clips(split)
    if not 0 <= index < num_clips:
        raise IndexError(f"clip {index} of the {num_clips} clips of the split '{split}'")
    true_label = _true_label(parameters, split, index)
    is_hard, other_label = _hardness(parameters, split, index, true_label)
    votes = _votes(parameters, split, index, true_label, is_hard, other_label)
    label = _given_label(parameters, split, index, true_label, is_hard, votes)
    return Labels(true_label, label, is_hard, other_label, votes)


def flip_probability(parameters: Parameters, split: str, is_hard: bool) -> float:
    """Returns the probability that the label of a clip is flipped.

    Instance-dependent flips preserve the overall rate: with h the share of hard clips,
    h * p_hard + (1 - h) * p_easy = flip_rate, and p_hard = 3 * p_easy unless that exceeds 1.
    """
    if split == "test":
        return 0.0
    rate, hard_share = parameters.flip_rate, parameters.hard_share
    if parameters.flip_kind != "instance":
        return rate
    easy = rate / (1 + (HARD_FLIP_RATIO - 1) * hard_share)
    hard = HARD_FLIP_RATIO * easy
    if hard > 1 and hard_share < 1:
        hard = 1.0
        easy = (rate - hard_share) / (1 - hard_share)
    return hard if is_hard else easy


def class_sequence(num_clips: int, imbalance: bool, num_classes: int = NUM_CLASSES) -> np.ndarray:
    """Returns the classes of the clips before shuffling, int [num_clips].

    In every prefix, the count of each class is within about one clip of its share (the divisor method of
    Sainte-Lague; for equal shares, round-robin). So a smaller data set is a prefix of a larger one.
    """
    shares = np.array(DFEW_COUNTS if imbalance else [1] * num_classes, dtype=float)
    given = np.zeros(num_classes)
    sequence = np.empty(num_clips, dtype=int)
    for i in range(num_clips):
        sequence[i] = np.argmax(shares / (2 * given + 1))
        given[sequence[i]] += 1
    return sequence


@functools.lru_cache(maxsize=8)
def _class_sequence(num_clips: int, imbalance: bool, num_classes: int) -> np.ndarray:
    return class_sequence(num_clips, imbalance, num_classes)


def _true_label(parameters: Parameters, split: str, index: int) -> int:
    """Returns the class of a clip: the sequence of classes, shuffled in blocks of one clip per class."""
    count = len(parameters.classes)
    block, place = divmod(index, count)
    num_blocks = -(-parameters.num_clips(split) // count)
    sequence = _class_sequence(num_blocks * count, parameters.is_imbalanced(split), count)
    order = parameters_lib.rng(parameters, split, block, Stream.LABEL).permutation(count)
    return int(sequence[block * count + order[place]])


def _hardness(parameters: Parameters, split: str, index: int, true: int) -> tuple[bool, int]:
    """Samples whether the clip is hard, and the interfering class (-1: none)."""
    rng = parameters_lib.rng(parameters, split, index, Stream.HARD)
    is_hard = bool(rng.random() < parameters.hard_share)
    if parameters.movement_pairs:
        return is_hard, -1
    weights = CONFUSION[true] + 1 / NUM_CLASSES
    weights[[true, NEUTRAL]] = 0
    other = int(rng.choice(NUM_CLASSES, p=weights / weights.sum()))
    return is_hard, other if is_hard else -1


def _votes(
    parameters: Parameters, split: str, index: int, true: int, is_hard: bool, other: int
) -> np.ndarray:
    """Samples the votes of ten annotators; in a hard clip, some vote for the interfering expression."""
    rng = parameters_lib.rng(parameters, split, index, Stream.VOTES)
    shares = (0.40 if is_hard else 0.12) * _confusion(parameters)[true]
    shares[true] += 0.42 if is_hard else 0.88
    if other >= 0:
        shares[other] += 0.18
    return rng.multinomial(NUM_ANNOTATORS, shares / shares.sum()).astype(np.float32)


def _given_label(
    parameters: Parameters, split: str, index: int, true: int, is_hard: bool, votes: np.ndarray
) -> int:
    """Samples the given label; a higher flip rate flips the same clips and more."""
    rng = parameters_lib.rng(parameters, split, index, Stream.FLIP)
    is_flipped = rng.random() < flip_probability(parameters, split, is_hard)
    if not is_flipped:
        return true
    if parameters.flip_kind == "symmetric":
        weights = np.ones(len(votes))
    elif parameters.flip_kind == "instance":  # the votes of this clip, and common confusions
        weights = _confusion(parameters)[true] + votes / NUM_ANNOTATORS
    else:
        weights = _confusion(parameters, parameters.flip_kind)[true].copy()
    weights[true] = 0
    return int(rng.choice(len(votes), p=weights / weights.sum()))


def _confusion(parameters: Parameters, kind: str = "confusion") -> np.ndarray:
    """Returns the probability of each wrong class (column) for each true class (row)."""
    return MOVEMENT if parameters.movement_pairs else MATRICES[kind]
