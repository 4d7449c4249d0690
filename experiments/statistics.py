"""Statistics of the protocol: intervals over seeds and clips together, paired differences, corrections.

A run seed fixes the data set, the wrong labels, the initial parameters and the order, so seeds are
independent samples, and the clips of a seed are samples within it. The bootstrap draws both: S seeds with
replacement, and for each of them its clips with replacement. Results of two methods for the same seed and
clip stay together, so differences are paired.

What a statistic needs to know of a clip is which group it is in, such as its class and whether two methods
are right. So the clips of a seed are counts of groups, and drawing clips is drawing counts from the
multinomial distribution: exact, and fast.

Shape letters: S seeds, G groups, R draws of the bootstrap, B clips, K scores.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Vector = NDArray[np.float64]
Counts = NDArray[np.int64]

#: Draws of the bootstrap, and the seed of its random generator.
DRAWS, SEED = 10_000, 20260101


class Estimate(NamedTuple):
    """A mean over seeds, the limits of its interval, and the p-value of the hypothesis that it is 0.

    With a single seed the interval covers its clips alone.
    """

    mean: float
    low: float
    high: float
    p: float


def estimate(replicates_R: ArrayLike, observed: float, confidence: float = 0.95) -> Estimate:
    """Returns an estimate from draws of the bootstrap: the percentile interval, and a two-sided p-value.

    p = 2 min((1 + #{r <= 0}) / (R + 1), (1 + #{r >= 0}) / (R + 1)), at most 1.

    Args:
      replicates_R: the statistic of each draw; draws of which it is undefined, NaN, do not count.
      observed: the statistic of the data.
      confidence: of the interval, in (0, 1).

    Raises:
      ValueError: confidence is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a value in (0, 1), got {confidence}")
    values_R = np.asarray(replicates_R, np.float64)
    values_R = values_R[np.isfinite(values_R)]
    if not values_R.size or not np.isfinite(observed):
        nan = float("nan")
        return Estimate(float(observed), nan, nan, nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(values_R, [tail, 1 - tail])
    below, above = (values_R <= 0).sum(), (values_R >= 0).sum()
    p = 2 * (1 + min(below, above)) / (values_R.size + 1)
    return Estimate(float(observed), float(low), float(high), float(min(p, 1.0)))


def bootstrap(
    counts_SG: ArrayLike,
    statistic: Callable[[Vector], Vector],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
    confidence: float = 0.95,
) -> Estimate:
    """Returns the mean of a statistic over seeds, with its interval over seeds and clips.

    Args:
      counts_SG: clips of each group, for each seed.
      statistic: counts float [..., G] -> values [...]; NaN where it is undefined. The mean over seeds
        leaves out the undefined ones.
      draws: R.
      seed: of the random generator.
      confidence: of the interval.

    Raises:
      ValueError: counts_SG is not a table of whole numbers, or a seed has no clips.
    """
    counts_SG = np.asarray(counts_SG)
    if counts_SG.ndim != 2 or counts_SG.dtype.kind not in "iu" or (counts_SG < 0).any():
        raise ValueError(
            f"expected whole numbers [S, G], got {counts_SG.dtype} of shape {counts_SG.shape}"
        )
    size_S = counts_SG.sum(axis=1)
    if not counts_SG.shape[0] or not size_S.all():
        raise ValueError("expected at least one seed, and clips in each")
    generator = np.random.default_rng(seed)
    seeds = len(counts_SG)
    drawn_RS = generator.integers(seeds, size=(draws, seeds))
    values_RS = np.empty((draws, seeds))
    for number, (counts_G, size) in enumerate(zip(counts_SG, size_S, strict=True)):
        here = drawn_RS == number
        # A seed that is drawn twice gets two draws of its clips.
        resampled = generator.multinomial(size, counts_G / size, size=int(here.sum()))
        values_RS[here] = statistic(resampled.astype(np.float64))
    return estimate(
        _mean(values_RS), float(_mean(statistic(counts_SG.astype(np.float64)))), confidence
    )


def _mean(values: Vector) -> Vector:
    """Returns the mean over the last axis without NaN; NaN if nothing is left."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=-1)
    count = known.sum(axis=-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def bootstrap_shared(
    label_B: ArrayLike,
    right_SB: ArrayLike,
    other_SB: ArrayLike | None = None,
    *,
    balanced: bool = False,
    draws: int = DRAWS,
    seed: int = SEED,
    confidence: float = 0.95,
) -> Estimate:
    """Returns the mean accuracy over seeds that were all tested on the same clips, or a difference of two.

    Clips are drawn with replacement once for all seeds of a draw, as the seeds share them; seeds are drawn
    with replacement, too.

    Args:
      label_B: the true classes.
      right_SB: whether a method is right, for each seed and clip.
      other_SB: of a second method with the same seeds, whose accuracy is subtracted.
      balanced: whether to average over the classes (UAR) in place of the clips (WAR).
      draws: R.
      seed: of the random generator.
      confidence: of the interval.
    """
    methods = [right_SB] if other_SB is None else [right_SB, other_SB]
    found, drawn_RM = (
        values[..., -1 if balanced else -2]
        for values in recalls(label_B, np.array(methods), draws=draws, seed=seed)
    )
    if other_SB is not None:
        found, drawn_RM = found[:1] - found[1:], drawn_RM[:, :1] - drawn_RM[:, 1:]
    return estimate(drawn_RM[:, 0], float(found[0]), confidence)


def recalls(
    label_B: ArrayLike,
    right_MSB: ArrayLike,
    fold_B: ArrayLike | None = None,
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> tuple[Vector, Vector]:
    """Returns the recall of each class, WAR and UAR of M methods that were tested on the same clips.

    A value is computed in each fold, and averaged over the folds and then the seeds, all with the same
    weight; a class that does not occur in a fold is left out of its means. In a draw of the bootstrap all
    methods and seeds share the clips, drawn with replacement within each fold, and all methods share the
    seeds, drawn with replacement.

    Args:
      label_B: the true classes.
      right_MSB: whether a method is right, for each seed and clip.
      fold_B: the fold in which a clip is tested; None: a single one.
      draws: R.
      seed: of the random generator.

    Returns:
      float64 [M, C + 2] and, of the draws, [R, M, C + 2]: the recall of the C classes that occur, in
      order, then WAR and UAR.
    """
    label_B, right_MSB = np.asarray(label_B), np.asarray(right_MSB, np.float64)
    fold_B = np.zeros(len(label_B), int) if fold_B is None else np.asarray(fold_B)
    parts = [np.flatnonzero(fold_B == fold) for fold in np.unique(fold_B)]
    classes = np.unique(label_B)
    seeds = right_MSB.shape[1]

    def scores(weights_RB: Vector, part: NDArray[np.int_]) -> Vector:
        """Returns the values in a fold for some weights of its clips, [R, M, S, C + 2]."""
        members = [np.flatnonzero(label_B[part] == c) for c in classes]
        hits_RMSC = np.stack(
            [
                np.tensordot(weights_RB[:, m], right_MSB[:, :, part[m]], axes=(1, 2))
                for m in members
            ],
            axis=-1,
        )
        total_RC = np.stack([weights_RB[:, m].sum(axis=1) for m in members], axis=-1)
        total = np.broadcast_to(total_RC[:, None, None], hits_RMSC.shape)
        recall = np.divide(hits_RMSC, total, out=np.full(hits_RMSC.shape, np.nan), where=total > 0)
        war = hits_RMSC.sum(axis=-1) / weights_RB.sum(axis=1)[:, None, None]
        return np.concatenate([recall, war[..., None], _mean(recall)[..., None]], axis=-1)

    def over_folds(values: Sequence[Vector]) -> Vector:
        return _mean(np.stack(values, axis=-1))

    generator = np.random.default_rng(seed)
    drawn_RS = generator.integers(seeds, size=(draws, seeds))
    drawn = []
    for chosen_rS in np.array_split(drawn_RS, max(1, draws // 500)):
        values = over_folds(
            [
                scores(
                    generator.multinomial(
                        len(part), np.full(len(part), 1 / len(part)), len(chosen_rS)
                    ).astype(np.float64),
                    part,
                )
                for part in parts
            ]
        )
        of_seeds = np.take_along_axis(values, chosen_rS[:, None, :, None], axis=2)
        drawn.append(_mean(of_seeds.swapaxes(2, 3)))
    observed = over_folds([scores(np.ones((1, len(part))), part) for part in parts])
    return _mean(observed.swapaxes(2, 3))[0], np.concatenate(drawn)


# Groups of clips, and statistics of them.


def pair_groups(
    label_B: ArrayLike, first_B: ArrayLike, second_B: ArrayLike, num_classes: int
) -> Counts:
    """Returns the clips of one seed by class and by which of two methods is right, int [4 N].

    Args:
      label_B: the true classes.
      first_B: predicted classes of the first method.
      second_B: those of the second method.
      num_classes: N.
    """
    label_B = np.asarray(label_B)
    right = 2 * (np.asarray(first_B) == label_B) + (np.asarray(second_B) == label_B)
    return np.bincount(4 * label_B + right, minlength=4 * num_classes).astype(np.int64)


def war(groups: Vector, method: int = 0) -> Vector:
    """Returns the share of clips of which a method is right, from `pair_groups`; methods are 0 and 1."""
    by_class = _by_class(groups)
    right = by_class[..., [2, 3]] if method == 0 else by_class[..., [1, 3]]
    return right.sum(axis=(-1, -2)) / groups.sum(axis=-1)


def uar(groups: Vector, method: int = 0) -> Vector:
    """Returns the mean over the classes that occur of the share of clips of which a method is right."""
    by_class = _by_class(groups)
    right = (by_class[..., [2, 3]] if method == 0 else by_class[..., [1, 3]]).sum(axis=-1)
    size = by_class.sum(axis=-1)
    return _mean(np.divide(right, size, out=np.full(size.shape, np.nan), where=size > 0))


def _by_class(groups: Vector) -> Vector:
    return groups.reshape(*groups.shape[:-1], -1, 4)


def share(groups: Vector, part: Sequence[int], whole: Sequence[int]) -> Vector:
    """Returns the share of the clips in some groups that is in others of them; NaN if there are none.

    A precision: the clips called noisy that are flipped, among those called noisy.
    """
    right, size = groups[..., list(part)].sum(axis=-1), groups[..., list(whole)].sum(axis=-1)
    return np.divide(right, size, out=np.full(np.shape(size), np.nan), where=size > 0)


# AUROC.


def auroc_covariance(scores_KB: ArrayLike, positive_B: ArrayLike) -> tuple[Vector, Vector]:
    """Returns the AUROC of K scores of the same clips, and the covariance of their errors over clips.

    DeLong, DeLong and Clarke-Pearson (1988), "Comparing the areas under two or more correlated receiver
    operating characteristic curves"; the placements by ranks, as Sun and Xu (2014).

    Args:
      scores_KB: higher for positive clips.
      positive_B: booleans, some of each.

    Returns:
      float64 [K] and [K, K]; NaN if all clips are positive or none is.
    """
    scores_KB, positive_B = np.asarray(scores_KB, np.float64), np.asarray(positive_B, bool)
    number = len(scores_KB)
    m, n = int(positive_B.sum()), int((~positive_B).sum())
    if not m or not n:
        return np.full(number, np.nan), np.full((number, number), np.nan)
    rank_KB = stats.rankdata(scores_KB, axis=1)
    of_positive_Km = rank_KB[:, positive_B] - stats.rankdata(scores_KB[:, positive_B], axis=1)
    of_negative_Kn = rank_KB[:, ~positive_B] - stats.rankdata(scores_KB[:, ~positive_B], axis=1)
    placement_Km, placement_Kn = of_positive_Km / n, 1 - of_negative_Kn / m
    covariance_KK = np.zeros((number, number))
    for placement in (placement_Km, placement_Kn):
        size = placement.shape[1]
        if size > 1:
            covariance_KK += np.cov(placement).reshape(number, number) / size
    return placement_Km.mean(axis=1), covariance_KK


def bootstrap_auroc(
    auroc_SK: ArrayLike,
    covariance_SKK: ArrayLike,
    weights_K: ArrayLike,
    *,
    shared: bool = False,
    draws: int = DRAWS,
    seed: int = SEED,
    confidence: float = 0.95,
) -> Estimate:
    """Returns the mean over seeds of a weighted sum of AUROCs, with its interval over seeds and clips.

    Seeds are drawn with replacement. The clips of a drawn seed change its value by a normal error with
    the variance of `auroc_covariance`, which is what drawing clips would do to many of them.

    Args:
      auroc_SK: K AUROCs for each seed.
      covariance_SKK: of their errors.
      weights_K: such as (1, -1) for a difference.
      shared: whether all seeds have the same clips. Then the errors of a draw are one and the same draw of
        clips, so they do not average out.
      draws: R.
      seed: of the random generator.
      confidence: of the interval.
    """
    weights_K = np.asarray(weights_K, np.float64)
    value_S = np.asarray(auroc_SK, np.float64) @ weights_K
    variance_S = np.einsum("k,skl,l->s", weights_K, np.asarray(covariance_SKK), weights_K)
    generator = np.random.default_rng(seed)
    drawn_RS = generator.integers(len(value_S), size=(draws, len(value_S)))
    error_RS = generator.standard_normal((draws, 1 if shared else len(value_S)))
    error_RS = error_RS * np.sqrt(np.maximum(variance_S, 0))[drawn_RS]
    return estimate((value_S[drawn_RS] + error_RS).mean(axis=1), float(value_S.mean()), confidence)


def holm(p_values: ArrayLike) -> Vector:
    """Returns p-values adjusted for the number of comparisons.

    Holm (1979), "A simple sequentially rejective multiple test procedure": the i-th smallest of m is
    multiplied by m - i + 1; no adjusted value is below that of a smaller p-value, or above 1.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
