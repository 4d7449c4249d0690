"""The tables of a report: rows of plain values.

Enters: the confusion matrix, predictions as plain arrays. Leaves: rows for the template.

Shape letters: N clips, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from rdfer_jax.html import percent
from rdfer_jax.report import intervals, svg

#: How many confusions of classes, and how many single mistakes, are named.
CONFUSIONS, MISTAKES = 3, 10


def classes(names: Sequence[str], confusion_CC: np.ndarray) -> list[dict[str, Any]]:
    """A row for each class: name, clips, recall with interval and bar, cells of the matrix."""
    rows = []
    for index, (name, counts_C) in enumerate(zip(names, confusion_CC.tolist(), strict=True)):
        total = sum(counts_C)
        recall = intervals.wilson(counts_C[index], total)
        hint = f"{name}: {percent(recall.mean)} of {total} clips are found"
        rows.append(
            {
                "name": name,
                "total": total,
                "recall": recall,
                "bar": svg.meter(*recall, hint) if total else None,
                "cells": [
                    {"count": count, "share": count / max(total, 1), "right": other == index}
                    for other, count in enumerate(counts_C)
                ],
            }
        )
    return rows


def confusions(names: Sequence[str], confusion_CC: np.ndarray) -> list[dict[str, Any]]:
    """The most frequent confusions: which class is taken for which, how often."""
    wrong_CC = confusion_CC * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong_CC, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(cell), len(names)) for cell in order]
    return [
        {
            "true": names[true],
            "taken": names[taken],
            "count": int(wrong_CC[true, taken]),
            "share": float(wrong_CC[true, taken] / confusion_CC[true].sum()),
        }
        for true, taken in pairs
        if wrong_CC[true, taken]
    ]


def mistakes(names: Sequence[str], arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The wrong predictions that the model is surest of."""
    probs_NC, label_N = probabilities(arrays["logits"]), arrays["label"]
    best_N, sure_N = probs_NC.argmax(axis=1), probs_NC.max(axis=1)
    wrong = np.flatnonzero(best_N != label_N)
    return [
        {
            "clip": str(arrays["clip_id"][i]),
            "label": names[label_N[i]],
            "predicted": names[best_N[i]],
            "probability": float(sure_N[i]),
            "agreement": float(arrays["agreement"][i]),
        }
        for i in wrong[np.argsort(-sure_N[wrong], kind="stable")][:MISTAKES].tolist()
    ]


def probabilities(logits_NC: np.ndarray) -> np.ndarray:
    """Probabilities of the classes, float64 [N, C]."""
    return special.softmax(logits_NC.astype(np.float64), axis=1)
