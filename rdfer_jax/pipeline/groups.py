"""Divides clips into parts, such as folds, so that clips that belong together stay together.

A group is the clips of one person, or copies of one recording. Letters: N clips, G groups, K parts, C
classes.
"""

import numpy as np


def assign(labels_N: np.ndarray, groups_N: np.ndarray, shares_K: np.ndarray) -> np.ndarray:
    """Assigns each group to a part, so that every part has about its share of each class.

    Groups are taken in order of how uneven their classes are, the most uneven first. Each goes to the part
    where the shares of the classes then differ least between the parts. With equal shares this is
    scikit-learn's StratifiedGroupKFold without shuffling.

    Args:
      labels_N: int [N], the classes.
      groups_N: int [N], the groups, from 0; of groups that are equally uneven, the lower number comes
        first.
      shares_K: float [K], above 0, the share of each part.

    Returns:
      int [N], the part of each clip, in [0, K).
    """
    _, label_N = np.unique(labels_N, return_inverse=True)
    numbers_G, group_N = np.unique(groups_N, return_inverse=True)
    counts_GC = np.zeros((len(numbers_G), label_N.max() + 1))
    np.add.at(counts_GC, (group_N, label_N), 1)
    share_K1 = np.asarray(shares_K, float)[:, None] / np.sum(shares_K)
    wanted_KC = share_K1 * counts_GC.sum(axis=0)
    held_KC = np.zeros_like(wanted_KC)
    part_G = np.zeros(len(numbers_G), int)
    for group in np.argsort(-counts_GC.std(axis=1), kind="stable"):
        part_G[group] = part = _best(held_KC, counts_GC[group], wanted_KC, share_K1)
        held_KC[part] += counts_GC[group]
    return part_G[group_N]


def _best(
    held_KC: np.ndarray, added_C: np.ndarray, wanted_KC: np.ndarray, share_K1: np.ndarray
) -> int:
    """Returns the part to which a group is added; of equally good parts the emptiest."""
    best, least, fill = 0, np.inf, np.inf
    filled_K = held_KC.sum(axis=1) / share_K1[:, 0]
    for part in range(len(held_KC)):
        after_KC = held_KC.copy()
        after_KC[part] += added_C
        relative_KC = after_KC / wanted_KC
        mean_C = (share_K1 * relative_KC).sum(axis=0)
        uneven = np.sqrt((share_K1 * (relative_KC - mean_C) ** 2).sum(axis=0)).mean()
        if (uneven < least and not np.isclose(uneven, least)) or (
            np.isclose(uneven, least) and filled_K[part] < fill
        ):
            best, least, fill = part, uneven, filled_K[part]
    return best


def numbered(names: np.ndarray) -> np.ndarray:
    """Returns the number of each clip's group, int [N], from 0 in the order of the names.

    Args:
      names: str [N], the group of each clip; an empty name is a clip alone.
    """
    alone = names == ""
    known, number_N = np.unique(names, return_inverse=True)
    number_N = number_N.astype(int)
    number_N[alone] = len(known) + np.arange(alone.sum())
    return np.unique(number_N, return_inverse=True)[1]
