"""Wrong labels drawn from the annotators' own votes, by a rule that gives the same file everywhere: DFEW-N.

    rdfer inject --config=dfew --kind=votes --rate=0.3 --output=dfew-n30.csv
    rdfer train --config=dfew:1 --config.data.labels=dfew-n30.csv --workdir=runs/dfew1-n30

Enters: names, labels and votes of the clips of a built data set: of all its folds, or else of its
training split. The labels are the true ones if the data set knows them, else the stored ones. Leaves: a CSV
file with the columns clip_id, label, true_label, is_flipped, ordered by clip_id, and its SHA-256.

Rule v1, for clip i with label y, weights w[c] (thousandths of a vote) and their sum W:

    digest = SHA-256 of the UTF-8 text "v1|SEED|CLIP_ID"
    j, k   = its first and second 8 bytes, as unsigned big-endian integers
    u      = (2 j + 1) / 2^65, in (0, 1)
    t      = u / (1 - u) * w[y] / (W - w[y])
    wrong if and only if t <= lambda: the class c != y at place floor(k (W - w[y]) / 2^64) of their weights

So P(wrong) = lambda (W - w[y]) / (w[y] + lambda (W - w[y])): votes for other classes count lambda times. At
lambda = 1, kind random1, the label is that of one voter. Kind votes takes the lambda at which
floor(RATE N + 1/2) of N labels are wrong. At infinity, kind worst, every clip with such votes is wrong. All
numbers are compared as exact fractions, and classes come in the order of their names, so the file depends
on no order of clips or classes, no machine and no library. The long form: docs/evidence/noise-benchmark.md.

Letters: N clips, C classes.
"""

import csv
import hashlib
import io
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from etils import epath

from rdfer_jax.config import Data
from rdfer_jax.labels import csv_file
from rdfer_jax.pipeline import source

RULE = "v1"
#: votes: lambda for a wanted share; random1: lambda = 1; worst: lambda is infinite.
KINDS = ("votes", "random1", "worst")
COLUMNS = ("clip_id", "label", "true_label", "is_flipped")
#: Units of a vote, which may be a fraction; and the largest number of votes for a class.
UNITS, MOST = 1000, 10**6
#: Two different t differ by more than 2^-220, since their denominators are below 2^110: so the whole part
#: of t 2^SHIFT tells them apart, and orders them, exactly.
_SHIFT = 256


class Drawn(NamedTuple):
    """Labels drawn from the votes.

    Attributes:
      label: int64 [N].
      weight: lambda; infinite for kind worst, 0 if no label is wrong.
    """

    label: np.ndarray
    weight: float


class Made(NamedTuple):
    """What a file holds, and what it was drawn from.

    Attributes:
      title: rule, kind, seed and lambda.
      classes: names of the C classes.
      transitions: int [C, C], clips by label (row) and drawn label.
      disputed: clips with a vote for another class than their label; only these can become wrong.
      unvoted: clips without votes; they keep their label.
      outvoted: clips of whose classes another one has more votes than the label.
      sha256: of the file, hexadecimal.
      inputs: SHA-256 of the names, labels and votes that it was drawn from.
    """

    title: str
    classes: tuple[str, ...]
    transitions: np.ndarray
    disputed: int
    unvoted: int
    outvoted: int
    sha256: str
    inputs: str

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """For each class, the number of its clips and how many of them got a wrong label."""
        total_C = self.transitions.sum(axis=1)
        wrong_C = total_C - self.transitions.diagonal()
        return {
            name: (int(total), int(wrong))
            for name, total, wrong in zip(self.classes, total_C, wrong_C, strict=True)
        }

    def describe(self) -> str:
        """Returns the counts, the matrix and the checksums as lines of text."""
        clips = int(self.transitions.sum())
        wrong = clips - int(np.trace(self.transitions))
        width = max(map(len, self.classes))
        rows = [("", *self.classes), *zip(self.classes, *self.transitions.T.tolist(), strict=True)]
        table = [" ".join(f"{cell!s:>{width}}" for cell in row) for row in rows]
        return "\n".join(
            (
                f"{wrong} of {clips} labels are wrong ({wrong / clips:.2%}); {self.title}",
                f"{self.disputed} clips have a vote for another class; {self.unvoted} have no votes and "
                f"keep their label; {self.outvoted} have more votes for another class than for their label",
                "clips by label (row) and drawn label:",
                *table,
                f"sha256 of the file: {self.sha256}",
                f"sha256 of names, labels and votes: {self.inputs}",
            )
        )


