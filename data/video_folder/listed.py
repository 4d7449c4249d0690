"""One clip of the user's own videos, and what the names of splits are."""

import dataclasses
import re

#: Names of splits, in lower case and without "set" and the like, and what they mean.
_SPLITS = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "validation": "validation",
    "valid": "validation",
    "validate": "validation",
    "val": "validation",
    "dev": "validation",
    "devel": "validation",
    "development": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "publictest": "validation",  # as FER2013 calls it
    "test": "test",
    "testing": "test",
    "tst": "test",
    "privatetest": "test",
}
#: Splits in the order in which they are stored.
ORDER = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Listed:
    """A clip of a folder or a list.

    Attributes:
      path: path relative to the root, as text, which is the clip's name.
      label: name of its class.
      split: train, validation or test; empty if it is not defined.
      where: the line that lists it, or the path.
      subject: the person, empty if unknown.
      group: clips with the same one belong together; empty for a clip alone.
      on_disk: path relative to the root, if the clip is there; empty for `path`.
    """

    path: str
    label: str
    split: str
    where: str
    subject: str = ""
    group: str = ""
    on_disk: str = ""


def split_of(name: str) -> str:
    """Returns train, validation or test for a usual name of a split, else ""."""
    plain = re.sub(r"[\s_\-]*(set|split|data)$", "", name.strip().casefold())
    return _SPLITS.get(re.sub(r"[\s_\-]+", "", plain), "")
