"""MAFW as splits fold1..fold5; the training split of fold 1 is fold2+fold3+fold4+fold5.

Reads the original files of MAFW, see README.md in this folder. Each clip is stored once, in the fold
that tests on it. There are two tasks: `single` has eleven expressions; `compound` has 43 classes, the
eleven expressions and combinations of them.
"""

import dataclasses
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from rdfer_jax.media.folders import visible

from .. import counts, plans, raw, recorded

FOLDS = (1, 2, 3, 4, 5)
CLASSES = (
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness"),
    *("surprise", "contempt", "anxiety", "helplessness", "disappointment"),
)
_NUM_COMPOUND = 43

_LISTS = "Train & Test Set"
_CAPTIONS = ("no_caption", "with_caption")
#: In order of preference. MAFW has no face crops; if there are any, the user made them.
_CLIPS = ("data/faces", "data/frames", "data/clips")

_SINGLE = (1390, 639, 625, 1242, 1138, 1470, 1072, 236, 916, 262, 182)
_SINGLE_FOLDS = (1839, 1837, 1833, 1832, 1831)
PUBLISHED: Mapping[str, counts.Published] = {
    "single": {
        **{f"fold{k}": {"total": n} for k, n in zip(FOLDS, _SINGLE_FOLDS, strict=True)},
        "all": dict(zip(CLASSES, _SINGLE, strict=True)) | {"total": sum(_SINGLE)},
    },
    "compound": {"fold1": {"total": 1818}, "all": {"total": 8996}},
}


@dataclasses.dataclass(kw_only=True)
class Options(recorded.ClipOptions):
    """Options of MAFW, in addition to `recorded.ClipOptions`.

    Attributes:
      task: single (11 classes) or compound (43 classes).
      frames_dir: folder of the clips, relative to the data set; empty for the first that exists of
        data/faces, data/frames, data/clips.
    """

    task: str = "single"
    frames_dir: str = ""

    def __post_init__(self):
        super().__post_init__()
        if self.task not in PUBLISHED:
            raise ValueError(f"task={self.task!r}: use single or compound")


