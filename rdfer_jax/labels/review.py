"""A sample of clips for a person to review, and what the decisions say about the labels.

Enters: the list of an audit; later a CSV file of decisions, as the audit page exports it. Leaves:
sample.csv, and the shares of wrong labels and of the classes with their intervals.

Half of the sample comes from the list and half from the other clips, each drawn at random, so that both
questions have an answer. Decisions on clips outside the sample are not used: a reviewer who starts with the
most suspicious ones would find more wrong labels than there are.

Letters: N videos, S strata, C classes.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from numpy.typing import ArrayLike

from rdfer_jax.class_shares import ClassShares, shrunk
from rdfer_jax.labels import csv_file
from rdfer_jax.labels import share as share_lib
from rdfer_jax.labels.noise_matrix import Ints
from rdfer_jax.labels.promise import Decided
from rdfer_jax.labels.share import Share
from rdfer_jax.pipeline import label_files

#: Clips to review, and the seed of the choice.
SIZE, SEED = 100, 0
#: Columns of sample.csv: the clip, its given label, whether it is on the list, and of how many clips on or
#: off the list it was drawn.
COLUMNS = ("clip_id", "label", "listed", "drawn_from")


class Review(NamedTuple):
    """What the decisions on a sample say.

    Attributes:
      share: the share of wrong labels.
      precision: the share of wrong labels on the list when the sample was drawn, with its 95 % limits
        (Wilson): [mean, low, high]; None if nothing was listed.
      classes: the shares of the classes.
      sample: int [M], the places of the sample's clips among the N.
      reviewed: how many of these were decided.
      ignored: how many decisions are on clips outside the sample.
      decided: the decisions on the listed clips of the sample.
      labels: the right class of each decided clip, of the sample or not, by its place among the N.
    """

    share: Share
    precision: tuple[float, float, float] | None
    classes: ClassShares
    sample: np.ndarray
    reviewed: int
    ignored: int
    decided: Decided
    labels: dict[int, int]

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Returns the review for JSON; with the names of the classes."""
        shares = {
            name: dict(zip(ClassShares._fields, row, strict=True))
            for name, row in zip(classes, np.stack(self.classes, axis=1).tolist(), strict=True)
        }
        values = self._asdict() | {
            "share": self.share.to_dict(), "classes": shares, "sampled": len(self.sample),
        }  # fmt: skip
        del values["sample"], values["decided"], values["labels"]
        return values

    def describe(self) -> str:
        """Returns a sentence or two."""
        text = f" Of the {len(self.sample)} clips of the sample, {self.reviewed} were reviewed"
        if self.precision:
            mean, low, high = self.precision
            text += f": {mean:.0%} of the listed labels are wrong ({low:.0%} to {high:.0%})"
        if self.ignored:
            text += f"; {self.ignored} decisions on other clips are not used for this"
        return f"{text}."


