"""Checks a data set for problems: the original files, or the built data set.

Every frame is decoded. The result is the table of clips next to the published counts, and the problems:
missing clips, unreadable frames, counts that differ, and the same clip in two splits. On request, also film
strips of some clips of each class and of duplicates, which are read again for that.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from etils import epath

from rdfer_jax import paths

from . import builder as builder_lib
from . import counts, duplicates, frames, plans, raw, recorded, tfds_compat, workers

#: Clips of a group that a message names, and that have film strips.
_MAX_NAMED = 6
#: Clips of a class that have film strips, and groups of duplicates whose clips have.
SHOWN_CLIPS, SHOWN_GROUPS = 12, 100


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip, and the result of reading it.

    Attributes:
      place: where it can be read again: a path, or directory, split and index of a record.
    """

    split: str
    clip_id: str
    label: int
    look: frames.Inspection
    place: Any = None


@dataclasses.dataclass(frozen=True)
class Group:
    """Clips that are the same, or look so.

    Attributes:
      clips: two or more; those of different splits come first.
      same_files: whether they are equal to the byte.
    """

    clips: tuple[Clip, ...]
    same_files: bool

    @property
    def clips_in(self) -> Counter[str]:
        """Number of clips in each split."""
        return Counter(clip.split for clip in self.clips)

    @property
    def is_across(self) -> bool:
        """Whether they are in several splits."""
        return len(self.clips_in) > 1

    def named(self) -> tuple[Clip, ...]:
        """The first clips."""
        return self.clips[:_MAX_NAMED]

    def how(self) -> str:
        """What they have in common."""
        if not self.same_files:
            return "look alike"  # takes of one sitting do, and may show different expressions
        has_one_label = len({clip.label for clip in self.clips}) == 1
        return "same files" if has_one_label else "same files with different labels"

    def __str__(self) -> str:
        names = ", ".join(f"{clip.split} {clip.clip_id}" for clip in self.named())
        more = ""
        if (others := len(self.clips) - len(self.named())) > 0:
            numbers = ", ".join(f"{number} in {split}" for split, number in self.clips_in.items())
            more = f" and {others} more ({numbers})"
        return f"{self.how()}: {names}{more}"


@dataclasses.dataclass(frozen=True)
class Strip:
    """The first, the middle and the last frame of a clip, side by side, as a JPEG; empty without any."""

    clip: Clip
    jpeg: bytes


@dataclasses.dataclass(frozen=True)
class Strips:
    """Pictures of a data set.

    Attributes:
      classes: name of each class -> some of its clips, from all splits in turn.
      groups: duplicates, across splits first, and some clips of each.
    """

    classes: Mapping[str, Sequence[Strip]]
    groups: Sequence[tuple[Group, Sequence[Strip]]]


@dataclasses.dataclass(frozen=True)
class Checked:
    """The result of a check.

    Attributes:
      title: which data set was checked.
      table: clips per class and split, as text.
      notes: observations that are not problems.
      problems: kind of problem -> a line for each occurrence; empty if there are none.
      counts: split -> class -> number of clips.
      groups: duplicates; those across splits, which are problems, come first.
      strips: pictures; None if they were not wanted.
    """

    title: str
    table: str
    notes: Sequence[str]
    problems: Mapping[str, Sequence[str]]
    counts: Mapping[str, Mapping[str, int]]
    groups: Sequence[Group] = ()
    strips: Strips | None = None

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def text(self) -> str:
        """Returns the result as text, with the first lines of each kind of problem."""
        lines = [self.title, self.table, *self.notes]
        if within := [group for group in self.groups if not group.is_across]:
            lines.append(f"groups of identical or similar clips within one split: {len(within)}")
            lines.append(raw.listing(within))
        for kind, problems in self.problems.items():
            lines.append(f"PROBLEM: {len(problems)} {kind}:\n{raw.listing(problems)}")
        return "\n".join([*lines, self.verdict()])

    def verdict(self) -> str:
        """Returns how many problems there are, as text."""
        count = sum(map(len, self.problems.values()))
        return f"{count or 'no'} problem{'s' * (count != 1)} found"

    def json(self) -> dict[str, Any]:
        """Returns the result as JSON values, with every line of every problem."""
        return {
            "title": self.title,
            "ok": self.ok,
            "counts": {split: dict(numbers) for split, numbers in self.counts.items()},
            "problems": {kind: list(lines) for kind, lines in self.problems.items()},
            "notes": list(self.notes),
            "duplicates": [
                {
                    "how": group.how(),
                    "clips": [{"split": c.split, "clip_id": c.clip_id} for c in group.clips],
                }
                for group in self.groups
            ],
        }


def check_raw(name: str, options: Mapping[str, Any], with_strips: bool = False) -> Checked:
    """Checks the original files of a data set; writes nothing.

    Args:
      name: which data set, a key of `builder_lib.BUILDERS`.
      options: options of its builder, including source_dir.
      with_strips: whether to make pictures.

    Raises:
      FileNotFoundError: a folder or a list is missing.
      ValueError: an option is invalid, or a list is malformed.
    """
    config = builder_lib.make_config(name, options=options)
    with tfds_compat.quiet(), tempfile.TemporaryDirectory() as scratch, _workers() as pool:
        builder = importlib.import_module(builder_lib.BUILDERS[name]).Builder(
            data_dir=scratch, config=config
        )
        plan = plans.with_labels(builder.plan(), config.labels)
        entries = [(split, entry) for split, clips in plan.splits.items() for entry in clips]
        look = functools.partial(frames.inspect, root=plan.root)
        looks = _map(pool, look, [e.path for _, e in entries if e.path])
        missing = frames.Inspection(problems=("no folder or video of that name",))
        clips = [
            Clip(split, e.clip_id, e.label, next(looks) if e.path else missing, e.path)
            for split, e in entries
        ]
        found = _result(
            f"{name}, original files, in {options['source_dir']}",
            plan.classes,
            clips,
            _published(builder, bool(config.labels)),
            plan.notes,
        )
        return (
            _with_strips(found, plan.classes, clips, pool, _strip_of_file) if with_strips else found
        )


