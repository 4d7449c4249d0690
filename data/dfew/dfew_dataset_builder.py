"""DFEW as splits fold1..fold5; the training split of fold 1 is fold2+fold3+fold4+fold5.

Reads the original files of DFEW, see README.md in this folder. Each clip is stored once, in the fold
that tests on it.
"""

import dataclasses
import math
from typing import Any

from etils import epath

from .. import counts, plans, raw, recorded, schema

FOLDS = (1, 2, 3, 4, 5)

_LISTS = (
    "EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv",
    "EmoLabel_DataSplit/{part}_single-labeled/set_{fold}.csv",
    "label/single_{part}set_{fold}.csv",
)
#: In order of preference: all frames before 16 interpolated ones, face crops before full pictures.
_CLIPS = (
    *("Clip/clip_224x224", "clip_224x224"),
    *("Clip/clip_224x224_16f", "clip_224x224_16f"),
    *("Clip/clip_224x224_avi", "clip_224x224_avi"),
    *("data", "Clip/original"),
)
_ANNOTATIONS = (
    *("Annotation/annotation.xlsx", "Annotation/annotation.csv"),
    *("annotation.xlsx", "annotation.csv"),
)

_N = len(schema.DFEW_CLASSES)
#: Upper bound of votes and clip numbers.
_LARGEST = 1e9


def _published_counts(*numbers: int) -> dict[str, int]:
    return dict(zip(schema.DFEW_CLASSES, numbers, strict=True)) | {"total": sum(numbers)}


PUBLISHED: counts.Published = {
    "fold1": _published_counts(489, 379, 534, 435, 294, 29, 181),
    **{
        f"fold{k}": {"total": n}
        for k, n in zip((2, 3, 4, 5), (2341, 2340, 2339, 2336), strict=True)
    },
    "all": _published_counts(2445, 1894, 2669, 2173, 1469, 145, 902),
}


@dataclasses.dataclass(kw_only=True)
class Options(recorded.ClipOptions):
    """Options of DFEW, in addition to `recorded.ClipOptions`.

    Attributes:
      frames_dir: folder of the clips, relative to the data set; empty for the first that exists of
        Clip/clip_224x224, Clip/clip_224x224_16f, Clip/clip_224x224_avi, data, Clip/original.
      label_base: number of the first class in the lists: 1 in the original lists, 0 in some copies.
    """

    frames_dir: str = ""
    label_base: int = 1

    def __post_init__(self):
        super().__post_init__()
        if self.label_base not in (0, 1):
            raise ValueError(f"label_base={self.label_base}: use 1 (as distributed) or 0")


def _list_file(root: epath.Path, part: str, fold: int) -> epath.Path:
    tried = [root / name.format(part=part, fold=fold) for name in _LISTS]
    for path in tried:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"no list of the {part} set of fold {fold}; looked for\n{raw.listing(tried)}"
    )


def read_list(path: epath.Path, label_base: int = 1) -> dict[str, tuple[int, str]]:
    """Reads `video_name,label` lines, with or without a header.

    Args:
      path: the list.
      label_base: number of the first class.

    Returns:
      The name of each clip, padded to five digits -> its class, 0 to 6, and the line that lists it.

    Raises:
      ValueError: a line has another form, repeats a clip, or has a label that is out of range; or the
        labels do not start at `label_base`.
    """
    rows: list[tuple[str, int, raw.Line]] = []
    for i, line in enumerate(raw.read_lines(path)):
        cells = raw.csv_cells(line.text)
        name = cells[0].rsplit(".", 1)[0] if cells else ""
        if len(cells) != 2 or not raw.is_number(name) or not raw.is_number(cells[1]):
            if i == 0 and not any(cell.isdecimal() for cell in cells) and cells[0] != "label":
                continue  # the header
            raise ValueError(
                f"{line.where}: expected `video_name,label`, got {raw.shown(line.text)}"
            )
        rows.append((name.zfill(5), int(cells[1]), line))
    if not rows:
        raise ValueError(f"{path}: lists no clip")
    labels = {label for _, label, _ in rows}
    if label_base == 1 and 0 in labels and _N not in labels:
        raise ValueError(
            f"{path}: labels are {min(labels)} to {max(labels)}, but DFEW's are 1 to {_N}. This list was "
            "renumbered; use the original one, or set label_base=0 if the classes are in DFEW's order."
        )
    if label_base == 0 and _N in labels:
        raise ValueError(f"{path}: label {_N} occurs, so the labels start at 1; set label_base=1.")
    result: dict[str, tuple[int, str]] = {}
    for name, label, line in rows:
        if not label_base <= label < label_base + _N:
            raise ValueError(
                f"{line.where}: label {label} of clip {name}; expected "
                f"{label_base} to {label_base + _N - 1}"
            )
        if name in result:
            raise ValueError(f"{line.where}: clip {name} is already listed in {result[name][1]}")
        result[name] = (label - label_base, line.where)
    return result


def _number(cell: Any, where: str) -> float:
    try:
        number = float(cell) if cell not in (None, "") else 0.0
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < _LARGEST:
        raise ValueError(f"{where}: {raw.shown(str(cell))} is not a number of 0 or more")
    return number