def draw(
    clip_ids: Sequence[str],
    classes: Sequence[str],
    labels_N: np.ndarray,
    votes_NC: np.ndarray,
    kind: str,
    rate: float | None = None,
    seed: int = 0,
) -> Drawn:
    """Draws labels from the votes by the rule v1.

    With the same seed, a higher rate makes the same labels wrong, in the same way, and further ones.

    Args:
      clip_ids: N different names.
      classes: C different names.
      labels_N: int [N], in [0, C).
      votes_NC: float [N, C], in [0, MOST]; they count in thousandths, rounded half up.
      kind: one of KINDS.
      rate: share of wrong labels in [0, 1), for kind votes only.
      seed: of the draw.

    Raises:
      ValueError: kind or rate is invalid, or so many labels cannot become wrong; or votes are not numbers.
    """
    check(kind, rate)
    weights_NC = units(votes_NC)
    by_name = sorted(range(len(classes)), key=lambda c: classes[c])
    place: list[tuple[int, int, str, int]] = []
    wrong_N = np.asarray(labels_N, np.int64).copy()
    for i, (clip_id, y, weights) in enumerate(
        zip(clip_ids, labels_N.tolist(), weights_NC.tolist(), strict=True)
    ):
        others = sum(weights) - weights[y]
        if not others:
            continue
        digest = hashlib.sha256(f"{RULE}|{seed}|{clip_id}".encode()).digest()
        j, k = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
        u = 2 * j + 1
        t = (u * weights[y] << _SHIFT) // ((2**65 - u) * others)
        place.append((t, j, clip_id, i))
        wrong_N[i] = _class_at(k * others >> 64, [c for c in by_name if c != y], weights)
    place.sort()
    if kind == "random1":
        count = sum(t <= 1 << _SHIFT for t, *_ in place)
    elif kind == "worst":
        count = len(place)
    else:
        count = _wanted(rate, len(clip_ids), len(place))
    chosen = [i for *_, i in place[:count]]
    label_N = np.asarray(labels_N, np.int64).copy()
    label_N[chosen] = wrong_N[chosen]
    solved = place[count - 1][0] / (1 << _SHIFT) if count else 0.0
    return Drawn(label_N, {"random1": 1.0, "worst": float("inf")}.get(kind, solved))


