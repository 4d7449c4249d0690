"""Types of settings that take a number or a word, how the command line reads them, and shared options.

A ConfigDict keeps the type of each setting. A reference with one of these types accepts several.
"""

from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

#: The value of a setting that is chosen when a run starts, by its data and its machine.
AUTO = "auto"

#: A whole number, or True for no limit.
_BUDGET = (bool, int)
#: A number, or AUTO.
_OR_AUTO = {int: (int, str), float: (float, int, str), bool: (bool, str)}


def budget(value: int = 0) -> Any:
    """Returns a setting for a ConfigDict that is a whole number, or True for no limit."""
    return config_dict.FieldReference(value, field_type=_BUDGET)


def or_auto(value: float | str, kind: type) -> Any:
    """Returns a setting for a ConfigDict that is of a kind, int, float or bool, or AUTO."""
    return config_dict.FieldReference(value, field_type=_OR_AUTO[kind])


def clip_options() -> dict[str, Any]:
    """Returns the options in config.build of every data set of recorded videos, at their defaults.

    data/recorded.py says what they mean.
    """
    return {
        "short_side": 128,
        "jpeg_quality": 95,
        "allow_missing": budget(0),
        "crop_faces": or_auto(False, bool),
        "face_detector": "blazeface",
        "face_margin": 0.1,
        "face_align": True,
        "min_face": 0.1,
        "labels": "",
    }


class _BudgetParser(flags.ArgumentParser):
    """Reads True, False, or a number; `1` is a number."""

    def parse(self, argument: Any) -> int:
        if not isinstance(argument, str):
            return argument
        words = {"true": True, "yes": True, "false": 0, "no": 0}
        if argument.strip().lower() in words:
            return words[argument.strip().lower()]
        try:
            return int(argument)
        except ValueError:
            raise ValueError(f"expected True, False or a number, got {argument!r}") from None


class _AutoParser(flags.ArgumentParser):
    """Reads a value of a kind, or AUTO."""

    def __init__(self, kind: type):
        super().__init__()
        is_bool = kind is bool
        self._kind = flags.BooleanParser().parse if is_bool else kind
        self._expected = f"{'True, False' if is_bool else 'a number'} or {AUTO}"

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str) or argument == AUTO:
            return argument
        try:
            return self._kind(argument)
        except ValueError as error:
            raise ValueError(f"{error}; expected {self._expected}") from None


config_flags.register_flag_parser_for_type(_BUDGET, _BudgetParser())
for _kind, _types in _OR_AUTO.items():
    config_flags.register_flag_parser_for_type(_types, _AutoParser(_kind))
