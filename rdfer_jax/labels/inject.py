"""Injects wrong labels, with known truth, into the training split of any built data set.

    rdfer inject --config=dfew --kind=confusion --rate=0.3 --output=flips.csv
    rdfer train --config=dfew --config.data.labels=flips.csv --workdir=runs/flips

Enters: the true labels if the data set knows them, else the stored ones. Leaves: a CSV file with the
columns clip_id, label, true_label, is_flipped, in the order of the split. The data set is not changed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from scipy import optimize, special, stats

from rdfer_jax import build
from rdfer_jax.config import Data
from rdfer_jax.labels import csv_file, vote_noise
from rdfer_jax.media.files import MediaError
from rdfer_jax.pipeline import decode, source

#: Kinds whose wrong classes come from a matrix for DFEW's seven classes.
MATRICES = ("confusion", "fer2013", "crema_d")
KINDS = ("symmetric", *MATRICES, "instance")
COLUMNS = vote_noise.COLUMNS

#: Added to the annotators' disagreement, in [0, 1], before it is scaled to probabilities, so that unanimous
#: labels are flipped, too: about a tenth as often as labels with maximal disagreement.
UNANIMOUS = 0.1
#: Standard deviation of the clips' flip rates in Xia et al. 2020; side of our thumbnails in pixels.
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
    """Replaces labels by wrong ones, independently for each clip.

    symmetric: with probability `rate`, by any other class with equal probability.
    confusion, fer2013, crema_d: with probability `rate`, by a class sampled from the label's row of
      `confusion`, by default our own matrix or one counted in that data set, see `default_confusion`.
    instance, with votes: with probability min(1, s (0.1 + h)), where h in [0, 1] is the normalized
      entropy of the clip's votes and s makes `rate` the mean; by a class sampled from the label's row of
      `confusion` plus the shares of the votes. Ours.
    instance, without votes: as Xia et al. 2020 (Part-dependent Label Noise, algorithm 2): with a
      probability from a normal distribution around `rate`, truncated to [0, 1], by a class sampled from
      the softmax of a random projection of the picture, with one projection per label. Ours: the
      standard deviation of 0.1 shrinks to a third of rate or 1 - rate, so that `rate` remains the mean.

    With the same seed, a higher rate flips the same labels to the same classes, and further ones. Except
    for kind instance, which compares the clips, a clip's result does not depend on the clips after it.

    Args:
      labels_N: int [N], the true labels, in [0, num_classes); N > 0.
      num_classes: C, at least 2.
      kind: one of KINDS.
      rate: expected share of flipped labels, in [0, 1).
      seed: seed of all samples, at least 0.
      confusion: weights [C, C], rows are labels, columns wrong classes; zero diagonal, rows of any
        scale. By default `default_confusion(num_classes, kind)`.
      votes: [N, C], annotators' votes. A clip without votes counts as one of average disagreement; if
        no clip has any, there are no votes. Used by kind instance.
      thumbnails: [N, ...], a small picture of each clip, of any scale. Used by kind instance without
        votes.

    Returns:
      int64 [N].

    Raises:
      ValueError: an argument is out of range or has the wrong shape.
    """
    _check(kind, rate)
    labels_N = _checked_labels(labels_N, num_classes)
    confusion_CC = _checked_confusion(
        default_confusion(num_classes, kind) if confusion is None else confusion, num_classes
    )
    whether_N, which_N, how_N = np.random.default_rng(seed).random((len(labels_N), 3)).T
    rate_N = np.full(len(labels_N), float(rate))
    if kind == "symmetric":
        weights_NC = np.ones((len(labels_N), num_classes))
    elif kind in MATRICES:
        weights_NC = confusion_CC[labels_N]
    elif votes is not None and np.any(votes):
        shares_NC = _shares(_checked_table("votes", votes, (len(labels_N), num_classes)))
        rate_N = scaled(UNANIMOUS + _disagreement(shares_NC), rate)
        weights_NC = confusion_CC[labels_N] + shares_NC
    else:
        pictures_NS = _standardized(thumbnails, len(labels_N))
        rate_N = _truncated_normal(how_N, rate)
        weights_NC = _projected(pictures_NS, labels_N, num_classes, seed)
    wrong_N = _pick(weights_NC, labels_N, which_N)
    return np.where(whether_N < rate_N, wrong_N, labels_N)


def default_confusion(classes: Sequence[str] | int, kind: str = "confusion") -> np.ndarray:
    """Returns the weights of the wrong classes of each label: float [C, C], zero diagonal, rows sum to 1.

    For the seven classes of DFEW and FERV39k, in any order: kinds fer2013 and crema_d have the confusions
    of people, counted in these data sets; other kinds have a matrix of our own; see
    data/synthetic_faces/confusions.py. For other classes: the next class, and the first after the last, as
    the pair flips of Han et al. 2018 (Co-teaching).

    Args:
      classes: names of the C classes; or C, where 7 stands for DFEW's classes in DFEW's order.
      kind: one of KINDS.

    Raises:
      ValueError: kind is fer2013 or crema_d, and the classes are not DFEW's.
    """
    synthetic = build.datasets("synthetic_faces.confusions")
    if isinstance(classes, int):
        classes = (
            synthetic.CLASSES
            if classes == len(synthetic.CLASSES)
            else [str(i) for i in range(classes)]
        )
    if sorted(classes) == sorted(synthetic.CLASSES):
        place = [synthetic.CLASSES.index(name) for name in classes]
        return synthetic.MATRICES.get(kind, synthetic.CONFUSION)[np.ix_(place, place)]
    if kind in ("fer2013", "crema_d"):
        raise ValueError(
            f"kind {kind!r}: expected the classes {', '.join(synthetic.CLASSES)}, got "
            f"{', '.join(classes)}. Use another kind"
        )
    return np.roll(np.eye(len(classes)), 1, axis=1)


def write_flips(
    data: Data, kind: str, rate: float | None, seed: int, path: epath.PathLike
) -> dict[str, tuple[int, int]]:
    """Injects wrong labels into the training split of a built data set and writes them as a CSV file.

    The true labels are true_label if the data set has it, else the stored labels; data.labels is ignored.
    Wrong classes follow `default_confusion`. The kinds of `vote_noise` are made by its rule.

    Args:
      data: the data set.
      kind: as in `flip`, or in `vote_noise.draw`.
      rate: as in `flip`, or in `vote_noise.draw`.
      seed: as in `flip`.
      path: the file; may be gs://. An existing file is replaced.

    Returns:
      For each class the number of its clips, and how many of them got a wrong label.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      ValueError: the split, kind or rate is invalid, or a picture cannot be decoded.
    """
    if kind in vote_noise.KINDS:
        return vote_noise.write(data, kind, rate, seed, path).counts
    _check(kind, rate)
    assert rate is not None
    split = source.open_split(source.find(data), data.train_split)
    truth = "true_label" if split.has_truth else "label"
    stored = split.columns("clip_id", "votes", truth)
    true_N, votes_NC = stored[truth], stored["votes"]
    label_N = flip(
        true_N, len(split.classes), kind, rate, seed,
        confusion=default_confusion(split.classes, kind),
        votes=votes_NC,
        thumbnails=_thumbnails(split, data.fit) if kind == "instance" and not votes_NC.any() else None,
    )  # fmt: skip
    flipped_N = label_N != true_N
    names = np.array(split.classes)
    columns = (stored["clip_id"], names[label_N], names[true_N], flipped_N.astype(int))
    csv_file.write(path, COLUMNS, zip(*(column.tolist() for column in columns), strict=True))
    return {
        name: (int((true_N == c).sum()), int(flipped_N[true_N == c].sum()))
        for c, name in enumerate(split.classes)
    }


def _check(kind: str, rate: float | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose from {', '.join((*KINDS, *vote_noise.KINDS))}")
    if rate is None:
        raise ValueError(f"kind {kind!r} needs --rate, the expected share of wrong labels")
    if not 0 <= rate < 1:
        raise ValueError(f"rate {rate}: must lie in [0, 1)")


def _checked_table(name: str, table: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns weights as floats."""
    table = np.asarray(table, np.float64)
    if table.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {table.shape}")
    if not np.isfinite(table).all() or (table < 0).any():
        raise ValueError(f"{name} must be finite and non-negative")
    return table


