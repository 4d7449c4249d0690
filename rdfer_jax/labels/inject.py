"""Draws wrong labels, whose truth is known, for the training split of any built data set.

    rdfer inject --config=dfew --kind=confusion --rate=0.3 --output=flips.csv
    rdfer train --config=dfew --config.data.labels=flips.csv --workdir=runs/flips

Enters: the true labels where the data set knows them, else the stored ones. Leaves: a CSV file with the
columns clip_id, label, true_label, is_flipped, in the order of the split. The data set stays as it is.
"""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from scipy import special

from rdfer_jax import build
from rdfer_jax.config import Data
from rdfer_jax.media.files import MediaError
from rdfer_jax.pipeline import decode, source

KINDS = ("symmetric", "confusion", "instance")
COLUMNS = ("clip_id", "label", "true_label", "is_flipped")

#: Added to the annotators' disagreement, in [0, 1], before it is scaled to probabilities: labels on
#: which all agree are flipped as well, about a tenth as often as those on which nobody agrees.
UNANIMOUS = 0.1
#: Standard deviation of the clips' flip rates in Xia et al. 2020, and side of our thumbnails, pixels.
RATE_DEVIATION = 0.1
THUMBNAIL = 8


def flip(
    labels_N: np.ndarray,
    num_classes: int,
    kind: str,
    rate: float,
    seed: int,
    *,
    confusion: np.ndarray | None = None,
    votes: np.ndarray | None = None,
    thumbnails: np.ndarray | None = None,
) -> np.ndarray:
    """Replaces labels by wrong ones, each clip on its own.

    symmetric: with probability `rate`, by any other class, all equally likely.
    confusion: with probability `rate`, by the classes that the label's row of `confusion` names.
    instance, with votes: with probability min(1, s (0.1 + h)), where h in [0, 1] is the normalised
      entropy of the clip's votes and s makes `rate` the mean; by a class drawn from the label's row of
      `confusion` plus the shares of the votes. Ours.
    instance, without: as Xia et al. 2020 (Part-dependent Label Noise, algorithm 2): with a probability
      from a normal distribution around `rate`, cut off at 0 and 1, by a class drawn from the softmax of
      a random projection of the picture, one projection for each class of label. Ours: its standard
      deviation of 0.1 shrinks to a third of rate or 1 - rate, so that `rate` remains the mean.

    With the same seed a higher rate flips the same labels, to the same classes, and more. What happens
    to a clip does not depend on how many follow it, but for kind instance, which compares the clips.

    Args:
      labels_N: int [N], the true labels, in [0, num_classes); N > 0.
      num_classes: C, at least 2.
      kind: one of KINDS.
      rate: expected share of flipped labels, in [0, 1).
      seed: of all that is drawn, at least 0.
      confusion: [C, C], row: label, column: wrong class; zero diagonal, rows in any scale. None: what
        `default_confusion(num_classes)` returns.
      votes: [N, C], annotators' votes; clips whose votes are all zero count as ordinary ones, and if
        all are zero there are no votes. Used by kind instance.
      thumbnails: [N, ...], a small picture of each clip, in any scale. Used by kind instance where
        there are no votes.

    Returns:
      int64 [N].

    Raises:
      ValueError: an argument is outside of its limits, or its shape does not fit.
    """
    _check(kind, rate)
    labels_N = _checked_labels(labels_N, num_classes)
    confusion_CC = _checked_confusion(
        default_confusion(num_classes) if confusion is None else confusion, num_classes
    )
    whether_N, which_N, how_N = np.random.default_rng(seed).random((len(labels_N), 3)).T
    rate_N = np.full(len(labels_N), float(rate))
    if kind == "symmetric":
        weights_NC = np.ones((len(labels_N), num_classes))
    elif kind == "confusion":
        weights_NC = confusion_CC[labels_N]
    elif votes is not None and np.any(votes):
        shares_NC = _shares(_checked_table("votes", votes, (len(labels_N), num_classes)))
        rate_N = _scaled(UNANIMOUS + _disagreement(shares_NC), rate)
        weights_NC = confusion_CC[labels_N] + shares_NC
    else:
        pictures_NS = _standardised(thumbnails, len(labels_N))
        rate_N = _truncated_normal(how_N, rate)
        weights_NC = _projected(pictures_NS, labels_N, num_classes, seed)
    wrong_N = _pick(weights_NC, labels_N, which_N)
    return np.where(whether_N < rate_N, wrong_N, labels_N)


