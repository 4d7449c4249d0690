"""Saved predictions: the .npz file that an evaluation writes and every later analysis reads.

The file may have been cut, or come from somebody else. The reader checks all that its callers rely on, and
nothing in the file is unpickled.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from rdfer_jax import atomic

#: File names in the folder of a run: predictions of the test split, and of the training split.
TEST_FILE, TRAIN_FILE = "predictions.npz", "predictions_train.npz"
#: The split that the predictions of a cross-validation name.
OUT_OF_FOLD = "out of fold"

#: Number of dimensions of the arrays whose last axis is the classes.
_PER_CLASS = {"logits": 2, "clip_logits": 3, "votes": 2}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions for the n clips of a split, in the order of the split.

    Attributes:
      split: name of the split.
      classes: names of the N classes.
      arrays: by name, with the clips on the first axis: clip_id, label, votes, num_frames; the outputs of
        the network, named in evaluate.OUTPUTS and described in types.Prediction; key_frames int [n, M],
        the frames of the video around which it was re-sampled; and the truth where it is known.
    """

    split: str
    classes: tuple[str, ...]
    arrays: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def save(self, path: epath.Path) -> None:
        """Writes the arrays, the split and the classes as .npz, without pickles.

        The file is replaced in one step: a process that is killed while writing leaves the old file, or
        none.
        """
        arrays: dict[str, Any] = {"split": self.split, "classes": np.array(self.classes)}
        with atomic.replacement(path) as part, part.open("wb") as file:
            np.savez(file, **(arrays | self.arrays))


def read_predictions(path: epath.Path, needed: Sequence[str], advice: str = "") -> Predictions:
    """Reads what Predictions.save wrote.

    Args:
      path: the .npz file.
      needed: arrays that the caller uses, besides the label; they must be there and finite.
      advice: what the user can do about a missing or damaged file, appended to the errors.

    Returns:
      Predictions in which every array has n >= 1 rows of numbers or text; label is int [n] in [0, N), and
      logits, clip_logits and votes have N classes on their last axis.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged or holds something else; the message names the file and the array.
    """
    advice = advice and f". {advice}"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file{advice}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if any(member.compress_type for member in archive.zip.infolist()):
                raise ValueError("it is compressed, which predictions never are")
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib, NumPy and memory errors: any damage is possible
        raise ValueError(f"{path}: cannot be read ({error}){advice}") from None
    required = ("split", "classes", "label", *needed)
    for name in required:
        if name not in arrays:
            raise ValueError(f"{path}: the array {name!r} is missing{advice}")
    for name in dict.fromkeys((*required, *arrays)):
        if problem := _problem(name, arrays, name in required):
            raise ValueError(f"{path}: {problem}{advice}")
    split, classes = str(arrays.pop("split")), tuple(arrays.pop("classes").tolist())
    return Predictions(split, classes, arrays)


def _problem(name: str, arrays: Mapping[str, np.ndarray], is_needed: bool) -> str:
    """Returns what is wrong with an array, or ""; check split, classes and label before the others."""
    array = arrays[name]
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufU" or not array.itemsize:
        return f"{name} is not an array of numbers or text"
    actual = f"{name} is {array.dtype} {array.shape}"
    if name in ("split", "classes"):
        is_text = array.dtype.kind == "U" and array.ndim == (name == "classes")
        return "" if is_text else f"{actual}, not text"
    num_clips, num_classes = len(np.atleast_1d(arrays["label"])), len(arrays["classes"])
    if not num_clips:
        return "it holds no clips"
    if not array.ndim or len(array) != num_clips or (is_needed and not array.size):
        return f"{actual}, but there are {num_clips} clips"
    if name == "label":
        if array.ndim != 1 or array.dtype.kind not in "iu":
            return f"{actual}, not an integer per clip"
        if not 0 <= array.min() <= array.max() < num_classes:
            return f"label ranges from {array.min()} to {array.max()}, but there are {num_classes} classes"
    if name in _PER_CLASS and (array.ndim != _PER_CLASS[name] or array.shape[-1] != num_classes):
        return f"{actual}, but there are {num_classes} classes"
    if is_needed and array.dtype.kind == "f" and not np.isfinite(array).all():
        return f"{name} has values that are not finite"
    return ""
