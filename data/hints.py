"""What to say of a name that is not known."""

import difflib
from collections.abc import Iterable

_LISTED = 12


def suggest(wrong: str, known: Iterable[str]) -> str:
    """Returns the nearest of the names that are known, and these, or the first of them, in words."""
    names = list(known)
    close = difflib.get_close_matches(str(wrong), names, n=1, cutoff=0.5)
    more = ", ..." if len(names) > _LISTED else ""
    return (
        (f"did you mean {close[0]!r}? " if close else "")
        + "Known: "
        + ", ".join(names[:_LISTED])
        + more
    )
