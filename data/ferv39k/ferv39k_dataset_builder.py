"""FERV39k as splits train and test.

Reads the original files of FERV39k, see README.md in this folder. The classes are in DFEW's order.
FERV39k has no votes.
"""

import dataclasses

from etils import epath

from rdfer_jax.media.folders import visible

from .. import counts, plans, raw, recorded, schema

_FOLDERS = {
    "Happy": "happy",
    "Sad": "sad",
    "Neutral": "neutral",
    "Angry": "angry",
    "Surprise": "surprise",
    "Disgust": "disgust",
    "Fear": "fear",
}
_CLASS_OF = {name.lower(): schema.DFEW_CLASSES.index(c) for name, c in _FOLDERS.items()}
_SETUPS = "4_setups"
_CLIPS = ("2_ClipsforFaceCrop",)


def _published_counts(*numbers: int) -> dict[str, int]:
    return dict(zip(schema.DFEW_CLASSES, numbers, strict=True)) | {"total": sum(numbers)}


_TRAIN = (5854, 5523, 7790, 5906, 2502, 1833, 1680)
_TEST = (1473, 1393, 1958, 1487, 638, 467, 431)
PUBLISHED: counts.Published = {
    "train": _published_counts(*_TRAIN),
    "test": _published_counts(*_TEST),
    "all": _published_counts(*(a + b for a, b in zip(_TRAIN, _TEST, strict=True))),
}


@dataclasses.dataclass(kw_only=True)
class Options(recorded.ClipOptions):
    """Options of FERV39k, in addition to `recorded.ClipOptions`.

    Attributes:
      setup: folder of the lists below 4_setups; published results use All_scenes.
      frames_dir: folder of the clips, relative to the data set; empty for 2_ClipsforFaceCrop.
      allow_mismatch: if a label differs from the clip's emotion folder, use the label and count the
        clip, instead of stopping.
    """

    setup: str = "All_scenes"
    frames_dir: str = ""
    allow_mismatch: bool = False


@dataclasses.dataclass(frozen=True)
class Listed:
    """A line of a list.

    Attributes:
      path: `Scene/Emotion/number`.
      label: the class as written: a name, or a number.
      folder_class: class index of the emotion folder.
      where: file and line.
    """

    path: str
    label: str
    folder_class: int
    where: str


def read_list(path: epath.Path) -> list[Listed]:
    """Reads `Action/Sad/0010 Sad` lines; a first line without a slash or a digit is a header.

    Raises:
      ValueError: a line has another form, a path leaves the folder, or a clip is repeated.
    """
    result: list[Listed] = []
    seen: dict[str, str] = {}
    for i, line in enumerate(raw.read_lines(path)):
        cells = raw.csv_cells(line.text) if "," in line.text else line.text.rsplit(None, 1)
        if i == 0 and not any(c == "/" or c.isdecimal() for c in line.text):
            continue  # `path,id`: a header that the original lists do not have
        if len(cells) != 2:
            raise ValueError(
                f"{line.where}: expected `Scene/Emotion/number label`, got {raw.shown(line.text)}"
            )
        clip = raw.relative_path(cells[0], line.where)
        parts = clip.split("/")
        if len(parts) != 3 or parts[1].lower() not in _CLASS_OF:
            raise ValueError(
                f"{line.where}: expected Scene/Emotion/number with Emotion one of "
                f"{', '.join(_FOLDERS)}, got {raw.shown(cells[0])}"
            )
        if clip in seen:
            raise ValueError(f"{line.where}: clip {clip} is already listed in {seen[clip]}")
        seen[clip] = line.where
        result.append(Listed(clip, cells[1], _CLASS_OF[parts[1].lower()], line.where))
    if not result:
        raise ValueError(f"{path}: lists no clip")
    return result


