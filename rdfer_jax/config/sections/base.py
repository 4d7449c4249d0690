"""What all sections of the settings share."""

import dataclasses
from typing import Any


def field(
    default: Any,
    text: str,
    *,
    affects_training: bool = True,
    path: bool = False,
    auto: bool = False,
    **limits: float,
) -> Any:
    """Declares a setting.

    Args:
      default: the default value.
      text: what the setting means, with its unit.
      affects_training: False if the setting does not change what is learned, so that a run may be
        resumed with another value.
      path: whether it is a path, in which `~` is a home folder.
      auto: whether it may be "auto", which training/automatic.py replaces when a run starts.
      **limits: `low` and `high`, the smallest and the largest allowed number.
    """
    metadata = {
        "text": text,
        "affects_training": affects_training,
        "path": path,
        "auto": auto,
        **limits,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Section:
    """A group of settings, `config.<section>.<name>`."""

    def check(self) -> None:
        """Raises a ValueError if settings of this section contradict each other."""