def class_name(label: str, where: str) -> str:
    """Returns a label in its canonical form: lower case, parts in the order of the classes.

    Raises:
      ValueError: a part is unknown or occurs twice.
    """
    parts = label.strip().lower().split("_")
    unknown = [part for part in parts if part not in CLASSES]
    if unknown or len(set(parts)) < len(parts):
        raise ValueError(
            f"{where}: unknown label {raw.shown(label)}; expected one or more of these names, "
            "without repetition, joined by _: " + ", ".join(CLASSES)
        )
    return "_".join(sorted(parts, key=CLASSES.index))


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns all classes in order: the eleven expressions, then the occurring compounds, sorted."""
    return CLASSES + tuple(sorted(set(names) - set(CLASSES)))


def read_list(path: epath.Path) -> dict[str, tuple[str, str]]:
    """Reads `03747.mp4 anger` lines, or `file, label, Chinese, English` separated by tabs.

    Returns:
      The name of each clip without suffix -> its class, and the line that lists it.

    Raises:
      ValueError: a line has another form, has an unknown label, or repeats a clip.
    """
    result: dict[str, tuple[str, str]] = {}
    for i, line in enumerate(raw.read_lines(path)):
        cells = line.text.split("\t") if "\t" in line.text else line.text.split()
        name, dot, suffix = cells[0].strip().rpartition(".")
        is_named = dot and suffix.isalnum() and len(cells) >= 2
        if i == 0 and not is_named and not any(c.isdecimal() for c in cells[0]):
            continue  # a header
        if not is_named or ("\t" not in line.text and len(cells) != 2):
            raise ValueError(f"{line.where}: expected `file.mp4 label`, got {raw.shown(line.text)}")
        name = raw.relative_path(name, line.where)
        if name in result:
            raise ValueError(f"{line.where}: clip {name} is already listed in {result[name][1]}")
        result[name] = (class_name(cells[1], line.where), line.where)
    if not result:
        raise ValueError(f"{path}: lists no clip")
    return result


Lists = Mapping[str, Mapping[str, Mapping[str, tuple[str, str]]]]  # part -> fold -> clip


def read_lists(root: epath.Path, task: str) -> tuple[Lists, str]:
    """Reads the ten lists of a task; prefers the lists without captions.

    Returns:
      The lists, and the name of their folder.
    """
    tried = [root / _LISTS / task / caption for caption in _CAPTIONS]
    folder = next((path for path in tried if path.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"no lists of task={task}; looked for\n{raw.listing(tried)}")
    lists = {
        part: {f"fold{k}": read_list(folder / f"set_{k}" / f"{part}.txt") for k in FOLDS}
        for part in ("train", "test")
    }
    names = [
        (name, where)
        for folds in lists.values()
        for rows in folds.values()
        for name, where in rows.values()
    ]
    compound = [f"{where}: {name}" for name, where in names if name not in CLASSES]
    if task == "single" and compound:
        raise ValueError(
            f"{len(compound)} labels of the single task are compounds:\n{raw.listing(compound)}"
        )
    return lists, folder.relative_to(root).as_posix()


def _all_classes(lists: Lists) -> tuple[str, ...]:
    tests = lists["test"].values()
    return class_names([name for rows in tests for name, _ in rows.values()])


def _clip_of(cell: Any) -> str:
    text = str(cell).strip().rsplit(".", 1)[0]
    return text.zfill(5) if text.isdecimal() else text


def _row_votes(cells: Sequence[Any], columns: Mapping[str, int]) -> tuple[float, ...]:
    """Returns the eleven votes of a row; raises ValueError if a cell is not a number."""
    values = [cells[columns[name]] if columns[name] < len(cells) else None for name in CLASSES]
    votes = tuple(float(value) if value not in (None, "") else 0.0 for value in values)
    if not all(0.0 <= vote < float("inf") for vote in votes):
        raise ValueError(f"votes {votes} must not be negative")
    return votes


def read_votes(path: epath.Path, clips: set[str]) -> dict[str, tuple[float, ...]]:
    """Reads a table of the annotators' votes.

    The table must have, among its first ten rows, a heading row with each of the eleven names exactly
    once, and a column with the names of clips. Votes are not scaled; an empty cell is zero.

    Args:
      path: an .xlsx or .csv file.
      clips: names of the clips.

    Returns:
      Clip -> its eleven votes; empty if the table has another form.
    """
    try:
        for table in raw.read_tables(path):
            for i, (_, header) in enumerate(table[:10]):
                columns = raw.columns(header, CLASSES)
                if columns is None:
                    continue
                rows = [cells for _, cells in table[i + 1 :]]
                named = _named_rows(rows, clips, without=set(columns.values()))
                return {clip: _row_votes(cells, columns) for clip, cells in named.items()}
    except (TypeError, ValueError, KeyError, OSError, zipfile.BadZipFile):
        pass  # a cell is not a number, or the file is not a table
    return {}


def _named_rows(
    rows: Sequence[Sequence[Any]], clips: set[str], without: set[int]
) -> dict[str, Sequence[Any]]:
    """Returns the rows by clip, using the first column that names clips on most rows."""
    width = max(map(len, rows), default=0)
    for column in (i for i in range(width) if i not in without):
        names = [_clip_of(cells[column]) if column < len(cells) else "" for cells in rows]
        named = {name: cells for name, cells in zip(names, rows, strict=True) if name in clips}
        if 2 * len(named) >= len(rows) > 0:
            return named
    return {}


def _find_votes(
    root: epath.Path, task: str, clips: set[str]
) -> tuple[dict[str, tuple[float, ...]], str]:
    """Returns the votes of the single task, and a note about their source."""
    if task != "single":
        return {}, "MAFW has votes on the eleven single classes only: all votes are zero"
    folder = root / "Labels"
    entries = visible(folder) if folder.is_dir() else []
    entries += [path for entry in entries if entry.is_dir() for path in visible(entry)]
    tables = {
        path.relative_to(root).as_posix(): path
        for path in entries
        if path.suffix.lower() in (".xlsx", ".csv") and not path.name.startswith("~")
    }
    wanted = [name for key in ("single", "annotation") for name in tables if key in name.lower()]
    for name in wanted:
        votes = read_votes(tables[name], clips)
        if votes:
            return votes, f"votes from {name}, for {len(votes)} of {len(clips)} clips"
    read = ", ".join(wanted) or "no candidate file"
    return {}, f"no readable table of votes in Labels ({read}): all votes are zero"


def read_plan(options: Options) -> plans.Plan:
    """Reads the lists and the votes, and finds the clips.

    Raises:
      FileNotFoundError: a folder or a list is missing.
      ValueError: a list is malformed, or the five folds are not a cross-validation.
    """
    root = raw.source_root(options.source_dir, (_LISTS,), "MAFW")
    lists, listed_in = read_lists(root, options.task)
    classes = _all_classes(lists)
    tests, trains = (
        {
            fold: {
                clip: classes.index(name) if name in classes else -1
                for clip, (name, _) in rows.items()
            }
            for fold, rows in lists[part].items()
        }
        for part in ("test", "train")
    )
    raw.check_folds(tests, trains)

    folder = raw.clips_folder(root, options.frames_dir, _CLIPS)
    source = folder.relative_to(root).as_posix()
    clips = {clip for rows in lists["test"].values() for clip in rows}
    votes, votes_note = _find_votes(root, options.task, clips)
    notes = [f"lists from {listed_in}", f"frames from {source}", votes_note]
    if options.task == "compound" and len(classes) != _NUM_COMPOUND:
        notes.append(f"{len(classes)} classes occur; {_NUM_COMPOUND} are published")

    finder = raw.ClipFinder(folder)
    splits = {
        fold: [
            plans.Entry(
                clip_id=clip,
                label=classes.index(name),
                path=finder.find(raw.number_names(clip, 5)),
                where=where,
                votes=votes.get(clip, ()),
            )
            for clip, (name, where) in rows.items()
        ]
        for fold, rows in lists["test"].items()
    }
    facts = {"source": source, "clips_without_votes": len(clips) - len(votes)}
    return plans.Plan(
        classes, splits, tuple(notes), facts, root=str(folder), are_faces=source == _CLIPS[0]
    )


class Builder(recorded.ClipBuilder):
    """Builds MAFW."""

    def _classes(self) -> tuple[str, ...]:
        options = self.builder_config
        if options.task == "single":
            return CLASSES
        root = raw.source_root(options.source_dir, (_LISTS,), "MAFW")
        return _all_classes(read_lists(root, options.task)[0])

    def plan(self) -> plans.Plan:
        """See recorded.ClipBuilder."""
        return read_plan(self.builder_config)

    def published(self) -> counts.Published:
        """See recorded.ClipBuilder."""
        return PUBLISHED[self.builder_config.task]
