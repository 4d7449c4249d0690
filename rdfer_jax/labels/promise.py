"""The longest list of which a person's decisions show that enough of its labels are wrong.

Enters: a list of suspicious labels, most suspicious first, and decisions on a random sample of it. Leaves:
how many of its first clips keep a promise, and if none do, how many more decisions it takes. Injected wrong
labels (see suspicion) cannot promise anything where people err by a rule that depends on the picture;
decisions can.

Letters: L clips of the list, M of them decided.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from rdfer_jax.labels.noise_matrix import Ints

#: How sure it is that a list of a given length keeps its promise.
CONFIDENCE = 0.9


class Decided(NamedTuple):
    """A person's decisions on a random sample of a list.

    Attributes:
      place: int64 [M], the clips, by their places in the data set.
      wrong: bool [M], whether the given label is wrong.
      drawn_from: L, the length of the list; 0 if there was none.
    """

    place: Ints
    wrong: NDArray[np.bool_]
    drawn_from: int


class Kept(NamedTuple):
    """What decisions promise of a list.

    Attributes:
      length: so many of its first clips keep the promise, without those whose label was found right; 0 if
        the decisions show this of no part of it.
      low: of these, at least this share is wrong, at CONFIDENCE; None if length is 0.
      more: about so many more decisions on the list would show it of a part, if they are like those so far;
        None if it is shown, or if more decisions than the list has clips are needed.
    """

    length: int
    low: float | None
    more: int | None


def keep(list_L: ArrayLike, decided: Decided, precision: float) -> Kept:
    """Returns the longest part of a list, from its first clip on, of which enough labels are wrong.

    A part keeps the promise if, at CONFIDENCE, at least `precision` of it are wrong once the labels that
    were found right are taken out; see `least_wrong`. Parts end before a decided clip, or with the list.

    The limit holds for each part; choosing the longest of several raises the risk. docs/evidence/audit.md
    measures it. `more` is by the normal approximation of the binomial distribution, with the mean of
    Jeffreys's posterior as the precision of a part.

    Args:
      list_L: int [L], the clips by their places in the data set, most suspicious first.
      decided: the decisions; their clips are on the list.
      precision: the least share of wrong labels, in (0, 1].

    Raises:
      ValueError: a decided clip is not on the list.
    """
    list_L = np.asarray(list_L, np.int64)
    found_M = np.isin(decided.place, list_L)
    if not found_M.all():
        raise ValueError(
            f"clip {decided.place[~found_M][0]} was on the list when the sample was drawn, and is not now: "
            "the predictions are others. Run `rdfer audit` without --reviewed to draw a new sample"
        )
    if not len(decided.place):
        return Kept(0, None, None)
    at_M = np.argsort(list_L)[np.searchsorted(np.sort(list_L), decided.place)]
    order = np.argsort(at_M)
    end_M = np.append(at_M[order][1:], len(list_L))
    seen_M, wrong_M = np.arange(1, len(order) + 1), decided.wrong[order].cumsum()
    left_M = end_M - (seen_M - wrong_M)
    least_M = least_wrong(wrong_M, seen_M, end_M)
    kept = np.flatnonzero((least_M >= precision * left_M - 1e-9) & (left_M > 0))
    if len(kept):
        last = kept[-1]
        return Kept(int(end_M[last]), float(least_M[last] / left_M[last]), None)
    likely_M = (wrong_M + 0.5) / (seen_M + 1)
    ahead_M = np.maximum(likely_M - precision, 1e-9)
    needed_M = stats.norm.ppf(CONFIDENCE) ** 2 * precision * (1 - precision) / ahead_M**2
    more = math.ceil((needed_M * len(list_L) / end_M).min()) - len(order)
    return Kept(0, None, max(more, 1) if more <= len(list_L) - len(order) else None)


def least_wrong(wrong: ArrayLike, seen: ArrayLike, total: ArrayLike) -> Ints:
    """Returns the lower limit of the number of wrong labels among `total`, at CONFIDENCE; int64.

    The least number for which as many wrong ones in the sample, or more, are likelier than
    1 - CONFIDENCE: the limit of Clopper and Pearson (1934), with the hypergeometric distribution, for a
    sample without replacement. Exact if all are seen. The arguments broadcast.

    Args:
      wrong: the number of wrong labels in the sample.
      seen: the size of the sample, at most `total`.
      total: the number from which it was drawn.
    """
    wrong, seen, total = np.broadcast_arrays(
        *(np.asarray(x, np.int64) for x in (wrong, seen, total))
    )
    low, high = wrong, total - (seen - wrong)
    while (low < high).any():  # the probability rises with the number
        middle = (low + high) // 2
        enough = stats.hypergeom.sf(wrong - 1, total, middle, seen) > 1 - CONFIDENCE + 1e-9
        low, high = (
            np.where(enough, low, np.minimum(middle + 1, high)),
            np.where(enough, middle, high),
        )
    return np.asarray(high)
