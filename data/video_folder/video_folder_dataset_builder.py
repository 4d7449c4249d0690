"""The user's own videos as splits train and test, and validation if it exists.

Reads `root/[<split>/]<class>/[<person>/]<clip>`, or a list with paths and labels. A clip is a video
file or a folder of pictures. See README.md in this folder.
"""

import dataclasses
import functools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from etils import epath

from rdfer_jax.media.files import natural_key

from .. import plans, raw, recorded
from . import dividing, from_folders, from_list
from .listed import ORDER, Listed

#: Fewer clips of a class than this are few.
_FEW = 10


@dataclasses.dataclass(kw_only=True)
class Options(recorded.ClipOptions):
    """Options of the user's own videos, in addition to `recorded.ClipOptions`.

    Attributes:
      classes: ordered names of the classes, as a tuple or separated by commas; empty for all that
        occur, in natural order.
      csv: list of clips, a path relative to source_dir or any other; empty to use the folders.
      test_percent: share of the clips of each class in the split test if neither the folders nor the
        list define splits, 0 to 90 percent.
      max_fps: videos are thinned to this many frames per second; 0 keeps every frame. Folders of
        pictures are never thinned, because their rate is unknown.
    """

    classes: tuple[str, ...] | str = ()
    csv: str = ""
    test_percent: float = 20.0
    max_fps: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        names = self.classes.split(",") if isinstance(self.classes, str) else self.classes
        self.classes = tuple(name.strip() for name in names if name.strip())
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes={','.join(self.classes)}: a name occurs twice; remove one")
        if not 0 <= self.test_percent <= 90:
            raise ValueError(f"test_percent={self.test_percent}: use 0 to 90")
        if not self.max_fps >= 0:
            raise ValueError(f"max_fps={self.max_fps}: use 0 (all frames) or more")


def class_names(clips: Sequence[Listed], wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes in order.

    Raises:
      ValueError: a label is not one of the wanted classes or not plain text, or there is only one
        class.
    """
    for clip in clips:
        raw.plain(clip.label, clip.where)
    names = tuple(wanted) or _in_order({clip.label for clip in clips})
    measured = [clip for clip in clips if re.fullmatch(r"[+-]?\d*[.,]\d*[1-9]\d*", clip.label)]
    if measured and not wanted:
        raise ValueError(
            f"{measured[0].where}: label {raw.shown(measured[0].label)} is a measured value; expected the "
            "name of a class. If it is one, name all of them: config.build.classes"
        )
    unknown = [
        f"{clip.where}: label {raw.shown(clip.label)}" for clip in clips if clip.label not in names
    ]
    if unknown:
        raise ValueError(
            f"{len(unknown)} clips have a label that is not one of {raw.listed(names)}:\n"
            + raw.listing(unknown)
        )
    if len(names) < 2:
        raise ValueError(
            f"only one class ({raw.shown(names[0])}, in {clips[0].where}); a classifier needs two or more"
        )
    return names


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns names of classes in natural order: numbers by their value, 2 before 10."""
    names = sorted(names)
    if all(re.fullmatch(r"[+-]?\d+(\.\d+)?", name) for name in names):
        return tuple(sorted(names, key=float))
    return tuple(sorted(names, key=natural_key))


def _similar(classes: Sequence[str]) -> list[str]:
    """Returns a warning about classes that differ by case, spaces, kind of accent or decimals only."""
    same: dict[str, list[str]] = {}
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).casefold()
        plain = "".join(c for c in plain if unicodedata.category(c) != "Cf")  # such as U+200B
        # pandas writes whole numbers so beside empty cells.
        if re.fullmatch(r"[+-]?\d+[.,]0+", plain):
            plain = re.split("[.,]", plain)[0]
        same.setdefault(re.sub(r"[\s_\-]+", "", plain), []).append(name)
    return [
        f"WARNING: the classes {' and '.join(map(raw.shown, names))} are different, though their names are "
        "nearly the same; if they are one, give them one name"
        for names in same.values()
        if len(names) > 1
    ]