def class_of_labels(listed: list[Listed]) -> dict[str, int]:
    """Returns the class index of each label as written.

    Some copies of the lists have numbers instead of names, in varying orders. A number is mapped to the
    class of the emotion folders of its clips.

    Raises:
      ValueError: a name is unknown, or a number occurs with several emotion folders.
    """
    result: dict[str, int] = {}
    for line in listed:
        if line.label.isdecimal():
            first = result.setdefault(line.label, line.folder_class)
            if first != line.folder_class:
                raise ValueError(
                    f"{line.where}: label {line.label} is {schema.DFEW_CLASSES[first]} on other lines, but "
                    f"{line.path} is another expression; use the original lists"
                )
        elif line.label.lower() in _CLASS_OF:
            result[line.label] = _CLASS_OF[line.label.lower()]
        else:
            raise ValueError(
                f"{line.where}: unknown label {raw.shown(line.label)}; expected one of "
                + ", ".join(_FOLDERS)
            )
    numbers = [label for label in result if label.isdecimal()]
    if len({result[label] for label in numbers}) != len(numbers):
        raise ValueError(
            f"{listed[0].where}: several of the numbers {', '.join(sorted(numbers))} occur with "
            "the same emotion folder; use the original lists"
        )
    return result


def _list_file(folder: epath.Path, part: str) -> epath.Path:
    """Returns the list of a split: `train_All.csv`, or the only `train_*.csv`."""
    names = [path.name for path in visible(folder)]
    lists = [name for name in names if name.startswith(f"{part}_") and name.endswith(".csv")]
    if f"{part}_All.csv" in lists:
        lists = [f"{part}_All.csv"]
    if len(lists) != 1:
        raise FileNotFoundError(
            f"{folder}: expected one {part}_*.csv, found {len(lists)}. The folder contains\n"
            + raw.listing(names)
        )
    return folder / lists[0]


def _setup_folder(root: epath.Path, setup: str) -> epath.Path:
    folder = root / _SETUPS / raw.relative_path(setup, "setup")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"setup={setup}: no folder {folder}; use one of\n"
            + raw.listing([path.name for path in visible(root / _SETUPS)])
        )
    return folder


def read_plan(options: Options) -> plans.Plan:
    """Reads the two lists and finds the clips.

    Raises:
      FileNotFoundError: a folder or a list is missing.
      ValueError: a list is malformed, a clip is in both lists, or a label contradicts its folder.
    """
    root = raw.source_root(options.source_dir, (_SETUPS,), "FERV39k")
    setup = _setup_folder(root, options.setup)
    lists = {part: read_list(_list_file(setup, part)) for part in ("train", "test")}
    every = [line for listed in lists.values() for line in listed]
    classes = class_of_labels(every)

    in_train = {line.path for line in lists["train"]}
    both = [f"{line.path}: {line.where}" for line in lists["test"] if line.path in in_train]
    if both:
        raise ValueError(f"{len(both)} clips are in both train and test:\n{raw.listing(both)}")
    mismatched = [
        f"{line.where}: {line.path} has the label {line.label}"
        for line in every
        if classes[line.label] != line.folder_class
    ]
    if mismatched and not options.allow_mismatch:
        raise ValueError(
            f"{len(mismatched)} labels contradict the clip's emotion folder:\n"
            f"{raw.listing(mismatched)}\nCorrect the lists, or set allow_mismatch=True to use the "
            "labels of the lists."
        )

    folder = raw.clips_folder(root, options.frames_dir, _CLIPS)
    source = folder.relative_to(root).as_posix()
    notes = [f"frames from {source}"]
    if any(label.isdecimal() for label in classes):
        notes.append(
            "the labels in the lists are numbers: classes are those of the emotion folders"
        )
    if mismatched:
        notes.append(f"labels that contradict the clip's emotion folder: {len(mismatched)}")
    finder = raw.ClipFinder(folder)
    splits = {
        part: [
            plans.Entry(
                clip_id=line.path,
                label=classes[line.label],
                path=_find(finder, line.path),
                where=line.where,
            )
            for line in listed
        ]
        for part, listed in lists.items()
    }
    facts = {"source": source, "label_folder_mismatches": len(mismatched)}
    are_faces = source.startswith(_CLIPS[0])
    return plans.Plan(
        schema.DFEW_CLASSES, splits, tuple(notes), facts, root=str(folder), are_faces=are_faces
    )


def _find(finder: raw.ClipFinder, clip: str) -> str:
    below, number = clip.rsplit("/", 1)
    return finder.find(raw.number_names(number, 4), below)


class Builder(recorded.ClipBuilder):
    """Builds FERV39k."""

    def _classes(self) -> tuple[str, ...]:
        return schema.DFEW_CLASSES

    def plan(self) -> plans.Plan:
        """See recorded.ClipBuilder."""
        return read_plan(self.builder_config)

    def published(self) -> counts.Published:
        """See recorded.ClipBuilder."""
        return PUBLISHED if self.builder_config.setup == "All_scenes" else {}