def write(
    data: Data,
    kind: str,
    rate: float | None,
    seed: int,
    path: epath.PathLike,
    expect: str | None = None,
) -> Made:
    """Draws labels for a built data set and writes them as a CSV file; data.labels is ignored.

    Args:
      data: the data set. A data set that is stored in folds gets one file for all of them.
      kind: as in `draw`.
      rate: as in `draw`.
      seed: as in `draw`.
      path: the file; may be gs://. An existing file is replaced.
      expect: the SHA-256 that the file must have, or None.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      ValueError: as in `draw`, or there are no votes, or the file would have another SHA-256; then nothing
        is written.
    """
    check(kind, rate)
    directory = source.find(data)
    name = "+".join(source.stored_folds(directory)) or data.train_split
    split = source.open_split(directory, name)
    truth = "true_label" if split.has_truth else "label"
    stored = split.columns("clip_id", "votes", truth)
    order = sorted(range(len(split)), key=stored["clip_id"].tolist().__getitem__)
    clip_ids = [str(clip_id) for clip_id in stored["clip_id"][order]]
    label_N, votes_NC, classes = stored[truth][order], stored["votes"][order], split.classes
    weights_NC = units(votes_NC)
    if not weights_NC.any():
        raise ValueError(
            f"{directory}, split {name}: no clip has annotators' votes, from which kind {kind!r} draws "
            "labels. Build the data set with its table of votes, or use another --kind"
        )
    drawn = draw(clip_ids, classes, label_N, votes_NC, kind, rate, seed)
    flipped_N = drawn.label != label_N
    names = np.array(classes)
    columns = (names[drawn.label].tolist(), names[label_N].tolist(), flipped_N.astype(int).tolist())
    text = csv_file.text(COLUMNS, zip(clip_ids, *columns, strict=True))
    digest = hashlib.sha256(text.encode()).hexdigest()
    inputs = fingerprint(clip_ids, classes, label_N, weights_NC)
    if expect is not None and digest != expect.strip().lower():
        raise ValueError(
            f"{path}: expected sha256 {expect}, got {digest}. Compare the sha256 of names, labels and "
            f"votes, {inputs}: if it differs from the published one, your copy of the data set does, else "
            "kind, rate or seed"
        )
    csv_file.write_text(path, text)
    rows = np.arange(len(label_N))
    transitions_CC = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(transitions_CC, (label_N, drawn.label), 1)
    at_label_N = weights_NC[rows, label_N]
    return Made(
        title=f"rule {RULE}, kind {kind}, seed {seed}, lambda {drawn.weight:.6g}",
        classes=classes,
        transitions=transitions_CC,
        disputed=int((weights_NC.sum(axis=1) > at_label_N).sum()),
        unvoted=int((~weights_NC.any(axis=1)).sum()),
        outvoted=int((weights_NC.max(axis=1) > at_label_N).sum()),
        sha256=digest,
        inputs=inputs,
    )


def check(kind: str, rate: float | None) -> None:
    """Raises ValueError if the kind is unknown, or the rate does not fit it."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose from {', '.join(KINDS)}")
    if kind != "votes" and rate is not None:
        raise ValueError(f"rate {rate}: kind {kind!r} has no choice of the rate; leave it out")
    if kind == "votes" and (rate is None or not 0 <= rate < 1):
        raise ValueError(f"rate {rate}: kind 'votes' needs a share of wrong labels in [0, 1)")


def units(votes_NC: np.ndarray) -> np.ndarray:
    """Returns votes in thousandths, rounded half up, int64 [N, C].

    Raises:
      ValueError: a vote is negative or NaN, or above MOST.
    """
    votes_NC = np.asarray(votes_NC, np.float64)
    if not ((votes_NC >= 0) & (votes_NC <= MOST)).all():
        raise ValueError(f"votes: expected numbers from 0 to {MOST} for each class")
    return np.floor(UNITS * votes_NC + 0.5).astype(np.int64)


def fingerprint(
    clip_ids: Sequence[str], classes: Sequence[str], labels_N: np.ndarray, weights_NC: np.ndarray
) -> str:
    """Returns the SHA-256 of the lines CLIP_ID,LABEL,WEIGHT,... as CSV, with the columns by class name.

    Args:
      clip_ids: names of the clips, in order.
      classes: names of the classes.
      labels_N: their labels.
      weights_NC: int [N, C], thousandths of a vote.
    """
    by_name = sorted(range(len(classes)), key=lambda c: classes[c])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        (clip_id, classes[y], *weights)
        for clip_id, y, weights in zip(
            clip_ids, labels_N.tolist(), weights_NC[:, by_name].tolist(), strict=True
        )
    )
    return hashlib.sha256(text.getvalue().encode()).hexdigest()


def _class_at(place: int, classes: Sequence[int], weights: Sequence[int]) -> int:
    """Returns the class whose stretch of the weights, laid end to end, holds a place."""
    for c in classes:
        place -= weights[c]
        if place < 0:
            return c
    raise AssertionError("the place lies within the weights")


def _wanted(rate: float | None, clips: int, possible: int) -> int:
    """Returns how many labels are to be wrong: RATE N, rounded half up, with RATE as it is written."""
    count = int(Fraction(str(rate)) * clips + Fraction(1, 2))
    if count > possible:
        raise ValueError(
            f"rate {rate}: {count} of {clips} labels cannot be wrong, as only {possible} clips have a vote "
            f"for another class than their label. Use a rate up to {possible / clips:.3f}, or kind worst"
        )
    return count
