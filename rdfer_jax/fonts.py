"""Text in pictures: which installed font can draw it, and what is written where none can.

Matplotlib's own font has Latin, Greek, Cyrillic and some other letters. For others, such as Chinese, the
installed fonts are searched.
"""

import contextlib
import functools
import logging
from collections.abc import Iterable, Sequence

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

log = logging.getLogger(__name__)

#: Matplotlib's font, which is always there.
BASE = "DejaVu Sans"
#: A font that has a box for every letter.
_LAST_RESORT = "Last Resort"
#: What is written beside names, and needs letters as well.
_DIGITS = "0123456789 %"


def path_for(text: str) -> str:
    """Returns the file of a font that has every letter of a text, and digits; empty if there is none."""
    entry = _entry(frozenset(text + _DIGITS))
    return entry.fname if entry else ""


def lettering(texts: Iterable[str]) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which Matplotlib's new text uses the fonts that these texts need."""
    entries = (_entry(frozenset(text + _DIGITS)) for text in texts)
    families = dict.fromkeys([BASE, *(entry.name for entry in entries if entry)])
    return matplotlib.rc_context({"font.family": list(families)})


def names(classes: Sequence[str]) -> list[str]:
    """Returns the names of classes as pictures show them: those that no font can draw become "class 0" ...

    This is said once.
    """
    shown = [name if path_for(name) else f"class {i}" for i, name in enumerate(classes)]
    replaced = tuple((a, b) for a, b in zip(classes, shown, strict=True) if a != b)
    if replaced:
        _say(replaced)
    return shown


def drawable(text: str) -> str:
    """Returns a text with question marks for what no font can draw."""
    if path_for(text):
        return text
    return "".join(letter if path_for(letter) else "?" for letter in text)


@functools.cache
def _say(replaced: tuple[tuple[str, str], ...]) -> None:
    log.warning(
        "no installed font can draw %s; pictures show %s. Install a font that can, such as Noto Sans CJK",
        ", ".join(name for name, _ in replaced),
        ", ".join(shown for _, shown in replaced),
    )


@functools.lru_cache(maxsize=1024)
def _entry(letters: frozenset[str]) -> font_manager.FontEntry | None:
    """Returns the first installed font that has all letters, the base font first."""
    fonts = font_manager.fontManager.ttflist
    regular = (font for font in fonts if font.style == "normal" and str(font.weight) in _REGULAR)
    ordered = sorted(regular, key=lambda font: (font.name != BASE, font.name, font.fname))
    codes = {ord(letter) for letter in letters}
    return next((font for font in ordered if codes <= _codes(font.fname)), None)


_REGULAR = ("400", "normal", "regular")


@functools.lru_cache(maxsize=1024)
def _codes(path: str) -> frozenset[int]:
    """Returns the code points that a font has; none for fonts of bitmaps, such as colored emoji."""
    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):  # damaged, or removed since Matplotlib listed it
        return frozenset()
    if not font.scalable or font.family_name.startswith(_LAST_RESORT):
        return frozenset()
    return frozenset(font.get_charmap())
