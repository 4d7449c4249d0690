"""The page on which a person checks doubtful labels: one HTML file that works without a network.

Enters: clips with their scores and a film strip each. Leaves: an HTML file. Its reader goes through the
cards, decides, and exports a CSV that config.data.labels takes; see pipeline/labels.py.
"""

import base64
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from rdfer_jax import html

#: The kinds of clips, and what they mean.
KINDS = {
    "mislabelled": "the clip's parts agree on another class than its label",
    "hard": "the clip's parts do not agree: the expression is weak, mixed or badly seen",
    "fine": "nothing speaks against the label",
}
#: The scores of a clip: key, name, meaning.
SCORES = (
    ("label_quality", "Label quality", "how well the given label fits; low: it is probably wrong"),
    ("ease", "Ease", "how easy the clip is to judge; low: hard"),
    (
        "agreement",
        "Agreement",
        "how alike the predictions for the clip's parts are; 1: all the same",
    ),
    ("p_label", "Probability, given", "what the model gives the label that the clip has"),
    ("p_suggested", "Probability, suggested", "what the model gives the label that it suggests"),
)
_JPEG = b"\xff\xd8\xff"


def write(
    path: epath.PathLike,
    rows: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    title: str,
    summary: str | Mapping[str, object] = "",
) -> epath.Path:
    """Writes the page.

    Decisions are kept in the browser under the title and the classes, so a page that is written again
    under the same title finds them; another data set needs another title.

    Args:
      path: of the file to write.
      rows: the clips. Of each: clip_id; kind, one of KINDS; label and suggested, names of classes;
        the SCORES, numbers in [0, 1]; votes, if there are any: a number for each of some classes;
        strip: a JPEG of its frames side by side, or None.
      classes: names of the classes, by index. The first nine can be chosen with the keys 1 to 9.
      title: heading of the page, such as the name of the data set.
      summary: what to know of it: a sentence, or values by name.

    Returns:
      The file.

    Raises:
      ValueError: a row does not hold what it should; the message names its clip.
    """
    if len(set(classes)) != len(classes) or not all(classes):
        raise ValueError(f"classes must be different names that are not empty, got {list(classes)}")
    clips = [_clip(row, classes) for row in rows]
    twice = [name for name, count in Counter(clip["id"] for clip in clips).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} clips are named more than once, such as {twice[0]!r}")
    counts = Counter(clip["kind"] for clip in clips)
    page = html.render(
        "labels/audit.html",
        summary=summary,
        kinds=KINDS,
        counts={kind: counts[kind] for kind in KINDS},
        # What is fine is shown only if it is asked for, or if there is nothing else.
        checked=[kind for kind in KINDS if kind != "fine" or set(counts) <= {"fine"}],
        data={
            "title": title,
            "file": f"{re.sub(r'[^A-Za-z0-9]+', '-', title).strip('-')[:60] or 'audit'}-labels.csv",
            "classes": list(classes),
            "scores": [
                dict(zip(("key", "name", "meaning"), score, strict=True)) for score in SCORES
            ],
            "clips": clips,
        },
    )
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(page.encode())
    return path


def _clip(row: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """A clip as the page's script reads it.

    Raises:
      ValueError: the row does not hold what it should.
    """
    where = f"clip {row.get('clip_id')!r}"
    if missing := {"clip_id", "kind", "label", "suggested", *(s[0] for s in SCORES)} - set(row):
        raise ValueError(f"{where}: it lacks {', '.join(sorted(missing))}")
    if row["kind"] not in KINDS:
        raise ValueError(f"{where}: kind is {row['kind']!r}, must be one of {', '.join(KINDS)}")
    votes = row.get("votes") or {}
    for name in (row["label"], row["suggested"], *votes):
        if name not in classes:
            raise ValueError(f"{where}: there is no class {name!r} among {', '.join(classes)}")
    return {
        "id": str(row["clip_id"]),
        "kind": row["kind"],
        "label": row["label"],
        "suggested": row["suggested"],
        "scores": {key: _score(row[key], key, where) for key, _, _ in SCORES},
        "votes": _votes(votes),
        "strip": _strip(row.get("strip"), where),
    }


def _score(value: Any, name: str, where: str) -> float:
    value = float(value)
    if not -1e-6 <= value <= 1 + 1e-6:  # also refuses NaN
        raise ValueError(f"{where}: {name} is {value}, must lie in [0, 1]")
    return round(min(max(value, 0.0), 1.0), 4)


def _votes(votes: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """The classes that have votes, most votes first, with the numbers as they are written."""
    counts = {name: float(count) for name, count in votes.items()}
    voted = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    return [(name, f"{counts[name]:.3g}") for name in voted if math.isfinite(counts[name])] or None


def _strip(jpeg: bytes | None, where: str) -> str | None:
    """A picture as a data URI."""
    if jpeg is None:
        return None
    if not jpeg.startswith(_JPEG):
        raise ValueError(f"{where}: strip is no JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
