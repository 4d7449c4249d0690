"""Which clips belong together, and how clips without given splits are divided into train and test."""

import dataclasses
import hashlib
import posixpath
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rdfer_jax.media.files import VIDEO_SUFFIXES
from rdfer_jax.pipeline import groups

from .listed import Listed


def group(clips: Sequence[Listed]) -> tuple[list[Listed], list[str]]:
    """Returns the clips with their groups, and notes.

    Clips of one person belong together. So do clips of the same name in one folder, such as clip.avi
    and the folder clip/ with its frames.

    Raises:
      ValueError: the same clip has two persons or two splits.
    """
    twins: dict[str, list[Listed]] = {}
    for clip in clips:
        twins.setdefault(_stem(clip.path), []).append(clip)
    twins = {stem: same for stem, same in twins.items() if len(same) > 1}
    group_of = {clip.path: f"person {clip.subject.casefold()}" for clip in clips if clip.subject}
    for stem, same in twins.items():
        for key in ("split", "subject"):
            found = sorted({getattr(clip, key) for clip in same} - {""})
            if len(found) > 1:
                raise ValueError(
                    f"{same[1].where}: {same[0].path} and {same[1].path} have the same name, but the "
                    f"{key}s {' and '.join(found)}; give them one {key}, or leave one out"
                )
        names = [group_of[clip.path] for clip in same if clip.path in group_of]
        group_of |= {clip.path: names[0] if names else f"clip {stem}" for clip in same}
    notes = []
    if twins:
        first = next(iter(twins.values()))
        notes.append(
            f"the same name twice, as in {first[0].path} and {first[1].path}: {len(twins)}; if "
            "these are one recording, leave one out. They are kept in one split"
        )
    return [dataclasses.replace(c, group=group_of.get(c.path, "")) for c in clips], notes


def _stem(path: str) -> str:
    folder, name = posixpath.split(path)
    stem, suffix = posixpath.splitext(name)
    return posixpath.join(folder, (stem if suffix.lower() in VIDEO_SUFFIXES else name).casefold())


def across_splits(clips: Sequence[Listed]) -> list[str]:
    """Returns a note about persons that are in several of the given splits."""
    splits: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for clip in clips:
        if clip.subject:
            names.setdefault(clip.group, clip.subject)
            splits.setdefault(clip.group, []).append(clip.split)
    shared = [name for name, where in splits.items() if len(set(where)) > 1]
    if not shared:
        return []
    where = ", ".join(dict.fromkeys(splits[shared[0]]))
    return [
        f"WARNING: {len(shared)} of {len(splits)} persons are in several of the given splits, such as "
        f"{names[shared[0]]} ({where}): results on them are better than on new persons"
    ]


def divide(clips: Sequence[Listed], test_percent: float) -> list[Listed]:
    """Divides the clips of each class into train and test by a hash of their names; groups stay together.

    Of n clips of a class without groups, round(n * test_percent / 100) go to test: at least one if n
    is two or more, and never all. With groups it is about that share. The same names give the same
    splits on any machine.

    Raises:
      ValueError: all clips are of one person, or no person can be held out.
    """
    if not test_percent:
        return [dataclasses.replace(clip, split="train") for clip in clips]
    counts = Counter(clip.group for clip in clips if clip.group)
    if not counts or max(counts.values()) == 1:
        return _divide_alone(clips, test_percent)
    tested = _groups_to_test(clips, test_percent)
    return [
        dataclasses.replace(clip, split="test" if is_test else "train")
        for clip, is_test in zip(clips, tested, strict=True)
    ]


def _divide_alone(clips: Sequence[Listed], test_percent: float) -> list[Listed]:
    result = []
    for label in dict.fromkeys(clip.label for clip in clips):
        ranked = sorted(
            (clip for clip in clips if clip.label == label), key=lambda c: _hash(c.path)
        )
        num_test = min(max(round(len(ranked) * test_percent / 100), 1), len(ranked) - 1)
        result += [
            dataclasses.replace(clip, split="test" if i < num_test else "train")
            for i, clip in enumerate(ranked)
        ]
    return result


def _hash(name: str) -> str:
    return hashlib.md5(name.encode()).hexdigest()


def _groups_to_test(clips: Sequence[Listed], test_percent: float) -> np.ndarray:
    """Returns which clips are for testing, bool [N]."""
    names = [clip.group or f"clip {clip.path}" for clip in clips]
    ranks = {name: i for i, name in enumerate(sorted(set(names), key=_hash))}
    group_N = np.array([ranks[name] for name in names])
    _, label_N = np.unique([clip.label for clip in clips], return_inverse=True)
    share = test_percent / 100
    test_N = groups.assign(label_N, group_N, np.array([share, 1 - share])) == 0
    counts_GC = np.zeros((len(ranks), label_N.max() + 1), int)
    np.add.at(counts_GC, (group_N, label_N), 1)
    test_G = np.zeros(len(ranks), bool)
    test_G[group_N[test_N]] = True
    # By size, so that as few clips as possible change sides.
    by_size = np.argsort(counts_GC.sum(axis=1), kind="stable")
    for label in range(counts_GC.shape[1]):
        having = [g for g in by_size if counts_GC[g, label]]
        if all(test_G[g] for g in having):
            test_G[having[0]] = False
    for label in range(counts_GC.shape[1]):
        having = [g for g in by_size if counts_GC[g, label]]
        if len(having) > 1 and not any(test_G[g] for g in having):
            for candidate in having:
                others = counts_GC[~test_G].sum(axis=0) - counts_GC[candidate]
                if (others > 0).all():
                    test_G[candidate] = True
                    break
    if not test_G.any():
        raise ValueError(
            f"no person can be held out for testing, because every class needs one for training "
            f"({len(ranks)} persons); add clips of others, give the splits yourself, or set test_percent=0"
        )
    return test_G[group_N]
