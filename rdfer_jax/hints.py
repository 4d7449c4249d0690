"""Suggestions for misspelled names in error messages."""

import difflib
from collections.abc import Iterable

_MAX_LISTED = 12


def closest(wrong: str, names: Iterable[str]) -> str:
    """Returns the name that is most similar to `wrong`, or "" if none is similar."""
    matches = difflib.get_close_matches(str(wrong), list(names), n=1, cutoff=0.5)
    return matches[0] if matches else ""


def suggest(wrong: str, names: Iterable[str]) -> str:
    """Returns "Did you mean 'x'? Known: x, y, z" for a message about an unknown name.

    At most 12 names are listed. If no name is similar, there is no question.
    """
    names = list(names)
    match = closest(wrong, names)
    question = f"Did you mean {match!r}? " if match else ""
    more = ", ..." if len(names) > _MAX_LISTED else ""
    return f"{question}Known: {', '.join(names[:_MAX_LISTED])}{more}"
