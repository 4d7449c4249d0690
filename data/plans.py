"""The plan of a data set of recorded videos: which clips there are, of which class, in which split.

A builder reads it from the user's folder; recorded.py builds it, and check.py checks it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from . import relabel


@dataclasses.dataclass(frozen=True)
class Entry:
    """One clip of a plan.

    Attributes:
      clip_id: its unique name.
      label: index of its class.
      path: its folder of frames or its video file; empty if it was not found.
      where: the line that lists it, for messages; empty without a list.
      votes: annotators' votes for each class; empty if there are none.
      group: clips with the same one, such as those of one person, stay in one part of a split; empty for a
        clip alone.
    """

    clip_id: str
    label: int
    path: str
    where: str = ""
    votes: tuple[float, ...] = ()
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The content of a data set before it is built.

    Attributes:
      classes: names of the classes.
      splits: the clips of each split.
      notes: lines for the user, without absolute paths: which folder was read, and irregularities.
      facts: further numbers for the metadata, plain JSON values.
      max_fps: videos are thinned to this many frames per second; 0 keeps all frames.
      root: folder that links of listed clips must not leave; empty to follow every link, if the clips
        come from no list.
      full_split: a split in which every class needs a clip; empty for none.
      are_faces: whether the clips come cropped to the face.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Entry]]
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_fps: float = 0.0
    root: str = ""
    full_split: str = ""
    are_faces: bool = False


def with_labels(plan: Plan, labels: Mapping[str, str]) -> Plan:
    """Returns the plan with other labels for some of its clips, and a note with the number of changes.

    Args:
      plan: the plan as read from the lists.
      labels: clip_id -> class name.

    Raises:
      ValueError: a clip or a class is unknown.
    """
    if not labels:
        return plan
    entries = [entry for clips in plan.splits.values() for entry in clips]
    given = relabel.indices(labels, {entry.clip_id for entry in entries}, plan.classes)
    splits = {
        split: [
            dataclasses.replace(entry, label=given.get(entry.clip_id, entry.label))
            for entry in clips
        ]
        for split, clips in plan.splits.items()
    }
    changed = sum(given.get(entry.clip_id, entry.label) != entry.label for entry in entries)
    note = f"labels: {len(given)} from config.build.labels, {changed} of them differ from the lists"
    return dataclasses.replace(plan, splits=splits, notes=(*plan.notes, note))
