"""The user's own videos as splits train and test, and validation if it exists.

Reads `root/<class>/<clip>`, `root/{train,test,validation}/<class>/<clip>`, or a list of
`path,label[,split]`. A clip is a video file or a folder of pictures. See README.md in this folder.
"""

import dataclasses
import hashlib
import posixpath
from collections.abc import Iterator, Sequence

from etils import epath

from rdfer_jax.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES

from .. import raw, recorded

_SPLITS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
_ORDER = ("train", "validation", "test")


@dataclasses.dataclass(kw_only=True)
class Options(recorded.ClipOptions):
    """Options of the user's own videos, in addition to `recorded.ClipOptions`.

    Attributes:
      classes: ordered names of the classes, as a tuple or separated by commas; empty for all that
        occur, in alphabetical order.
      csv: list of clips, relative to source_dir; empty to use the folders.
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


@dataclasses.dataclass(frozen=True)
class Listed:
    """A clip of a folder or a list.

    Attributes:
      path: path relative to the root, which is the clip's name.
      label: name of its class.
      split: train, validation or test; empty if it is not defined.
      where: the line that lists it, or the path.
    """

    path: str
    label: str
    split: str
    where: str


def _clips_of_class(folder: epath.Path, root: epath.Path, split: str) -> Iterator[Listed]:
    """Yields the clips in the folder of a class."""
    num_clips = 0
    for path in raw.visible(folder):
        suffix = path.suffix.lower()
        if suffix in IMAGE_SUFFIXES and not path.is_dir():
            raise ValueError(
                f"{path}: a picture among the clips; a clip is a video or a folder of pictures"
            )
        if path.is_dir() or suffix in VIDEO_SUFFIXES:
            relative = path.relative_to(root).as_posix()
            raw.plain(path.name, str(folder))
            num_clips += 1
            yield Listed(relative, folder.name, split, relative)
    if not num_clips:
        raise ValueError(
            f"{folder}: no clip in this class; add videos or folders, or remove this folder"
        )


def from_folders(root: epath.Path) -> list[Listed]:
    """Returns the clips of `root/<class>/<clip>` or `root/<split>/<class>/<clip>`.

    The folders of the first level are splits if there is a train folder and one of test, val or
    validation.

    Raises:
      ValueError: a class has no clip, splits and classes are mixed, or there are no folders.
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
                f"{root}: its folders are splits; move {', '.join(others)} into one of them"
            )
        classes = [child for path in folders for child in raw.visible(path) if child.is_dir()]
        split_of = {child: split_of[child.parent] for child in classes}
    if not classes:
        raise ValueError(f"{root}: no folders; expected {root.name}/<class>/<clip>, or set csv")
    return [clip for folder in classes for clip in _clips_of_class(folder, root, split_of[folder])]


def _unused(root: epath.Path, clips: Sequence[Listed]) -> list[str]:
    """Returns a note about files in the folders of the classes that are not clips, if there are any."""
    used = {clip.path for clip in clips}
    folders = sorted({posixpath.dirname(path) for path in used})
    entries = [path for folder in folders for path in raw.visible(root / folder)]
    unused = sorted({path.relative_to(root).as_posix() for path in entries} - used)
    return (
        [f"ignored files that are not clips: {len(unused)}, such as {unused[0]}"] if unused else []
    )


def from_list(root: epath.Path, name: str) -> list[Listed]:
    """Reads `path,label[,split]` lines, with or without that header.

    Raises:
      FileNotFoundError: there is no such list.
      ValueError: a path leaves the root or occurs twice, a label is empty, or a split is unknown or
        missing on some lines only; the message names the line.
    """
    path = root / raw.relative_path(name, "csv")
    if not path.exists():
        raise FileNotFoundError(f"csv={name}: no file {path}")
    result: list[Listed] = []
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
                f"{line.where}: unknown split {raw.shown(cells[2])}; use train, validation (or val) or test"
            )
        if clip in seen:
            raise ValueError(f"{line.where}: {clip} is already listed in {seen[clip]}")
        seen[clip] = line.where
        result.append(Listed(clip, cells[1], _SPLITS.get(split, ""), line.where))
    if not result:
        raise ValueError(f"{path}: lists no clip")
    unsplit = [clip.where for clip in result if not clip.split]
    if unsplit and len(unsplit) < len(result):
        raise ValueError(
            f"{unsplit[0]}: no split, but other lines have one; give a split on all lines or on none"
        )
    return result


def _digest(clip: Listed) -> str:
    return hashlib.md5(clip.path.encode()).hexdigest()


def divide(clips: Sequence[Listed], test_percent: float) -> list[Listed]:
    """Divides the clips of each class into train and test by a hash of their names.

    Of n clips of a class, round(n * test_percent / 100) go to test: at least one if n is two or more,
    and never all. The same names give the same splits on any machine.
    """
    result = []
    for label in dict.fromkeys(clip.label for clip in clips):
        ranked = sorted((clip for clip in clips if clip.label == label), key=_digest)
        num_test = round(len(ranked) * test_percent / 100)
        if test_percent:
            num_test = min(max(num_test, 1), len(ranked) - 1)
        result += [
            dataclasses.replace(clip, split="test" if i < num_test else "train")
            for i, clip in enumerate(ranked)
        ]
    return result


def class_names(clips: Sequence[Listed], wanted: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes in order.

    Raises:
      ValueError: a label is not one of the wanted classes or not plain text, or there is only one
        class.
    """
    for clip in clips:
        raw.plain(clip.label, clip.where)
    names = tuple(wanted) or tuple(sorted({clip.label for clip in clips}))
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


def _root(options: Options) -> epath.Path:
    return raw.source_root(options.source_dir, (".",), "your videos")


def _clips(options: Options) -> list[Listed]:
    root = _root(options)
    return from_list(root, options.csv) if options.csv else from_folders(root)


def _path_on_disk(root: epath.Path, clip: str) -> str:
    path = root / clip
    return str(path) if path.exists() else ""


def read_plan(options: Options) -> recorded.Plan:
    """Finds the clips and divides them.

    Raises:
      FileNotFoundError: the root or the list is missing.
      ValueError: the folders or the list are malformed, or a class has no training clip.
    """
    root, clips = _root(options), _clips(options)
    classes = class_names(clips, options.classes)
    notes = [f"clips from {options.csv or 'the folders of the classes'}"]
    if not options.csv:
        notes += _unused(root, clips)
    if not clips[0].split:
        clips = divide(clips, options.test_percent)
        notes.append(
            f"{options.test_percent:g} % of each class for testing, chosen by a hash of the names"
        )
    labels = [classes.index(clip.label) for clip in clips if clip.split == "train"]
    recorded.check_full(classes, "train", [labels.count(i) for i in range(len(classes))])
    splits = {
        split: [
            recorded.Entry(
                clip_id=clip.path,
                label=classes.index(clip.label),
                path=_path_on_disk(root, clip.path),
                where=clip.where if options.csv else "",
            )
            for clip in clips
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
    """Builds a data set of the user's own videos."""

    def _classes(self) -> tuple[str, ...]:
        return class_names(_clips(self.builder_config), self.builder_config.classes)

    def plan(self) -> recorded.Plan:
        """See recorded.ClipBuilder."""
        return read_plan(self.builder_config)
