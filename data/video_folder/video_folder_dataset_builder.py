"""A user's own videos as splits train and test (and validation, where there is one).

Enters: `root/<class>/<clip>`, `root/{train,test,validation}/<class>/<clip>`, or a list of
`path,label[,split]`; a clip is a video file or a folder of pictures. Leaves: the records of
data.schema. See README.md beside this file.
"""

import dataclasses
import hashlib
import posixpath
from collections.abc import Iterator, Sequence

from etils import epath

from .. import frames, raw, recorded

_SPLITS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
_ORDER = ("train", "validation", "test")


@dataclasses.dataclass(kw_only=True)
class Options(recorded.ClipOptions):
    """Options of a user's own videos, besides those of every data set of recorded videos.

    Attributes:
      classes: names of the classes in the order wanted, as a tuple or between commas; empty for
        all that occur, in alphabetical order.
      csv: list of clips, relative to source_dir; empty to go by folders.
      test_percent: share of each class's clips that is tested on where neither folders nor the
        list say, 0 to 90 percent.
      max_fps: frames per second that videos are thinned to; 0 keeps every frame. Folders of
        pictures are never thinned, as their rate is unknown.
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
            raise ValueError(f"classes={','.join(self.classes)}: a name occurs twice")
        if not 0 <= self.test_percent <= 90:
            raise ValueError(f"test_percent={self.test_percent}: use 0 to 90")
        if not self.max_fps >= 0:
            raise ValueError(f"max_fps={self.max_fps}: use 0 (all frames) or more")


@dataclasses.dataclass(frozen=True)
class Found:
    """A clip by its path relative to the root.

    Attributes:
      path: relative path, the clip's name.
      label: name of its class.
      split: train, validation or test; empty when nothing says.
      where: the line that lists it, or the path.
    """

    path: str
    label: str
    split: str
    where: str


def _clips_of_class(folder: epath.Path, root: epath.Path, split: str) -> Iterator[Found]:
    """Yields the clips in a class's folder."""
    num_clips = 0
    for path in raw.visible(folder):
        suffix = path.suffix.lower()
        if suffix in frames.IMAGE_SUFFIXES and not path.is_dir():
            raise ValueError(
                f"{path}: a picture beside the clips; a clip is a video or a folder of pictures"
            )
        if path.is_dir() or suffix in frames.VIDEO_SUFFIXES:
            relative = path.relative_to(root).as_posix()
            raw.plain(path.name, str(folder))
            num_clips += 1
            yield Found(relative, folder.name, split, relative)
    if not num_clips:
        raise ValueError(f"{folder}: no clip in this class; add videos or folders, or remove it")


def from_folders(root: epath.Path) -> list[Found]:
    """Returns the clips of `root/<class>/<clip>` or `root/<split>/<class>/<clip>`.

    The first level is taken for splits where there is a train folder and one of test, val or
    validation.

    Raises:
      ValueError: if a class has no clip, splits and classes are mixed, or there are no folders.
    """
    folders = [path for path in raw.visible(root) if path.is_dir()]
    split_of = {path: _SPLITS.get(path.name.lower(), "") for path in folders}
    named = set(split_of.values())
    if "train" not in named or len(named - {""}) < 2:
        split_of = dict.fromkeys(folders, "")
        classes = folders
    else:
        others = [path.name for path, split in split_of.items() if not split]
        if others:
            raise ValueError(
                f"{root}: its folders are splits, so {', '.join(others)} must go into one of them"
            )
        classes = [child for path in folders for child in raw.visible(path) if child.is_dir()]
        split_of = {child: split_of[child.parent] for child in classes}
    if not classes:
        raise ValueError(f"{root}: no folders; expected {root.name}/<class>/<clip>, or set csv")
    return [
        found for folder in classes for found in _clips_of_class(folder, root, split_of[folder])
    ]


def _unused(root: epath.Path, found: Sequence[Found]) -> list[str]:
    """Returns a line about files in the classes' folders that are no clips, if there are any."""
    used = {clip.path for clip in found}
    folders = sorted({posixpath.dirname(path) for path in used})
    entries = [path for folder in folders for path in raw.visible(root / folder)]
    unused = sorted({path.relative_to(root).as_posix() for path in entries} - used)
    return [f"files that are no clips: {len(unused)}, such as {unused[0]}"] if unused else []