def draw(listed_N: np.ndarray, size: int = SIZE, seed: int = SEED) -> np.ndarray:
    """Draws the sample: int [M], the places of at most `size` videos, in their order.

    Half of them are listed and half are not; where there are too few of one, more are of the other.
    """
    rng = np.random.default_rng(seed)
    groups = [rng.permutation(np.flatnonzero(listed_N == value)) for value in (True, False)]
    half = [min(len(group), max(size // 2, size - len(other))) for group, other in
            zip(groups, groups[::-1], strict=True)]  # fmt: skip
    return np.sort(np.concatenate([g[:n] for g, n in zip(groups, half, strict=True)]))


def extend(sample: Ints, list_L: Ints, count: int, seed: int = SEED) -> Ints:
    """Returns the sample with `count` more clips of a list, drawn at random, or as many as there are.

    Args:
      sample: int64 [M], as `draw` returns it.
      list_L: int64 [L], the whole list of which the sample has some clips.
      count: how many more.
      seed: of the choice, which also depends on M.
    """
    rng = np.random.default_rng([seed, len(sample)])
    more = rng.permutation(np.setdiff1d(list_L, sample))[:count]
    return np.sort(np.concatenate([sample, more]))


def write_sample(
    path: epath.PathLike,
    clip_ids: Sequence[str],
    labels: Sequence[str],
    listed_N: np.ndarray,
    sample: np.ndarray,
) -> None:
    """Writes sample.csv with the COLUMNS.

    Args:
      path: the file; may be gs://.
      clip_ids: the names of the N videos.
      labels: the names of their given classes.
      listed_N: bool [N], whether they are on the list.
      sample: the result of `draw`.
    """
    sizes = {value: int((listed_N == value).sum()) for value in (True, False)}
    rows = [
        (clip_ids[i], labels[i], int(listed_N[i]), sizes[bool(listed_N[i])])
        for i in sample.tolist()
    ]
    csv_file.write(path, COLUMNS, rows)


def read(
    sample_path: epath.PathLike,
    decisions: epath.PathLike,
    clip_ids: Sequence[str],
    labels_N: np.ndarray,
    classes: Sequence[str],
) -> Review:
    """Combines the sample with the decisions.

    Args:
      sample_path: sample.csv, as `write_sample` wrote it.
      decisions: a CSV file with the columns clip_id and label, the label that a person finds right.
      clip_ids: the names of the N videos.
      labels_N: int [N], their given labels.
      classes: the names of the classes.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged or of other videos, or no clip of the list, or none of the others, was
        decided.
    """
    sample_path = epath.Path(sample_path)
    if not sample_path.exists():
        raise FileNotFoundError(
            f"{sample_path}: no such file. Run `rdfer audit` without --reviewed first; it draws the sample"
        )
    rows = list(csv.DictReader(io.StringIO(sample_path.read_text(), newline="")))
    given = label_files.read(decisions, classes, "--reviewed")
    place = {clip_id: i for i, clip_id in enumerate(clip_ids)}
    sizes: dict[bool, int] = {}
    # Of the decided clips, on and off the list: place, right class, and whether the given one is wrong.
    found: dict[bool, list[tuple[int, int, bool]]] = {}
    try:
        sample = np.array([place[row["clip_id"]] for row in rows], int)
        for row in rows:
            listed = row["listed"] == "1"
            sizes[listed] = int(row["drawn_from"])
            if row["clip_id"] in given:
                right = given[row["clip_id"]]
                is_wrong = classes[right] != row["label"]
                found.setdefault(listed, []).append((place[row["clip_id"]], right, is_wrong))
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{sample_path}: expected the columns {', '.join(COLUMNS)}, and clips of these predictions. "
            "Run `rdfer audit` without --reviewed to draw a new sample"
        ) from None
    for listed in sizes:
        if listed not in found:
            raise ValueError(
                f"{decisions}: no decision on the {'listed' if listed else 'other'} clips of "
                f"{sample_path}. Review the clips of the sample, some on the list and some not"
            )
    reviewed = sum(map(len, found.values()))
    samples = {on: (sum(wrong for *_, wrong in found[on]), len(found[on])) for on in sizes}
    on_list = found.get(True, [])
    precision = None
    if True in samples:
        wrong, total = samples[True]
        precision = (wrong / total, *share_lib.limits(wrong, total))
    return Review(
        share=share_lib.of_strata([*sizes.values()], [*samples.values()]),
        precision=precision,
        classes=shares_of_classes(
            np.bincount(labels_N, minlength=len(classes)),
            [*sizes.values()],
            [np.bincount([c for _, c, _ in found[on]], minlength=len(classes)) for on in sizes],
        ),
        sample=sample,
        reviewed=reviewed,
        ignored=len(given) - reviewed,
        decided=Decided(
            np.array([at for at, *_ in on_list], np.int64),
            np.array([wrong for *_, wrong in on_list], bool),
            sizes.get(True, 0),
        ),
        labels={place[clip_id]: right for clip_id, right in given.items() if clip_id in place},
    )


def shares_of_classes(
    given_C: ArrayLike, sizes_S: Sequence[int], decided_SC: ArrayLike
) -> ClassShares:
    """Estimates how frequent the classes are from a reviewed sample.

    Args:
      given_C: numbers of the given labels of each class.
      sizes_S: the number of videos of each stratum from which the sample was drawn.
      decided_SC: int [S, C], the reviewed videos of each stratum by their right class; some of every
        stratum.
    """
    sizes_S1, decided_SC = np.asarray(sizes_S)[:, None], np.asarray(decided_SC, int)
    total_S1 = decided_SC.sum(axis=1, keepdims=True)
    found = [
        share_lib.of_strata(sizes_S, [*zip(part_S.tolist(), total_S1[:, 0].tolist(), strict=True)])
        for part_S in decided_SC.T
    ]
    reviewed_C, low_C, high_C = (
        np.array([getattr(share, name) for share in found]) for name in ("estimate", "low", "high")
    )
    # A class without a label counts as one with a single label, so that its logarithm is finite.
    given_C = np.maximum(np.asarray(given_C, np.float64), 1)
    given_C /= given_C.sum()
    effective = sizes_S1.sum() ** 2 / (sizes_S1**2 / total_S1).sum()
    return ClassShares(
        given_C, reviewed_C, low_C, high_C, shrunk(given_C, reviewed_C, float(effective))
    )