def default_confusion(classes: Sequence[str] | int) -> np.ndarray:
    """Returns by which classes a label is replaced: float [C, C], zero diagonal, rows sum to 1.

    For the seven classes of DFEW and FERV39k, in any order, by those that people confuse it with, as
    data/synthetic_faces/labels.py has it. For others by the next class, the last one by the first: pair
    flips, as in Han et al. 2018 (Co-teaching).

    Args:
      classes: the names of the C classes; or C, where 7 stands for DFEW's classes in DFEW's order.
    """
    people = build.datasets("synthetic_faces.labels")
    if isinstance(classes, int):
        classes = (
            people.CLASSES if classes == len(people.CLASSES) else [str(i) for i in range(classes)]
        )
    if sorted(classes) != sorted(people.CLASSES):
        return np.roll(np.eye(len(classes)), 1, axis=1)
    place = [people.CLASSES.index(name) for name in classes]
    return people.CONFUSION[np.ix_(place, place)]


def write_flips(
    data: Data, kind: str, rate: float, seed: int, path: epath.PathLike
) -> dict[str, tuple[int, int]]:
    """Draws flips for the training split of a built data set and writes them as a CSV file.

    Drawn from true_label where the data set has it, else from the stored label, by the confusion that
    `default_confusion` gives for the names of the classes. data.labels is not looked at.

    Args:
      data: which data set.
      kind: as in `flip`.
      rate: as in `flip`.
      seed: as in `flip`.
      path: of the file; may be gs://. Overwritten if it exists.

    Returns:
      For each class how many clips are truly of it, and how many of these got a wrong label.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      ValueError: there is no such split, kind or rate, or a picture cannot be decoded.
    """
    _check(kind, rate)
    split = source.Split(source.find(data), data.train_split)
    truth = "true_label" if split.has_truth else "label"
    stored = split.stored("clip_id", "votes", truth)
    true_N, votes_NC = stored[truth], stored["votes"]
    label_N = flip(
        true_N, len(split.classes), kind, rate, seed,
        confusion=default_confusion(split.classes),
        votes=votes_NC,
        thumbnails=_thumbnails(split, data.fit) if kind == "instance" and not votes_NC.any() else None,
    )  # fmt: skip
    flipped_N = label_N != true_N
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    names = np.array(split.classes)
    columns = (stored["clip_id"], names[label_N], names[true_N], flipped_N.astype(int))
    writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue())
    return {
        name: (int((true_N == c).sum()), int(flipped_N[true_N == c].sum()))
        for c, name in enumerate(split.classes)
    }


def _check(kind: str, rate: float) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: take one of {', '.join(KINDS)}")
    if not 0 <= rate < 1:
        raise ValueError(f"rate {rate}: must lie in [0, 1)")


