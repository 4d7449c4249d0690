"""The page for reviewing suspicious labels: one HTML file that works offline.

Enters: clips with scores and film strips. Leaves: an HTML file, on which a person keeps or changes labels
and exports them as CSV in the format of config.data.labels; see pipeline/label_files.py.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from rdfer_jax import html

#: The kinds of clips and their meaning.
KINDS = {
    "mislabeled": "the views of the clip favor another class over its label",
    "hard": "the views of the clip disagree or are uncertain: the expression is weak, mixed or hard to see",
    "fine": "no sign of a wrong label",
}
#: The scores of a clip: key, name, meaning.
SCORES = (
    (
        "false_alarms",
        "False alarms",
        "expected share of right labels among this clip and all more suspicious ones; low: probably wrong",
    ),
    ("label_quality", "Label quality", "how well the given label fits; low: probably wrong"),
    ("ease", "Ease", "how easy the clip is to judge; low: hard"),
    (
        "agreement",
        "Agreement",
        "how similar the predictions for the views of the clip are; 1: identical",
    ),
    ("p_label", "Probability, given", "probability of the given label according to the model"),
    (
        "p_suggested",
        "Probability, suggested",
        "probability of the suggested label according to the model",
    ),
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

    The browser stores decisions under the title and the classes, so a page that is written again with the
    same title finds them. Use different titles for different data sets.

    Args:
      path: file to write.
      rows: the clips, each with clip_id; kind, one of KINDS; label and suggested, names of classes; the
        SCORES, numbers in [0, 1]; optionally why, text that explains the kind; sample, whether it is in the
        sample to review; votes, numbers by class; strip, a JPEG of its frames side by side, or None.
      classes: names of the classes, by index. The keys 1 to 9 select the first nine.
      title: heading of the page, such as the name of the data set.
      summary: text below the title: a sentence, or values by name.

    Returns:
      The path of the file.

    Raises:
      ValueError: a row is invalid; the message names its clip.
    """
    if len(set(classes)) != len(classes) or not all(classes):
        raise ValueError(f"classes must be different, non-empty names, got {list(classes)}")
    clips = [_clip(row, classes) for row in rows]
    repeated = [name for name, count in Counter(clip["id"] for clip in clips).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} clip ids are repeated, such as {repeated[0]!r}")
    counts = Counter(clip["kind"] for clip in clips)
    page = html.render(
        "labels/audit.html",
        summary=summary,
        kinds=KINDS,
        counts={kind: counts[kind] for kind in KINDS if counts[kind]},
        sampled=sum(clip["sample"] for clip in clips),
        # Fine clips are hidden at first, unless there are no others.
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
    """Returns a clip in the form that the script of the page reads.

    Raises:
      ValueError: the row is invalid.
    """
    where = f"clip {row.get('clip_id')!r}"
    if missing := {"clip_id", "kind", "label", "suggested", *(s[0] for s in SCORES)} - set(row):
        raise ValueError(f"{where}: missing {', '.join(sorted(missing))}")
    if row["kind"] not in KINDS:
        raise ValueError(f"{where}: kind is {row['kind']!r}, must be one of {', '.join(KINDS)}")
    votes = row.get("votes") or {}
    for name in (row["label"], row["suggested"], *votes):
        if name not in classes:
            raise ValueError(
                f"{where}: unknown class {name!r}; the classes are {', '.join(classes)}"
            )
    return {
        "id": str(row["clip_id"]),
        "kind": row["kind"],
        "why": str(row.get("why") or ""),
        "sample": bool(row.get("sample")),
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
    """Returns the classes with votes, most votes first, with their votes as text."""
    counts = {name: float(count) for name, count in votes.items()}
    voted = sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])
    return [(name, f"{counts[name]:.3g}") for name in voted if math.isfinite(counts[name])] or None


def _strip(jpeg: bytes | None, where: str) -> str | None:
    """Returns a picture as a data URI."""
    if jpeg is None:
        return None
    if not jpeg.startswith(_JPEG):
        raise ValueError(f"{where}: strip is not a JPEG")
    return html.data_uri(jpeg)