def _checked_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        raise ValueError(
            f"labels: expected integers of shape [N], got {labels.dtype} of shape {labels.shape}"
        )
    if num_classes < 2:
        raise ValueError(f"num_classes {num_classes}: a wrong label needs at least two classes")
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes}), got [{labels.min()}, {labels.max()}]"
        )
    return labels.astype(np.int64)


def _checked_confusion(confusion: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the matrix with rows that sum to 1."""
    confusion = _checked_table("confusion", confusion, (num_classes, num_classes))
    if confusion.diagonal().any() or not confusion.any(axis=1).all():
        raise ValueError("confusion must have a zero diagonal and no row of zeros")
    return confusion / confusion.sum(axis=1, keepdims=True)


def _shares(votes_NC: np.ndarray) -> np.ndarray:
    """Votes -> shares, float [N, C]; zeros without votes."""
    return votes_NC / np.maximum(votes_NC.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def _disagreement(shares_NC: np.ndarray) -> np.ndarray:
    """Normalized entropy of each clip's votes, in [0, 1]; the mean of the others for clips without."""
    entropy_N = special.entr(shares_NC).sum(axis=1) / np.log(shares_NC.shape[1])
    voted_N = shares_NC.any(axis=1)
    return np.where(voted_N, entropy_N, entropy_N[voted_N].mean())


def scaled(weights_N: np.ndarray, mean: float) -> np.ndarray:
    """Returns min(1, s weights) with the s for which their mean is `mean`."""

    def excess(scale: float) -> float:
        return float(np.minimum(1, scale * weights_N).mean() - mean)

    scale = optimize.brentq(excess, 0.0, 1 / weights_N.min(), xtol=1e-15)
    return np.minimum(1, scale * weights_N)


def _standardized(thumbnails: np.ndarray | None, count: int) -> np.ndarray:
    """Pictures -> float [N, S], each pixel with mean 0 and standard deviation 1 over the clips."""
    if thumbnails is None:
        raise ValueError("kind 'instance' needs votes or thumbnails")
    pictures = np.asarray(thumbnails, np.float64)
    if pictures.shape[:1] != (count,):
        raise ValueError(f"thumbnails: expected shape ({count}, ...), got {pictures.shape}")
    pictures_NS = pictures.reshape(count, -1)
    deviation_S = pictures_NS.std(axis=0)
    return (pictures_NS - pictures_NS.mean(axis=0)) / np.where(deviation_S > 0, deviation_S, 1)


def _truncated_normal(uniform_N: np.ndarray, mean: float) -> np.ndarray:
    """Uniform numbers -> rates from a normal distribution around the mean, truncated to [0, 1]."""
    deviation = min(RATE_DEVIATION, mean / 3, (1 - mean) / 3)
    if deviation == 0:
        return np.full_like(uniform_N, mean)
    low, high = (0 - mean) / deviation, (1 - mean) / deviation
    return np.asarray(stats.truncnorm.ppf(uniform_N, low, high, loc=mean, scale=deviation))


def _projected(
    pictures_NS: np.ndarray, labels_N: np.ndarray, num_classes: int, seed: int
) -> np.ndarray:
    """Weights of the classes, float [N, C]: softmax of the picture times a random matrix of its label.

    The label itself is left out, and the largest of the other weights is 1.
    """
    rng = np.random.default_rng((seed, 1))  # independent of the samples for the clips
    logits_NC = np.empty((len(labels_N), num_classes))
    for c in range(num_classes):
        matrix_SC = rng.standard_normal((pictures_NS.shape[1], num_classes))
        logits_NC[labels_N == c] = pictures_NS[labels_N == c] @ matrix_SC
    logits_NC[np.arange(len(labels_N)), labels_N] = -np.inf
    return np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))


def _pick(weights_NC: np.ndarray, labels_N: np.ndarray, uniform_N: np.ndarray) -> np.ndarray:
    """Samples a class other than the label by its weight, int [N]."""
    weights_NC = weights_NC.copy()
    weights_NC[np.arange(len(labels_N)), labels_N] = 0
    sum_NC = weights_NC.cumsum(axis=1)
    # The last column divided by itself is exactly 1, so no uniform number lies beyond it.
    return ((sum_NC / sum_NC[:, -1:]) <= uniform_N[:, None]).sum(axis=1)


def _thumbnails(split: source.Split, fit: str) -> np.ndarray:
    """The first frame of every clip in gray, float [N, 8, 8]; fit as in decode_frame."""
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
    """Returns the result of `write_flips` as one line of text."""
    clips, flipped = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    return f"{flipped} of {clips} labels flipped ({flipped / clips:.1%}): " + ", ".join(
        f"{name} {wrong} of {count}" for name, (count, wrong) in counts.items()
    )
