"""Checks a data set for problems: the original files, or the built data set.

Every frame is decoded. The result is the table of clips next to the published counts, and the problems:
missing clips, unreadable frames, counts that differ, and the same clip in two splits.
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
from scipy import sparse
from scipy.sparse import csgraph

from rdfer_jax import paths

from . import builder as builder_lib
from . import counts, frames, raw, recorded, tfds_compat, workers

#: Two clips look alike if at most this many of the 1,024 bits of their fingerprints differ. Among 300
#: synthetic clips the smallest distance was 158; a clip at half its size was within 60 of the original, at
#: twice its size within 71 (99 of 100).
ALIKE_BITS = 80
#: Clips that are compared with all others at once; bounds the memory.
_ROWS = 64
#: Clips of a group that a message names.
_MAX_NAMED = 6


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip, and the result of reading it."""

    split: str
    clip_id: str
    label: int
    look: frames.Inspection


@dataclasses.dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
      title: which data set was checked.
      table: clips per class and split, as text.
      notes: observations that are not problems.
      problems: kind of problem -> a line for each occurrence; empty if there are none.
      counts: split -> class -> number of clips.
    """

    title: str
    table: str
    notes: Sequence[str]
    problems: Mapping[str, Sequence[str]]
    counts: Mapping[str, Mapping[str, int]]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def text(self) -> str:
        """Returns the result as text, with the first lines of each kind of problem."""
        lines = [self.title, self.table, *self.notes]
        for kind, problems in self.problems.items():
            lines.append(f"PROBLEM: {len(problems)} {kind}:\n{raw.listing(problems)}")
        count = sum(map(len, self.problems.values()))
        return "\n".join([*lines, f"{count or 'no'} problem{'s' * (count != 1)} found"])

    def json(self) -> dict[str, Any]:
        """Returns the result as JSON values, with every line of every problem."""
        return {
            "title": self.title,
            "ok": self.ok,
            "counts": {split: dict(numbers) for split, numbers in self.counts.items()},
            "problems": {kind: list(lines) for kind, lines in self.problems.items()},
            "notes": list(self.notes),
        }


def check_raw(name: str, options: Mapping[str, Any]) -> Checked:
    """Checks the original files of a data set; writes nothing.

    Args:
      name: which data set, a key of `builder_lib.BUILDERS`.
      options: options of its builder, including source_dir.

    Raises:
      FileNotFoundError: a folder or a list is missing.
      ValueError: an option is invalid, or a list is malformed.
    """
    config = builder_lib.make_config(name, options=options)
    with tfds_compat.quiet(), tempfile.TemporaryDirectory() as scratch, _workers() as pool:
        builder = importlib.import_module(builder_lib.BUILDERS[name]).Builder(
            data_dir=scratch, config=config
        )
        plan = recorded.relabel_plan(builder.plan(), config.labels)
        entries = [(split, entry) for split, clips in plan.splits.items() for entry in clips]
        look = functools.partial(frames.inspect, root=plan.root)
        looks = _map(pool, look, [e.path for _, e in entries if e.path])
        missing = frames.Inspection(problems=("no folder or video of that name",))
        clips = [
            Clip(split, entry.clip_id, entry.label, next(looks) if entry.path else missing)
            for split, entry in entries
        ]
        return _result(
            f"{name}, original files, in {options['source_dir']}",
            plan.classes,
            clips,
            _published(builder, bool(config.labels)),
            plan.notes,
        )


def check_built(name: str, data_dir: epath.PathLike, variant: str = "default") -> Checked:
    """Checks a built data set.

    Args:
      name: which data set, a key of `builder_lib.BUILDERS`.
      data_dir: folder that holds the data sets.
      variant: which build of the data set.

    Raises:
      FileNotFoundError: the data set has not been built.
      ValueError: there is no such data set.
    """
    builder_lib.make_config(name, variant=variant)
    module = importlib.import_module(builder_lib.BUILDERS[name])
    data_dir = epath.Path(paths.expand(data_dir))
    directory = data_dir / name / variant / str(module.Builder.VERSION)
    if not (directory / "dataset_info.json").exists():
        raise FileNotFoundError(
            f"{directory}: no finished data set. Build it with `rdfer build`, or check the original files: "
            "--config.build.source_dir=<their folder>"
        )
    metadata = tfds.builder_from_directory(directory).info.metadata or {}
    stored = {key: value for key, value in metadata["options"].items() if key != "labels"}
    config = builder_lib.make_config(name, variant=variant, options=stored)
    with tfds_compat.quiet():
        builder = module.Builder(data_dir=data_dir, config=config)
    places = [
        (str(directory), split, i)
        for split, info in builder.info.splits.items()
        for i in range(info.num_examples)
    ]
    with _workers() as pool:
        clips = list(_map(pool, _read_built, places))
    return _result(
        f"{name}/{variant}, built, in {directory}",
        builder.info.features["label"].names,
        clips,
        _published(builder, "labels" in metadata["options"]),
        metadata.get("notes", []),
        left_out=metadata.get("missing_clips", []),
        damaged=metadata.get("damaged_clips", []),
    )


def _published(builder: Any, has_other_labels: bool) -> counts.Published:
    """Returns the published counts; with corrected labels, only the totals, which still apply."""
    if not isinstance(builder, recorded.ClipBuilder):
        return {}
    published = builder.published()
    if not has_other_labels:
        return published
    return {split: {"total": n["total"]} for split, n in published.items() if "total" in n}


@functools.lru_cache(maxsize=16)
def _open(directory: str, split: str) -> Any:
    return tfds.builder_from_directory(directory).as_data_source(split)


def _read_built(place: tuple[str, str, int]) -> Clip:
    """Reads a stored record, given as directory, split and index; runs in a worker process."""
    directory, split, number = place
    record = _open(directory, split)[number]
    look = frames.inspect_pictures((f"frame {i}", jpeg) for i, jpeg in enumerate(record["frames"]))
    return Clip(split, record["clip_id"].decode(), int(record["label"]), look)


@contextlib.contextmanager
def _workers() -> Iterator[workers.Pool]:
    with tfds_compat.without_main(), workers.Pool() as pool:
        yield pool


def _map(pool: workers.Pool, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    results = pool.map(function, items, total=len(items))
    return iter(tqdm.tqdm(results, "checking", len(items), unit="clip", disable=None, leave=False))


def _result(
    title: str,
    classes: Sequence[str],
    clips: Sequence[Clip],
    published: counts.Published,
    notes: Sequence[str],
    left_out: Sequence[str] = (),
    damaged: Sequence[str] = (),
) -> Checked:
    readable = [clip for clip in clips if clip.look.num_frames]
    per_split = {
        split: counts.per_class(classes, [c.label for c in readable if c.split == split])
        for split in dict.fromkeys(clip.split for clip in clips)
    }
    short = [c.split for c in readable if c.look.num_frames < counts.SHORT]
    unreadable = [c.split for c in clips if c.look.problems]
    extra = {f"under {counts.SHORT} frames": Counter(short), "unreadable": Counter(unreadable)}
    by_class = {split: dict(zip(classes, n, strict=True)) for split, n in per_split.items()}
    across, within = _duplicates(readable)
    problems = {
        "clips are missing or have frames that cannot be read": [
            f"{clip.split} {clip.clip_id}: {problem}"
            for clip in clips
            for problem in clip.look.problems
        ],
        "clips were left out when it was built": [str(clip) for clip in left_out],
        "clips were damaged when it was built": [str(clip) for clip in damaged],
        "counts differ from the published ones": _differences(by_class, published),
        "classes have no clip": [
            f"{split}: {name}" for split, n in by_class.items() for name in n if not n[name]
        ],
        "names occur in two splits": _repeated(clips),
        "groups of clips are in several splits": across,
    }
    if within:
        heading = f"groups of identical or similar clips within one split: {len(within)}"
        notes = [*notes, heading, raw.listing(within)]
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
        for split, expected in published.items()
        if split in totals
        for name, count in expected.items()
        if totals[split].get(name, 0) != count
    ]


def _repeated(clips: Iterable[Clip]) -> list[str]:
    splits: dict[str, list[str]] = {}
    for clip in clips:
        splits.setdefault(clip.clip_id, []).append(clip.split)
    return [f"{name}: {', '.join(where)}" for name, where in splits.items() if len(where) > 1]


def _duplicates(clips: Sequence[Clip]) -> tuple[list[str], list[str]]:
    """Returns a line for each group of duplicates: those across splits, and those within one split."""
    across: list[str] = []
    within: list[str] = []
    for group in _groups(clips):
        how = "same files" if len({clip.look.digest for clip in group}) == 1 else "look alike"
        counts_of = Counter(clip.split for clip in group)
        shown = _from_each_split(group)[:_MAX_NAMED]
        names = ", ".join(f"{clip.split} {clip.clip_id}" for clip in shown)
        more = ""
        if len(group) > _MAX_NAMED:
            numbers = ", ".join(f"{number} in {split}" for split, number in counts_of.items())
            more = f" and {len(group) - _MAX_NAMED} more ({numbers})"
        lines = across if len(counts_of) > 1 else within
        lines.append(f"{how}: {names}{more}")
    return across, within


def _from_each_split(group: Sequence[Clip]) -> list[Clip]:
    """Returns the clips so that the splits take turns: the first ones are of different splits."""
    place: Counter[str] = Counter()
    turns: list[tuple[int, int, Clip]] = []
    for clip in group:
        turns.append((place[clip.split], len(turns), clip))
        place[clip.split] += 1
    return [clip for *_, clip in sorted(turns, key=lambda turn: turn[:2])]


def _groups(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Returns the connected groups, of two clips or more, of clips with equal bytes or similar frames."""
    first: dict[bytes, int] = {}
    edges = [(first.setdefault(clip.look.digest, i), i) for i, clip in enumerate(clips)]
    places = [i for i, clip in enumerate(clips) if clip.look.fingerprint]
    prints = b"".join(clips[i].look.fingerprint for i in places)
    words = np.frombuffer(prints, np.uint64).reshape(len(places), frames.FINGERPRINT_BYTES // 8)
    edges += [(places[i], places[j]) for i, j, _ in alike(words)]
    rows, columns = np.array(edges, int).reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(edges)), (rows, columns)), shape=(len(clips),) * 2)
    groups: dict[int, list[Clip]] = {}
    for clip, group in zip(clips, csgraph.connected_components(graph)[1].tolist(), strict=True):
        groups.setdefault(group, []).append(clip)
    return [group for group in groups.values() if len(group) > 1]


def alike(
    fingerprints_NW: np.ndarray, max_bits: int = ALIKE_BITS
) -> Iterator[tuple[int, int, int]]:
    """Yields i < j and the number of bits in which their fingerprints differ, if at most max_bits.

    Args:
      fingerprints_NW: uint64 [N, W].
      max_bits: largest number of differing bits.
    """
    for start in range(0, len(fingerprints_NW), _ROWS):
        rows = fingerprints_NW[start : start + _ROWS]
        differing = np.bitwise_count(rows[:, None] ^ fingerprints_NW[None, start:]).sum(axis=-1)
        for i, j in zip(*np.nonzero(differing <= max_bits), strict=True):
            if i < j:
                yield start + int(i), start + int(j), int(differing[i, j])