def _few(clips: Sequence[Listed]) -> list[str]:
    """Returns a warning if a class has few clips to test on, or to train on."""
    notes = []
    for split, what in (("train", "train on"), ("test", "test on")):
        counts = Counter(clip.label for clip in clips if clip.split == split)
        name, number = min(counts.items(), key=lambda item: item[1], default=("", _FEW))
        if number < _FEW:
            notes.append(
                f"WARNING: only {number} clip{'s' * (number != 1)} of {name} to {what}; with fewer than "
                f"{_FEW} of each class, results mean little"
            )
    return notes


@dataclasses.dataclass(frozen=True)
class Found:
    """The clips of the root, and lines for the user."""

    root: epath.Path
    clips: Sequence[Listed]
    notes: Sequence[str]


def find(options: Options, skipped: str = "") -> Found:
    """Finds the clips by the list, or else by the folders; see from_list and from_folders."""
    root = raw.source_root(options.source_dir, (".",), "your videos")
    if options.csv:
        listed = from_list.find(root, options.csv)
        return Found(
            root, listed.clips, [f"clips from {epath.Path(options.csv).name}", *listed.notes]
        )
    found = from_folders.find(root, options.classes, skipped)
    return Found(root, found.clips, ["clips from the folders of the classes", *found.notes])


def _path_on_disk(root: epath.Path, clip: str) -> str:
    path = root / clip
    # A link that leads nowhere is there; reading it says so.
    return str(path) if path.exists() or os.path.islink(path) else ""  # noqa: PTH114 - gs:// has none


def read_plan(options: Options, found: Found | None = None) -> plans.Plan:
    """Divides the clips.

    Args:
      options: of the builder.
      found: the result of `find`, if it is known.

    Raises:
      FileNotFoundError: the root or the list is missing.
      ValueError: the folders or the list are malformed, or a class has no training clip.
    """
    found = found or find(options)
    root = found.root
    classes = class_names(found.clips, options.classes)
    clips, twins = dividing.group(found.clips)
    notes = [*found.notes, *twins, *_similar(classes)]
    if clips[0].split:
        notes += dividing.across_splits(clips)
    else:
        clips = dividing.divide(clips, options.test_percent)
        together = ", persons kept apart" if any(clip.subject for clip in clips) else ""
        notes.append(
            f"{options.test_percent:g} % of each class for testing, chosen by a hash of the names{together}"
        )
    notes += _few(clips)
    labels = [classes.index(clip.label) for clip in clips if clip.split == "train"]
    recorded.check_full(classes, "train", [labels.count(i) for i in range(len(classes))])
    splits = {
        split: [
            plans.Entry(
                clip_id=clip.path,
                label=classes.index(clip.label),
                path=_path_on_disk(root, clip.on_disk or clip.path),
                where=clip.where if options.csv else "",
                group=clip.group,
            )
            for clip in clips
            if clip.split == split
        ]
        for split in ORDER
    }
    return plans.Plan(
        classes,
        {split: entries for split, entries in splits.items() if entries},
        tuple(notes),
        max_fps=options.max_fps,
        root=str(root) if options.csv else "",
        full_split="train",
    )


class Builder(recorded.ClipBuilder):
    """Builds a data set of the user's own videos."""

    @functools.cached_property
    def _plan(self) -> plans.Plan:
        options, folder = self.builder_config, epath.Path(self.data_dir).parents[1]
        return read_plan(options, find(options, skipped=str(folder)))

    def _classes(self) -> tuple[str, ...]:
        return self._plan.classes

    def _has_groups(self) -> bool:
        return any(entry.group for clips in self._plan.splits.values() for entry in clips)

    def plan(self) -> plans.Plan:
        """See recorded.ClipBuilder."""
        return self._plan
