"""Synthetic predictions in which the clean, mislabeled and hard videos are known."""

import numpy as np
from etils import epath

from rdfer_jax.training.predictions import Predictions

CLASSES = ("happy", "sad", "angry")


def planted(rng, count=60, clips=4, sharp=4.0):
    """Predictions in which the right answer is known, as the arrays of predictions.npz.

    The clips of a clean video agree on the label; those of a mislabeled one agree on another class. Of a
    hard video, one clip supports the label and the others vote for as many different classes as there are.
    """
    kind = np.arange(count) % 3
    true = rng.integers(3, size=count)
    label = np.where(kind == 2, (true + 1) % 3, true)
    voted = np.repeat(true[:, None], clips, axis=1)
    voted[kind == 1] = (true[kind == 1, None] + np.arange(clips)) % 3
    clip_logits = sharp * np.eye(3)[voted] + rng.normal(size=(count, clips, 3)) * 0.1
    return {
        "clip_id": np.array([f"clip {index}" for index in range(count)]),
        "label": label.astype(np.int32),
        "logits": clip_logits.mean(axis=1).astype(np.float32),
        "clip_logits": clip_logits.astype(np.float32),
        "true_label": true,
        "is_flipped": kind == 2,
        "is_hard": kind == 1,
    }


def save(path, arrays, split="train", classes=CLASSES):
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Predictions(split, tuple(classes), arrays).save(path)