def check_built(
    name: str, data_dir: epath.PathLike, variant: str = "default", with_strips: bool = False
) -> Checked:
    """Checks a built data set.

    Args:
      name: which data set, a key of `builder_lib.BUILDERS`.
      data_dir: folder that holds the data sets.
      variant: which build of the data set.
      with_strips: whether to make pictures.

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
    classes = builder.info.features["label"].names
    with _workers() as pool:
        clips = list(_map(pool, _read_built, places))
        found = _result(
            f"{name}/{variant}, built, in {directory}",
            classes,
            clips,
            _published(builder, "labels" in metadata["options"]),
            metadata.get("notes", []),
            left_out=metadata.get("missing_clips", []),
            damaged=metadata.get("damaged_clips", []),
        )
        return _with_strips(found, classes, clips, pool, _strip_of_record) if with_strips else found


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
    return Clip(split, record["clip_id"].decode(), int(record["label"]), look, place)


def _strip_of_record(clip: Clip) -> bytes:
    """Returns the film strip of a stored record; runs in a worker process."""
    directory, split, number = clip.place
    jpegs = _open(directory, split)[number]["frames"]
    return frames.picture_strip([(f"frame {i}", jpeg) for i, jpeg in enumerate(jpegs)])


def _strip_of_file(clip: Clip) -> bytes:
    """Returns the film strip of an original file; runs in a worker process."""
    return frames.film_strip(clip.place, clip.look.num_frames)


def _with_strips(
    found: Checked,
    classes: Sequence[str],
    clips: Sequence[Clip],
    pool: workers.Pool,
    read: Callable[[Clip], bytes],
) -> Checked:
    """Reads the clips again of which pictures are shown."""
    readable = [clip for clip in clips if clip.look.num_frames]
    of_class = [
        _from_each_split(sorted((c for c in readable if c.label == label), key=_shuffled))
        for label in range(len(classes))
    ]
    shown = [some[:SHOWN_CLIPS] for some in of_class]
    groups = found.groups[:SHOWN_GROUPS]
    wanted = [*itertools.chain(*shown), *(clip for group in groups for clip in group.named())]
    wanted = list({id(clip): clip for clip in wanted}.values())
    jpegs = dict(zip(map(id, wanted), _map(pool, read, wanted, "pictures"), strict=True))
    strips = Strips(
        {
            name: [Strip(clip, jpegs[id(clip)]) for clip in some]
            for name, some in zip(classes, shown, strict=True)
        },
        [(group, [Strip(clip, jpegs[id(clip)]) for clip in group.named()]) for group in groups],
    )
    return dataclasses.replace(found, strips=strips)


def _shuffled(clip: Clip) -> bytes:
    return hashlib.md5(clip.clip_id.encode(errors="surrogateescape")).digest()


@contextlib.contextmanager
def _workers() -> Iterator[workers.Pool]:
    with tfds_compat.without_main(), workers.Pool() as pool:
        yield pool


def _map(
    pool: workers.Pool,
    function: Callable[[Any], Any],
    items: Sequence[Any],
    what: str = "checking",
) -> Iterator[Any]:
    results = pool.map(function, items, total=len(items))
    return iter(tqdm.tqdm(results, what, len(items), unit="clip", disable=None, leave=False))


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
    groups = _groups(readable)
    problems = {
        "clips are missing, unreadable, damaged or log footage": [
            f"{clip.split} {clip.clip_id}: {problem}"
            for clip in clips
            for problem in clip.look.problems
        ],
        "clips were left out when it was built": [str(clip) for clip in left_out],
        "clips were damaged or log footage when it was built": [str(clip) for clip in damaged],
        "counts differ from the published ones": _differences(by_class, published),
        "classes have no clip": [
            f"{split}: {name}" for split, n in by_class.items() for name in n if not n[name]
        ],
        "names occur in two splits": _repeated(clips),
        "groups of clips are in several splits": [str(g) for g in groups if g.is_across],
    }
    return Checked(
        title,
        counts.table(classes, per_split, extra, published),
        notes,
        {kind: lines for kind, lines in problems.items() if lines},
        by_class,
        groups,
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


def _from_each_split(group: Sequence[Clip]) -> list[Clip]:
    """Returns the clips so that the splits take turns: the first ones are of different splits."""
    place: Counter[str] = Counter()
    turns: list[tuple[int, int, Clip]] = []
    for clip in group:
        turns.append((place[clip.split], len(turns), clip))
        place[clip.split] += 1
    return [clip for *_, clip in sorted(turns, key=lambda turn: turn[:2])]


def _groups(clips: Sequence[Clip]) -> list[Group]:
    """Returns the groups of duplicates; those across splits come first."""
    looks = [clip.look for clip in clips]
    groups = []
    for places in duplicates.groups(looks):
        members = _from_each_split([clips[i] for i in places])
        groups.append(Group(tuple(members), len({clip.look.digest for clip in members}) == 1))
    return sorted(groups, key=lambda group: not group.is_across)
