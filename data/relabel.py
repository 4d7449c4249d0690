"""Corrected labels that a build uses in place of the distributed ones.

Takes class names by clip and returns class indices, after checking clips and classes.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rdfer_jax import hints


def content(labels: Mapping[str, str]) -> dict[str, Any]:
    """Returns the metadata that identifies these labels; empty if there are none."""
    if not labels:
        return {}
    digest = hashlib.sha256(json.dumps(sorted(labels.items())).encode()).hexdigest()
    return {"labels": {"clips": len(labels), "sha256": digest}}


def indices(
    labels: Mapping[str, str], clips: Collection[str], classes: Sequence[str]
) -> dict[str, int]:
    """Returns the index of each clip's class.

    Args:
      labels: name of the class by clip_id.
      clips: every clip_id of the data set.
      classes: names of the N classes, by index.

    Raises:
      ValueError: a clip or a class is unknown.
    """
    unknown = sorted(labels.keys() - set(clips))
    if unknown:
        raise ValueError(
            f"config.build.labels: {len(unknown)} of {len(labels)} clips are not in the data set, such "
            f"as {unknown[0][:200]!r}. {hints.suggest(unknown[0], sorted(clips))}"
        )
    for clip, label in labels.items():
        if label not in classes:
            raise ValueError(
                f"config.build.labels: clip {clip!r}: unknown class {label[:200]!r}. "
                + hints.suggest(label, classes)
            )
    return {clip: list(classes).index(label) for clip, label in labels.items()}
