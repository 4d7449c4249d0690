"""Clips by folders: root/[split/]<class>/[<person>/]<clip>.

A clip is a video, or a folder of pictures. Folders below a class that hold clips are persons.
"""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from etils import epath

from rdfer_jax.media import folders
from rdfer_jax.media.files import printable
from rdfer_jax.media.folders import Contents

from .. import raw
from .listed import Listed, split_of

#: Names of folders that look like persons.
_PERSON = re.compile(
    r"(s|p|sub|subj|subject|person|actor|actress|speaker|spk|participant|user|id)[\s_\-]*\d+",
    re.IGNORECASE,
)


@dataclasses.dataclass
class Found:
    """The clips of a folder, and what else is there.

    Attributes:
      clips: the clips.
      notes: lines for the user.
    """

    clips: list[Listed]
    notes: list[str]


@dataclasses.dataclass
class _Rest:
    """Relative paths of what is not used, by the reason."""

    paths: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, root: epath.Path, reason: str, entries: Sequence[epath.Path]) -> None:
        self.paths.setdefault(reason, []).extend(
            entry.relative_to(root).as_posix() for entry in entries
        )

    def notes(self) -> list[str]:
        return [
            f"{reason}: {len(paths)}, such as {raw.shown(paths[0])}"
            for reason, paths in self.paths.items()
            if paths
        ]


#: Names of folders that hold the pictures of the clip that they lie in.
_WRAPPERS = frozenset(
    {
        "frames",
        "frame",
        "images",
        "image",
        "imgs",
        "img",
        "pictures",
        "rgb",
        "faces",
        "face",
        "aligned",
    }
)

_HOUSEKEEPING = "passed over, files of file servers, systems, editors and downloads"
_OWN = "passed over, results of this program"
_OTHERS = "ignored files that are not clips"
_PICTURES = "ignored pictures beside clips; a clip is a video or a folder of pictures"
_OUTSIDE = "ignored videos that lie in no folder of a class"
_INSIDE = "ignored folders inside of clips that are folders of pictures"


class _Walk:
    """Walks through the folders below a root and collects what is there."""

    def __init__(self, root: epath.Path, skipped: str):
        self._root, self._skipped = root, os.path.realpath(skipped) if skipped else ""
        self.rest = _Rest()

    def contents(self, folder: epath.Path) -> Contents:
        """Lists a folder; housekeeping and our own results are passed over and counted."""
        found = folders.contents(folder)
        self.rest.add(self._root, _HOUSEKEEPING, found.passed_over)
        own = [child for child in found.folders if self._is_own(child)]
        self.rest.add(self._root, _OWN, own)
        return dataclasses.replace(
            found, folders=tuple(child for child in found.folders if child not in own)
        )

    def _is_own(self, folder: epath.Path) -> bool:
        """Returns whether the data set is built in this folder, or this program has written it."""
        return os.path.realpath(folder) == self._skipped or folders.is_own_output(folder)

    def _holds_own(self, folder: epath.Path) -> bool:
        """Returns the same for a folder or one inside of it."""
        real = os.path.realpath(folder)
        return self._skipped.startswith(real + os.sep) or folders.holds_own_output(folder)

    def clips(self, folder: epath.Path) -> list[epath.Path]:
        """Returns the clips in a class, at any depth; none if the folder holds only our own results.

        Raises:
          ValueError: there is none, or it is not clear what is a clip.
        """
        found = self.contents(folder)
        inner = self._below(found, frozenset({os.path.realpath(folder)}))
        clips = [*found.videos, *inner]
        if not clips and self._holds_own(folder):
            return []
        if not clips:
            if found.pictures:
                raise ValueError(
                    f"{folder}: {len(found.pictures)} pictures, such as {found.pictures[0].name}, but no "
                    "clip; a clip is a video or a folder of pictures: put the pictures of each clip into a "
                    "folder of its own"
                )
            raise ValueError(
                f"{folder}: no clip in this class; add videos or folders, or remove this folder"
            )
        self.rest.add(self._root, _PICTURES, found.pictures)
        self.rest.add(self._root, _OTHERS, found.others)
        return clips

    def _below(self, found: Contents, above: frozenset[str]) -> list[epath.Path]:
        return [clip for child in found.folders for clip in self._clip_or_group(child, above)]

    def _clip_or_group(self, folder: epath.Path, above: frozenset[str]) -> list[epath.Path]:
        """Returns the folder, if it is a clip, or else the clips in it."""
        real = os.path.realpath(folder)
        if real in above:
            raise ValueError(f"{folder}: a link to a folder that contains it; remove the link")
        found = self.contents(folder)
        inner = self._below(found, above | {real})
        videos = [*found.videos, *(clip for clip in inner if not clip.is_dir())]
        if len(found.pictures) > 1 and videos and not found.videos:
            raise ValueError(
                f"{folder}: holds {len(found.pictures)} pictures and, deeper, videos such as "
                f"{videos[0].relative_to(folder)}; it is either a clip or a folder of clips: move "
                "one of them"
            )
        if not (found.videos or found.pictures or inner) and self._holds_own(folder):
            return []
        is_nested = len(inner) == 1 and inner == list(found.folders) and _is_wrapped(inner[0])
        if not found.videos and (len(found.pictures) > 1 or not inner or is_nested):
            self.rest.add(self._root, _INSIDE, found.folders if found.pictures else ())
            return [folder]
        self.rest.add(self._root, _PICTURES, found.pictures)
        self.rest.add(self._root, _OTHERS, found.others)
        return [*found.videos, *inner]

    def outside(self, found: Contents) -> None:
        """Counts what lies beside the folders of classes or splits."""
        self.rest.add(self._root, _OUTSIDE, found.videos)
        self.rest.add(self._root, _OTHERS, (*found.pictures, *found.others))


