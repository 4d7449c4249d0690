"""Reads the saved predictions of a training run for an analysis.

Enters: the folder of a run. Leaves: `Training`, the scores of the training videos after each epoch, and
`Test`, the predictions of the test split. The files are those of rdfer_jax.training.predictions.

Shape letters: B videos, N classes, E epochs.
"""

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
from etils import epath
from numpy.typing import ArrayLike, NDArray

from experiments import noise_scores
from experiments.noise_scores import Evidence
from rdfer_jax.training.predictions import Predictions, read_predictions

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Arrays of the saved predictions that an analysis uses.
NEEDED = ("clip_id", "logits", "clip_logits")
_EPOCH_FILE = re.compile(r"train_(\d+)\.npz")


class SavedError(Exception):
    """The saved predictions of a run cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Training:
    """The scores of the B videos of the training split after E epochs.

    Attributes:
      classes: names of the N classes.
      epochs: their numbers; (None,) for the final epoch of unknown number.
      label: int [B], the given labels.
      scores: float64 [E, B] by name, as `noise_scores.over_epochs` returns them.
      is_flipped: bool [B], whether the given label is wrong; None if unknown.
      is_hard: bool [B], whether the video is hard; None if unknown.
    """

    classes: tuple[str, ...]
    epochs: tuple[int | None, ...]
    label: NDArray[np.integer]
    scores: dict[str, Vector]
    is_flipped: Mask | None
    is_hard: Mask | None

    @property
    def agreement(self) -> Vector:
        """Soft agreement, float64 [E, B] in [0, 1]."""
        return 1 - self.scores["1 - soft agreement"]

    @property
    def kinds(self) -> dict[str, Mask] | None:
        """The kinds of videos, as `kinds` returns them; None if unknown."""
        if self.is_flipped is None or self.is_hard is None:
            return None
        return kinds(self.is_flipped, self.is_hard)


@dataclasses.dataclass(frozen=True)
class Test:
    """The predictions of the test split, and the names of its classes."""

    classes: tuple[str, ...]
    evidence: Evidence

    @property
    def correct(self) -> Mask:
        """Whether the video's prediction is its given label, bool [B]."""
        return self.evidence.logp.argmax(axis=1) == self.evidence.label


def kinds(is_flipped_B: ArrayLike, is_hard_B: ArrayLike) -> dict[str, Mask]:
    """Returns the kinds of videos as masks bool [B] by name; each video is of exactly one kind."""
    is_flipped_B, is_hard_B = np.asarray(is_flipped_B, bool), np.asarray(is_hard_B, bool)
    return {
        "clean, easy": ~is_flipped_B & ~is_hard_B,
        "clean, hard": ~is_flipped_B & is_hard_B,
        "flipped": is_flipped_B,
    }


def read(path: epath.Path) -> Predictions:
    """Reads what `Predictions.save` wrote.

    Raises:
      SavedError: it is no such file.
    """
    try:
        return read_predictions(path, NEEDED)
    except (OSError, ValueError) as error:
        raise SavedError(str(error)) from error


def read_test(run: epath.Path) -> Test | None:
    """Reads predictions.npz of a run; None if there is none.

    Raises:
      SavedError: it is no such file, or holds nothing.
    """
    path = run / "predictions.npz"
    if not path.exists():
        return None
    predictions = read(path)
    return Test(predictions.classes, _evidence(predictions, path))


def read_training(run: epath.Path) -> Training | None:
    """Reads the epochs of a run, or else predictions_train.npz; None if there is neither.

    Raises:
      SavedError: a file cannot be read, or the epochs are not of the same videos and labels.
    """
    paths = epoch_paths(run)
    if not paths:
        return None
    first = read(next(iter(paths.values())))

    def evidences() -> Iterator[Evidence]:
        for path in paths.values():
            predictions = read(path)
            for name in ("clip_id", "label"):
                if not np.array_equal(predictions[name], first[name]):
                    raise SavedError(
                        f"{path} holds other videos or labels than the first epoch: "
                        f"'{name}' differs"
                    )
            yield _evidence(predictions, path)

    return Training(
        classes=first.classes,
        epochs=tuple(paths),
        label=first["label"],
        scores=noise_scores.over_epochs(evidences()),
        is_flipped=_truth(first, "is_flipped"),
        is_hard=_truth(first, "is_hard"),
    )


def epoch_paths(run: epath.Path) -> dict[int | None, epath.Path]:
    """The files with the predictions of the training split, by their epoch, in its order.

    The epoch of predictions_train.npz, which counts if there is no other, is None.
    """
    folder, final = run / "epochs", run / "predictions_train.npz"
    files = folder.iterdir() if folder.exists() else ()
    matches = ((_EPOCH_FILE.fullmatch(path.name), path) for path in files)
    found = {int(match[1]): path for match, path in matches if match}
    if found:
        return {epoch: found[epoch] for epoch in sorted(found)}
    return {None: final} if final.exists() else {}


def _evidence(predictions: Predictions, path: epath.Path) -> Evidence:
    try:
        return Evidence.of(predictions["logits"], predictions["clip_logits"], predictions["label"])
    except ValueError as error:
        raise SavedError(f"{path}: {error}") from error


def _truth(predictions: Predictions, name: str) -> Mask | None:
    return predictions[name].astype(bool) if name in predictions else None
