"""A data set and a configuration as small as they can be.

The clips of the data set are plain colors that say what they are: red is the number of the clip and
green the number of the frame, in steps that survive JPEG.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from data import schema
from rdfer_jax import config as config_lib

CLASSES = ("happy", "sad", "fear")
#: Frames of each clip, by split. Fewer, as many and more than the buffer of `data` holds.
SPLITS: dict[str, Sequence[int]] = {
    "train": (3, 6, 9, 1, 7, 12, 6, 2, 8, 5, 6),
    "test": (4, 6, 11, 1, 6),
}
#: How the faces were cut, as the data set says.
FACES = {"by": "distributor"}
_STEP = 12


def picture(red: int, green: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """Returns a frame of one color, as JPEG; size is height and width."""
    bgr = np.full((*size, 3), (0, green, red), np.uint8)
    done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert done
    return jpeg.tobytes()


def numbers(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads frames [..., H, W, 3] back: the numbers of the clip and of the frame, int [...]."""
    color = frames.astype(np.float64).mean(axis=(-3, -2))
    found = np.rint(color[..., :2] / _STEP).astype(int)
    return found[..., 0], found[..., 1]


def record(split: str, number: int, num_frames: int) -> dict[str, Any]:
    """Returns the record of a clip."""
    label = number % len(CLASSES)
    true_label = (label + (number % 4 == 1)) % len(CLASSES)
    return {
        "clip_id": f"{split}-{number}",
        "frames": [picture(_STEP * number, _STEP * frame) for frame in range(num_frames)],
        "label": label,
        "votes": np.eye(len(CLASSES), dtype=np.float32)[label] * 10,
        "true_label": true_label,
        "is_flipped": label != true_label,
        "is_hard": number % 3 == 0,
        "key_start": 0,
        "key_end": num_frames,
    }


def records() -> dict[str, list[dict[str, Any]]]:
    """Returns the records of all splits."""
    return {
        split: [record(split, number, num) for number, num in enumerate(lengths)]
        for split, lengths in SPLITS.items()
    }


class TinyFaces(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes given records."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name="default")]
    pkg_dir_path: ClassVar = epath.Path(__file__).parent  # where TFDS looks for a README

    def __init__(self, given: Mapping[str, Sequence[Mapping[str, Any]]], **kwargs: Any):
        self._given = given
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        first = next(iter(self._given.values()))[0]
        return self.dataset_info_from_configs(
            features=schema.features(
                CLASSES, with_truth="true_label" in first, with_groups="group" in first
            ),
            metadata=tfds.core.MetadataDict(faces=FACES),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._examples(split) for split in self._given}

    def _generate_examples(self) -> Any:
        raise NotImplementedError

    def _examples(self, split: str) -> Any:
        for one in self._given[split]:
            yield one["clip_id"], dict(one)


def build(root: pathlib.Path, given: Mapping[str, Sequence[Mapping[str, Any]]] | None = None):
    """Builds the data set tiny_faces below root, from the given records or from `records`."""
    builder = TinyFaces(given or records(), data_dir=str(root), file_format="array_record")
    builder.download_and_prepare()
    return builder


def data(root: pathlib.Path, **changes: Any) -> config_lib.Data:
    """Returns the settings that read it."""
    settings = config_lib.Data(
        dir=str(root),
        name="tiny_faces",
        frames=6,
        image_size=16,
        batch_size=4,
        eval_batch_size=4,
        num_threads=2,
    )
    return dataclasses.replace(settings, **changes)


def config(**sections: Mapping[str, Any]) -> config_lib.Config:
    """Returns a tiny Config; changes are given as section={field: value}."""
    settings = config_lib.default()
    settings.update(
        {
            "data": {"name": "tiny_faces", "frames": 6, "image_size": 16, "batch_size": 8},
            "augment": {"size": 16, "crop_area": (0.7, 1.0)},
            "clips": {"number": 3, "frames": 4},
            "key": {"number": 2, "frames": 2},
            "model": {
                "trunk": "resnet8_narrow",
                "width": 16,
                "short_layers": 1,
                "long_layers": 1,
                "long_heads": 2,
                "instants": 4,
                "dropout": 0.0,
            },
        }
    )
    for section, changes in sections.items():
        for field, value in changes.items():
            settings[section][field] = value
    return config_lib.resolve(settings)
