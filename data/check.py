"""What is wrong with a data set: raw, as it was distributed, or built.

Enters: a folder of either kind. Leaves: the table of clips beside the published counts, and what was
found: clips that are missing, frames that cannot be read, short clips, the same clip in two splits.
Every frame is decoded.
"""

import contextlib
import dataclasses
import functools
import importlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from etils import epath

from . import builder as builder_lib
from . import counts, frames, raw, recorded, workers

#: Two clips look alike when so few of the 1,024 bits of their fingerprints differ. Of 300 drawn clips, no
#: two were nearer than 158; halved in size each was within 60 of itself, doubled 99 of 100 within 71.
ALIKE_BITS = 80
#: Clips compared with all others at once, which bounds the memory.
_ROWS = 64
#: Clips of a group that are named.
_NAMED = 6


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip, and what a look at it found."""

    split: str
    clip_id: str
    label: int
    look: frames.Look


@dataclasses.dataclass(frozen=True)
class Checked:
    """What was found.

    Attributes:
      title: what was checked.
      table: clips per class and split, as text.
      notes: what is worth knowing.
      problems: what has to be mended, by kind; a line for each.
      counts: clips of each split by class.
    """

    title: str
    table: str
    notes: Sequence[str]
    problems: Mapping[str, Sequence[str]]
    counts: Mapping[str, Mapping[str, int]]

    @property
    def is_well(self) -> bool:
        """Whether nothing has to be mended."""
        return not self.problems

    def text(self) -> str:
        """Returns it for reading; of each problem the first lines."""
        lines = [self.title, self.table, *self.notes]
        for kind, found in self.problems.items():
            lines.append(f"PROBLEM: {len(found)} {kind}:\n{raw.listing(found)}")
        return "\n".join([*lines, "all is well" if self.is_well else "not all is well"])

    def json(self) -> dict[str, Any]:
        """Returns it for programs: every line of every problem."""
        return {
            "title": self.title,
            "is_well": self.is_well,
            "counts": {split: dict(found) for split, found in self.counts.items()},
            "problems": {kind: list(found) for kind, found in self.problems.items()},
            "notes": list(self.notes),
        }


def check_raw(name: str, options: Mapping[str, Any]) -> Checked:
    """Checks a data set as it was distributed; writes nothing.

    Args:
      name: which data set, a key of `builder_lib.BUILDERS`.
      options: of its builder, among them source_dir.

    Raises:
      FileNotFoundError: a folder or a list is missing.
      ValueError: an option does not fit, or a list is malformed.
    """
    config = builder_lib.make_config(name, options=options)
    with builder_lib.quiet(), tempfile.TemporaryDirectory() as scratch, _workers() as pool:
        builder = importlib.import_module(builder_lib.BUILDERS[name]).Builder(
            data_dir=scratch, config=config
        )
        plan = recorded.relabelled(builder.plan(), config.labels)
        entries = [(split, entry) for split, clips in plan.splits.items() for entry in clips]
        look = functools.partial(frames.look, root=plan.root)
        looks = _looks(pool, look, [e.path for _, e in entries if e.path])
        missing = frames.Look(problems=("no folder or video of that name",))
        clips = [
            Clip(split, entry.clip_id, entry.label, next(looks) if entry.path else missing)
            for split, entry in entries
        ]
        return _checked(
            f"{name}, raw, in {options['source_dir']}",
            plan.classes,
            clips,
            _known(builder, bool(config.labels)),
            plan.notes,
        )


def check_built(name: str, data_dir: epath.PathLike, variant: str = "default") -> Checked:
    """Checks a built data set.

    Args:
      name: which data set, a key of `builder_lib.BUILDERS`.
      data_dir: where data sets lie.
      variant: which build of it.

    Raises:
      FileNotFoundError: it has not been built.
      ValueError: there is no such data set.
    """
    builder_lib.make_config(name, variant=variant)
    module = importlib.import_module(builder_lib.BUILDERS[name])
    data_dir = epath.Path(data_dir).expanduser()
    directory = data_dir / name / variant / str(module.Builder.VERSION)
    if not (directory / "dataset_info.json").exists():
        raise FileNotFoundError(
            f"{directory}: no finished data set. Build it with --mode=build, or check the raw one: "
            "--config.build.source_dir=<its folder>"
        )
    metadata = tfds.builder_from_directory(directory).info.metadata or {}
    stored = {key: value for key, value in metadata["options"].items() if key != "labels"}
    config = builder_lib.make_config(name, variant=variant, options=stored)
    with builder_lib.quiet():
        builder = module.Builder(data_dir=data_dir, config=config)
    places = [
        (str(directory), split, i)
        for split, info in builder.info.splits.items()
        for i in range(info.num_examples)
    ]
    with _workers() as pool:
        clips = list(_looks(pool, _look_built, places))
    return _checked(
        f"{name}/{variant}, built, in {directory}",
        builder.info.features["label"].names,
        clips,
        _known(builder, "labels" in metadata["options"]),
        metadata.get("notes", []),
        left_out=metadata.get("missing_clips", []),
    )


def _known(builder: Any, has_other_labels: bool) -> counts.Published:
    """The published counts; of corrected labels only the totals can be compared with them."""
    if not isinstance(builder, recorded.ClipBuilder):
        return {}
    published = builder.published()
    if not has_other_labels:
        return published
    return {split: {"total": n["total"]} for split, n in published.items() if "total" in n}


@functools.lru_cache(maxsize=16)
def _open(directory: str, split: str) -> Any:
    return tfds.builder_from_directory(directory).as_data_source(split)


def _look_built(place: tuple[str, str, int]) -> Clip:
    """Looks at a stored record; runs in a worker process."""
    directory, split, number = place
    record = _open(directory, split)[number]
    look = frames.look_at((f"frame {i}", jpeg) for i, jpeg in enumerate(record["frames"]))
    return Clip(split, record["clip_id"].decode(), int(record["label"]), look)


@contextlib.contextmanager
def _workers() -> Iterator[workers.Pool]:
    with builder_lib.without_main(), workers.Pool() as pool:
        yield pool


def _looks(
    pool: workers.Pool, function: Callable[[Any], Any], items: Sequence[Any]
) -> Iterator[Any]:
    found = pool.map(function, items, total=len(items))
    return iter(tqdm.tqdm(found, "checking", len(items), unit="clip", disable=None, leave=False))


def _checked(
    title: str,
    classes: Sequence[str],
    clips: Sequence[Clip],
    published: counts.Published,
    notes: Sequence[str],
    left_out: Sequence[str] = (),
) -> Checked:
    splits = list(dict.fromkeys(clip.split for clip in clips))
    good = [clip for clip in clips if clip.look.num_frames]
    per_split = {
        split: counts.per_class(classes, [c.label for c in good if c.split == split])
        for split in splits
    }
    extra = {
        f"under {counts.SHORT} frames": Counter(
            c.split for c in good if c.look.num_frames < counts.SHORT
        ),
        "unreadable": Counter(c.split for c in clips if c.look.problems),
    }
    by_class = {split: dict(zip(classes, n, strict=True)) for split, n in per_split.items()}
    across, within = _groups(good)
    problems = {
        "clips are missing or have frames that cannot be read": [
            f"{clip.split} {clip.clip_id}: {problem}"
            for clip in clips
            for problem in clip.look.problems
        ],
        "clips were left out when it was built": [str(clip) for clip in left_out],
        "counts differ from the published ones": _differences(by_class, published),
        "classes have no clip": [
            f"{split}: {name}" for split, n in by_class.items() for name in n if not n[name]
        ],
        "names occur in two splits": _repeated(clips),
        "groups of clips are in several splits": across,
    }
    if within:
        told = f"groups of clips of one split that are the same: {len(within)}"
        notes = [*notes, told, raw.listing(within)]
    return Checked(
        title,
        counts.table(classes, per_split, extra, published),
        notes,
        {kind: lines for kind, lines in problems.items() if lines},
        by_class,
    )


def _differences(
    by_class: Mapping[str, Mapping[str, int]], published: counts.Published
) -> list[str]:
    totals = {split: {**n, "total": sum(n.values())} for split, n in by_class.items()}
    totals["all"] = dict(sum((Counter(n) for n in totals.values()), Counter()))
    return [
        f"{split}, {name}: {totals[split].get(name, 0)}, published {count}"
        for split, known in published.items()
        if split in totals
        for name, count in known.items()
        if totals[split].get(name, 0) != count
    ]


def _repeated(clips: Iterable[Clip]) -> list[str]:
    splits: dict[str, list[str]] = {}
    for clip in clips:
        splits.setdefault(clip.clip_id, []).append(clip.split)
    return [f"{name}: {', '.join(found)}" for name, found in splits.items() if len(found) > 1]


def _groups(clips: Sequence[Clip]) -> tuple[list[str], list[str]]:
    """Groups of clips that are the same, in words: of several splits, and of one split only."""
    leader = list(range(len(clips)))  # another clip of the same group, or the clip itself

    def find(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    first: dict[bytes, int] = {}
    for i, clip in enumerate(clips):
        leader[i] = first.setdefault(clip.look.digest, i)
    places = [i for i, clip in enumerate(clips) if clip.look.fingerprint]
    prints = b"".join(clips[i].look.fingerprint for i in places)
    words = np.frombuffer(prints, np.uint64).reshape(len(places), frames.FINGERPRINT_BYTES // 8)
    for i, j, _ in alike(words):
        one, two = sorted((find(places[i]), find(places[j])))
        leader[two] = one
    groups: dict[int, list[Clip]] = {}
    for i, clip in enumerate(clips):
        groups.setdefault(find(i), []).append(clip)
    found: tuple[list[str], list[str]] = ([], [])
    for group in groups.values():
        if len(group) > 1:
            how = "same files" if len({clip.look.digest for clip in group}) == 1 else "look alike"
            names = ", ".join(f"{clip.split} {clip.clip_id}" for clip in group[:_NAMED])
            more = f" and {len(group) - _NAMED} more" if len(group) > _NAMED else ""
            found[len({clip.split for clip in group}) == 1].append(f"{how}: {names}{more}")
    return found


def alike(
    fingerprints_NW: np.ndarray, most_bits: int = ALIKE_BITS
) -> Iterator[tuple[int, int, int]]:
    """Yields i < j and the number of bits in which their fingerprints differ, where those are few.

    Args:
      fingerprints_NW: uint64 [N, W].
      most_bits: how many are few.
    """
    for start in range(0, len(fingerprints_NW), _ROWS):
        rows = fingerprints_NW[start : start + _ROWS]
        differing = np.bitwise_count(rows[:, None] ^ fingerprints_NW[None, start:]).sum(axis=-1)
        for i, j in zip(*np.nonzero(differing <= most_bits), strict=True):
            if i < j:
                yield start + int(i), start + int(j), int(differing[i, j])