def read_votes(path: epath.Path) -> dict[str, tuple[tuple[float, ...], int]]:
    """Reads the annotation table: votes for each class, the number of the clip (`order`), the label.

    Columns are found by their headings, in any order.

    Returns:
      Clip -> its seven votes in the order of the classes, and its label, 0 to 6, or -1 if no expression
      got enough votes.

    Raises:
      ValueError: a column is missing, a cell is not a number of 0 or more, or a clip has two rows.
    """
    names = (*schema.DFEW_CLASSES, "order", "label")
    header: tuple[Any, ...] = ()
    for (_, header), *rows in (table for table in raw.read_tables(path) if table):
        columns = raw.columns(header, names)
        if columns is None:
            continue
        result = {}
        for where, cells in rows:
            values = {
                n: _number(cells[i] if i < len(cells) else 0, where) for n, i in columns.items()
            }
            votes = tuple(values[name] for name in schema.DFEW_CLASSES)
            clip = str(int(values["order"])).zfill(5)
            if clip in result and values["order"]:
                raise ValueError(f"{where}: clip {clip} has two rows; remove one")
            result[clip] = (votes, int(values["label"]) - 1)
        return result
    raise ValueError(
        f"{path}: expected a table with the columns {', '.join(names)}, got "
        f"{raw.shown(str(list(header)))}"
    )


def _vote_facts(
    labels: dict[str, int], annotations: dict[str, tuple[tuple[float, ...], int]]
) -> dict[str, int]:
    """Counts disagreements between the annotation table and the lists."""
    annotated = {clip: annotations[clip] for clip in labels if clip in annotations}
    return {
        "clips_without_votes": len(labels) - len(annotated),
        "label_is_not_the_most_voted": sum(
            votes[labels[clip]] < max(votes) for clip, (votes, _) in annotated.items()
        ),
        "label_differs_from_annotation": sum(
            labels[clip] != label for clip, (_, label) in annotated.items()
        ),
    }


Listed = dict[str, dict[str, tuple[int, str]]]  # fold -> clip -> class and line


def _read_lists(root: epath.Path, label_base: int) -> Listed:
    """Returns the test lists, after checking that the folds are a cross-validation."""
    lists = {
        part: {f"fold{k}": read_list(_list_file(root, part, k), label_base) for k in FOLDS}
        for part in ("train", "test")
    }
    tests, trains = (
        {
            fold: {clip: label for clip, (label, _) in rows.items()}
            for fold, rows in lists[part].items()
        }
        for part in ("test", "train")
    )
    raw.check_folds(tests, trains)
    return lists["test"]


def _find_votes(
    root: epath.Path, tests: Listed
) -> tuple[dict[str, tuple[float, ...]], dict[str, Any], list[str]]:
    """Returns the votes by clip, facts for the metadata, and notes."""
    path = next((root / name for name in _ANNOTATIONS if (root / name).exists()), None)
    if path is None:
        return {}, {}, ["no Annotation/annotation.xlsx or .csv: all votes are zero"]
    annotations = read_votes(path)
    labels = {clip: label for rows in tests.values() for clip, (label, _) in rows.items()}
    counted = _vote_facts(labels, annotations)
    notes = [f"votes from {path.relative_to(root).as_posix()}"]
    notes += [f"votes: {name.replace('_', ' ')}: {n}" for name, n in counted.items() if n]
    return {clip: votes for clip, (votes, _) in annotations.items()}, {"votes": counted}, notes


def read_plan(options: Options) -> plans.Plan:
    """Reads the lists and the votes, and finds the clips.

    Raises:
      FileNotFoundError: a folder or a list is missing.
      ValueError: a list is malformed, or the five folds are not a cross-validation.
    """
    markers = sorted({name.split("/")[0] for name in _LISTS})
    root = raw.source_root(options.source_dir, markers, "DFEW")
    tests = _read_lists(root, options.label_base)
    folder = raw.clips_folder(root, options.frames_dir, _CLIPS)
    source = folder.relative_to(root).as_posix()
    notes = [f"frames from {source}"]
    if folder.name.endswith("_16f"):
        notes.append("this folder has 16 interpolated frames per clip, not all frames")
    votes, facts, vote_notes = _find_votes(root, tests)
    finder = raw.ClipFinder(folder)
    splits = {
        fold: [
            plans.Entry(
                clip_id=clip,
                label=label,
                path=finder.find(raw.number_names(clip, 5)),
                where=where,
                votes=votes.get(clip, ()),
            )
            for clip, (label, where) in rows.items()
        ]
        for fold, rows in tests.items()
    }
    return plans.Plan(
        schema.DFEW_CLASSES,
        splits,
        (*notes, *vote_notes),
        {"source": source, **facts},
        root=str(folder),
        are_faces=folder.name.startswith("clip_224x224"),
    )


class Builder(recorded.ClipBuilder):
    """Builds DFEW."""

    def _classes(self) -> tuple[str, ...]:
        return schema.DFEW_CLASSES

    def plan(self) -> plans.Plan:
        """See recorded.ClipBuilder."""
        return read_plan(self.builder_config)

    def published(self) -> counts.Published:
        """See recorded.ClipBuilder."""
        return PUBLISHED