def from_list(root: epath.Path, name: str) -> list[Found]:
    """Reads `path,label[,split]` lines, with or without that header.

    Raises:
      FileNotFoundError: if there is no such list.
      ValueError: naming the line, if a path leaves the root or occurs twice, a label is empty, or
        a split is unknown or missing on some lines only.
    """
    path = root / raw.relative_path(name, "csv")
    if not path.exists():
        raise FileNotFoundError(f"csv={name}: no file {path}")
    result: list[Found] = []
    seen: dict[str, str] = {}
    for i, line in enumerate(raw.read_lines(path)):
        cells = raw.csv_cells(line.text)
        heads = [cell.lower() for cell in cells] if i == 0 else []
        if heads[:2] == ["path", "label"]:
            continue
        if len(cells) not in (2, 3) or not cells[1] or {"path", "label"} <= set(heads):
            raise ValueError(
                f"{line.where}: expected `path,label[,split]`, got {raw.shown(line.text)}"
            )
        clip = raw.relative_path(cells[0], line.where)
        split = cells[2].lower() if len(cells) == 3 else ""
        if split and split not in _SPLITS:
            raise ValueError(
                f"{line.where}: split {raw.shown(cells[2])}; known: train, validation (or val), test"
            )
        if clip in seen:
            raise ValueError(f"{line.where}: {clip} is listed again, first {seen[clip]}")
        seen[clip] = line.where
        result.append(Found(clip, cells[1], _SPLITS.get(split, ""), line.where))
    if not result:
        raise ValueError(f"{path}: lists no clip")
    unsplit = [found.where for found in result if not found.split]
    if unsplit and len(unsplit) < len(result):
        raise ValueError(f"{unsplit[0]}: no split, but other lines have one; give all or none")
    return result


def _digest(found: Found) -> str:
    return hashlib.md5(found.path.encode()).hexdigest()


def divide(found: Sequence[Found], test_percent: float) -> list[Found]:
    """Divides clips into train and test, each class by itself, by a hash of the clips' names.

    Of n clips of a class, n * test_percent / 100 are tested on, rounded; at least one where n is
    two or more, and never all. The same names give the same splits anywhere.
    """
    result = []
    for label in dict.fromkeys(clip.label for clip in found):
        ranked = sorted((clip for clip in found if clip.label == label), key=_digest)
        num_test = round(len(ranked) * test_percent / 100)
        if test_percent:
            num_test = min(max(num_test, 1), len(ranked) - 1)
        result += [
            dataclasses.replace(clip, split="test" if i < num_test else "train")
            for i, clip in enumerate(ranked)
        ]
    return result


def class_names(found: Sequence[Found], wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes in order.

    Raises:
      ValueError: if a label is not among the wanted classes or no plain text, or there is one class
        only.
    """
    for clip in found:
        raw.plain(clip.label, clip.where)
    names = tuple(wanted) or tuple(sorted({clip.label for clip in found}))
    unknown = [
        f"{clip.where}: label {raw.shown(clip.label)}" for clip in found if clip.label not in names
    ]
    if unknown:
        raise ValueError(
            f"{len(unknown)} clips have a label that is none of {raw.listed(names)}:\n"
            + raw.listing(unknown)
        )
    if len(names) < 2:
        raise ValueError(
            f"one class only ({raw.shown(names[0])}, as {found[0].where} has it); a classifier needs "
            "two or more"
        )
    return names


def _root(options: Options) -> epath.Path:
    return raw.source_root(options.source_dir, (".",), "your videos")


def _found(options: Options) -> list[Found]:
    root = _root(options)
    return from_list(root, options.csv) if options.csv else from_folders(root)


def _path_on_disk(root: epath.Path, clip: str) -> str:
    path = root / clip
    return str(path) if path.exists() else ""


def read_plan(options: Options) -> recorded.Plan:
    """Finds the clips and divides them.

    Raises:
      FileNotFoundError: if the root or the list is missing.
      ValueError: if the folders or the list are malformed, or a class has no clip to train on.
    """
    root, found = _root(options), _found(options)
    classes = class_names(found, options.classes)
    notes = [f"clips from {options.csv or 'the folders of the classes'}"]
    if not options.csv:
        notes += _unused(root, found)
    if not found[0].split:
        found = divide(found, options.test_percent)
        notes.append(
            f"{options.test_percent:g} % of each class for testing, by a hash of the names"
        )
    labels = [classes.index(clip.label) for clip in found if clip.split == "train"]
    recorded.check_full(classes, "train", [labels.count(i) for i in range(len(classes))])
    splits = {
        split: [
            recorded.Entry(
                clip_id=clip.path,
                label=classes.index(clip.label),
                path=_path_on_disk(root, clip.path),
                where=clip.where if options.csv else "",
            )
            for clip in found
            if clip.split == split
        ]
        for split in _ORDER
    }
    return recorded.Plan(
        classes,
        {split: entries for split, entries in splits.items() if entries},
        tuple(notes),
        max_fps=options.max_fps,
        root=str(root) if options.csv else "",
        full_split="train",
    )


class Builder(recorded.ClipBuilder):
    """Builds a data set of a user's own videos."""

    def _classes(self) -> tuple[str, ...]:
        return class_names(_found(self.builder_config), self.builder_config.classes)

    def plan(self) -> recorded.Plan:
        """See recorded.ClipBuilder."""
        return read_plan(self.builder_config)