def _checked_table(name: str, table: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns weights as floats."""
    table = np.asarray(table, np.float64)
    if table.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, not {table.shape}")
    if not np.isfinite(table).all() or (table < 0).any():
        raise ValueError(f"{name} must be finite and not negative")
    return table


def _checked_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise ValueError(
            f"labels must be integers of shape [N], not {labels.dtype} of {labels.shape}"
        )
    if num_classes < 2:
        raise ValueError(f"num_classes {num_classes}: a wrong label needs two classes at least")
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes}), not [{labels.min()}, {labels.max()}]"
        )
    return labels.astype(np.int64)


def _checked_confusion(confusion: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the matrix with rows that sum to 1."""
    confusion = _checked_table("confusion", confusion, (num_classes, num_classes))
    if confusion.diagonal().any() or not confusion.any(axis=1).all():
        raise ValueError("confusion must be zero on the diagonal, and not zero in a whole row")
    return confusion / confusion.sum(axis=1, keepdims=True)


def _shares(votes_NC: np.ndarray) -> np.ndarray:
    """Votes -> shares, float [N, C]; zero where there are no votes."""
    return votes_NC / np.maximum(votes_NC.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def _disagreement(shares_NC: np.ndarray) -> np.ndarray:
    """The normalised entropy of each clip's votes, in [0, 1]; the mean of the others without votes."""
    entropy_N = special.entr(shares_NC).sum(axis=1) / np.log(shares_NC.shape[1])
    voted_N = shares_NC.any(axis=1)
    return np.where(voted_N, entropy_N, entropy_N[voted_N].mean())


def _scaled(weights_N: np.ndarray, mean: float) -> np.ndarray:
    """Returns min(1, s weights) with the s for which their mean is as asked, by bisection."""
    low, high = 0.0, 1 / weights_N.min()
    for _ in range(60):
        middle = (low + high) / 2
        if np.minimum(1, middle * weights_N).mean() < mean:
            low = middle
        else:
            high = middle
    return np.minimum(1, low * weights_N)


def _standardised(thumbnails: np.ndarray | None, count: int) -> np.ndarray:
    """Pictures -> float [N, S], each pixel with mean 0 and deviation 1 over the clips."""
    if thumbnails is None:
        raise ValueError("kind 'instance' needs votes, or thumbnails where there are none")
    pictures = np.asarray(thumbnails, np.float64)
    if pictures.shape[:1] != (count,):
        raise ValueError(f"thumbnails must have the shape ({count}, ...), not {pictures.shape}")
    pictures_NS = pictures.reshape(count, -1)
    deviation_S = pictures_NS.std(axis=0)
    return (pictures_NS - pictures_NS.mean(axis=0)) / np.where(deviation_S > 0, deviation_S, 1)


def _truncated_normal(uniform_N: np.ndarray, mean: float) -> np.ndarray:
    """Uniform numbers -> rates from a normal distribution around the mean, cut off at 0 and 1."""
    deviation = min(RATE_DEVIATION, mean / 3, (1 - mean) / 3)
    if deviation == 0:
        return np.full_like(uniform_N, mean)
    low, high = special.ndtr((0 - mean) / deviation), special.ndtr((1 - mean) / deviation)
    return mean + deviation * special.ndtri(low + uniform_N * (high - low))


def _projected(
    pictures_NS: np.ndarray, labels_N: np.ndarray, num_classes: int, seed: int
) -> np.ndarray:
    """Weights of the classes, float [N, C]: a softmax of the picture times its label's own matrix.

    The own label is left out of the softmax, and the largest of the other weights is 1.
    """
    rng = np.random.default_rng((seed, 1))  # apart from what is drawn for the clips
    logits_NC = np.empty((len(labels_N), num_classes))
    for c in range(num_classes):
        matrix_SC = rng.standard_normal((pictures_NS.shape[1], num_classes))
        logits_NC[labels_N == c] = pictures_NS[labels_N == c] @ matrix_SC
    logits_NC[np.arange(len(labels_N)), labels_N] = -np.inf
    return np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))


def _pick(weights_NC: np.ndarray, labels_N: np.ndarray, uniform_N: np.ndarray) -> np.ndarray:
    """Draws a class other than the label by its weight, int [N]."""
    weights_NC = weights_NC.copy()
    weights_NC[np.arange(len(labels_N)), labels_N] = 0
    upto_NC = weights_NC.cumsum(axis=1)
    # Divided by itself the last column is exactly 1, so that no uniform number lies beyond.
    return ((upto_NC / upto_NC[:, -1:]) <= uniform_N[:, None]).sum(axis=1)


def _thumbnails(split: source.Split, fit: str) -> np.ndarray:
    """The first frame of every clip in grey, float [N, 8, 8]; fit as in decode_frame."""
    pictures = np.empty((len(split), THUMBNAIL, THUMBNAIL))
    for i in range(len(split)):
        record = split[i]
        try:
            frame = decode.decode_frame(record["frames"][0], THUMBNAIL, fit)
        except MediaError as error:
            raise ValueError(f"clip {record['clip_id'].decode()!r}: frame 0: {error}") from None
        pictures[i] = frame.mean(axis=-1)
    return pictures


def describe(counts: Mapping[str, tuple[int, int]]) -> str:
    """Returns one line about what `write_flips` returned."""
    clips, flipped = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    return f"{flipped} of {clips} labels flipped ({flipped / clips:.1%}): " + ", ".join(
        f"{name} {wrong} of {count}" for name, (count, wrong) in counts.items()
    )