def find(root: epath.Path, classes: Sequence[str] = (), skipped: str = "") -> Found:
    """Finds the clips of `root/[split/]<class>/[<person>/]<clip>`.

    The folders of the first level are splits if there is one of training and one of validation or
    test. With classes that are the names of the second level only, the first level are persons.

    Args:
      root: the folder.
      classes: the classes that the user expects; empty for all.
      skipped: a folder of built data sets, which is passed over.

    Raises:
      ValueError: a class has no clip, splits and classes are mixed, or there are no folders.
    """
    walk = _Walk(root, skipped)
    found = walk.contents(root)
    walk.outside(found)
    notes: list[str] = []
    if splits := _splits(root, found.folders):
        notes += _renamed(splits)
        levels = []
        for folder, split in splits.items():
            inner = walk.contents(folder)
            walk.outside(inner)
            levels.append((split, inner.folders))
    else:
        levels = [("", found.folders)]
    if not any(names for _, names in levels):
        raise ValueError(f"{root}: no folders; expected {root.name}/<class>/<clip>, or set csv")
    clips: list[Listed] = []
    for split, parents in levels:
        by_person = _persons_first(root, parents, classes)
        for parent in parents:
            if by_person:
                inner = walk.contents(parent)
                walk.outside(inner)
                for child in inner.folders:
                    clips += _listed(root, walk.clips(child), child, split, parent.name)
            else:
                clips += _listed(root, walk.clips(parent), parent, split)
    _check_depth(root, clips, classes)
    clips, more = _persons(clips)
    return Found(clips, notes + more + walk.rest.notes())


def _check_depth(root: epath.Path, clips: Sequence[Listed], classes: Sequence[str]) -> None:
    """Raises ValueError where the only class is a folder that holds folders, which may be the classes."""
    labels = {clip.label for clip in clips}
    inner = {clip.subject for clip in clips} - {""}
    if not classes and len(labels) == 1 and len(inner) > 1 and all(clip.subject for clip in clips):
        (label,) = labels
        raise ValueError(
            f"{root}: the only folder with clips is {raw.shown(label)}, with folders "
            f"{raw.listed(sorted(inner))}; if these are the classes, set source_dir to {root / label}"
        )


