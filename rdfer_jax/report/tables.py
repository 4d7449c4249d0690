"""The tables of a report.

Enters: the confusion matrix, predictions as plain arrays. Leaves: rows of plain values for the template.

Shape letters: N clips, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from rdfer_jax import intervals

#: Number of rows: most frequent confusions, most certain mistakes.
CONFUSIONS, MISTAKES = 3, 10


def classes(names: Sequence[str], confusion_CC: np.ndarray) -> list[dict[str, Any]]:
    """Returns a row for each class: name, number of clips, recall, row of the confusion matrix."""
    rows = []
    for index, (name, counts_C) in enumerate(zip(names, confusion_CC.tolist(), strict=True)):
        total = sum(counts_C)
        rows.append(
            {
                "name": name,
                "total": total,
                "recall": intervals.wilson(counts_C[index], total),
                "cells": [
                    {"count": count, "share": count / max(total, 1), "right": other == index}
                    for other, count in enumerate(counts_C)
                ],
            }
        )
    return rows


def confusions(names: Sequence[str], confusion_CC: np.ndarray) -> list[dict[str, Any]]:
    """Returns the most frequent confusions: true class, predicted class, count, share of the class."""
    wrong_CC = confusion_CC * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong_CC, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(cell), len(names)) for cell in order]
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "count": int(wrong_CC[true, predicted]),
            "share": float(wrong_CC[true, predicted] / confusion_CC[true].sum()),
        }
        for true, predicted in pairs
        if wrong_CC[true, predicted]
    ]


def mistakes(names: Sequence[str], arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns the wrong predictions with the highest probability."""
    probs_NC, label_N = probabilities(arrays["logits"]), arrays["label"]
    best_N, highest_N = probs_NC.argmax(axis=1), probs_NC.max(axis=1)
    wrong = np.flatnonzero(best_N != label_N)
    return [
        {
            "clip": str(arrays["clip_id"][i]),
            "label": names[label_N[i]],
            "predicted": names[best_N[i]],
            "probability": float(highest_N[i]),
            "agreement": float(arrays["agreement"][i]),
        }
        for i in wrong[np.argsort(-highest_N[wrong], kind="stable")][:MISTAKES].tolist()
    ]


def probabilities(logits_NC: np.ndarray) -> np.ndarray:
    """Returns the probabilities of the classes, float64 [N, C]."""
    return special.softmax(logits_NC.astype(np.float64), axis=1)