def _is_wrapped(clip: epath.Path) -> bool:
    """Returns whether a folder of pictures is only a part of the path of the clip that it lies in."""
    return clip.is_dir() and (clip.name == clip.parent.name or clip.name.lower() in _WRAPPERS)


def _splits(root: epath.Path, names: Sequence[epath.Path]) -> dict[epath.Path, str]:
    """Returns the split of each folder, or {} if they are classes.

    Raises:
      ValueError: some are splits and some are not, or none is for training.
    """
    split = {path: split_of(path.name) for path in names}
    named = set(split.values()) - {""}
    others = [path.name for path, of in split.items() if not of]
    if not named:
        return {}
    if others:
        inner = {c.name for path, of in split.items() if of for c in folders.contents(path).folders}
        if ("train" in named and len(named) > 1) or inner & set(others):
            raise ValueError(
                f"{root}: its folders are splits; move {raw.listed(others)} into one of them"
            )
        return {}
    if "train" not in named:
        raise ValueError(
            f"{root}: its folders are splits ({raw.listed([p.name for p in names])}), but none of them is "
            "for training; call one train"
        )
    # A lone folder of training clips is divided like one without splits.
    return split if len(named) > 1 else dict.fromkeys(split, "")


def _renamed(splits: dict[epath.Path, str]) -> list[str]:
    """Returns a note about splits that are stored under another name."""
    named = [f"{path.name} is {split}" for path, split in splits.items() if split != path.name]
    if not any(splits.values()):
        return [f"the only folder is {next(iter(splits)).name}, so it is divided"]
    return [f"folders of splits: {', '.join(named)}"] if named else []


def _persons_first(root: epath.Path, parents: Sequence[epath.Path], classes: Sequence[str]) -> bool:
    """Returns whether the folders are persons that hold the classes.

    Raises:
      ValueError: they look like it, and the classes are not given.
    """
    inner = [{child.name for child in folders.contents(path).folders} for path in parents]
    if classes:
        names = {path.name for path in parents}
        return not names & set(classes) and all(i and i <= set(classes) for i in inner)
    shared = [name for name, count in Counter(n for i in inner for n in i).items() if count > 1]
    if (
        len(parents) > 1
        and shared
        and all(_PERSON.fullmatch(path.name) for path in parents)
        and not any(_PERSON.fullmatch(name) for i in inner for name in i)
    ):
        raise ValueError(
            f"{root}: {raw.listed([path.name for path in parents])} look like persons, each with "
            "folders of classes; expected <class>/<person>/<clip>. Name the classes, "
            f"--config.build.classes={','.join(sorted(set().union(*inner)))}, and the persons are "
            "read as such"
        )
    return False


def _listed(
    root: epath.Path, clips: Sequence[epath.Path], folder: epath.Path, split: str, person: str = ""
) -> Iterator[Listed]:
    """Yields the clips of a class; the first folder below the class is the person."""
    for clip in clips:
        inside = clip.relative_to(folder).parts
        subject = person or (inside[0] if len(inside) > 1 else "")
        on_disk = clip.relative_to(root).as_posix()
        name = printable(on_disk)
        yield Listed(name, folder.name, split, name, printable(subject), on_disk=on_disk)


def _persons(clips: Sequence[Listed]) -> tuple[list[Listed], list[str]]:
    """Takes the folders below the classes for persons, unless no class has two of them."""
    persons: dict[str, set[str]] = {}
    for clip in clips:
        persons.setdefault(clip.label, set()).add(clip.subject)
    known = set().union(*persons.values()) - {""}
    if not known:
        return list(clips), []
    if all(len(names) < 2 for names in persons.values()):
        note = "each class has one folder of clips, so these folders are not taken for persons"
        return [dataclasses.replace(clip, subject="") for clip in clips], [note]
    without = sum(not clip.subject for clip in clips)
    note = f"{len(known)} persons, the folders below the classes"
    return list(clips), [note + (f"; {without} clips lie beside them" if without else "")]
