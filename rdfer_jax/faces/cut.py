"""Cutting a face out of a frame, by one transform; and how a data set remembers it.

A data set stores in its metadata, and a run in data.json, under `faces`:

| by           | meaning                                                                              |
|--------------|--------------------------------------------------------------------------------------|
| build        | the build cut the faces; the fields of Cut follow, and size, pixels                  |
| distributor  | the clips came cropped to the face                                                   |
| nobody       | the clips are stored as they were given, and may show more than a face               |

Without it, nothing is known.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import cv2
import numpy as np

from rdfer_jax.faces.detect import Detector, create
from rdfer_jax.faces.halving import halved, steps
from rdfer_jax.faces.tracks import Track

#: Who cropped the faces of a data set; see above.
BUILD, DISTRIBUTOR, NOBODY = "build", "distributor", "nobody"


class Patch(NamedTuple):
    """A part of a frame.

    Attributes:
      pixels: uint8 [h, w, 3].
      left, top: where it begins in the frame, pixels.
      frame: width and height of the frame.
    """

    pixels: np.ndarray
    left: int
    top: int
    frame: tuple[int, int]

    def covers(self, region: "Region") -> bool:
        """Returns whether a region of the frame lies in it."""
        height, width = self.pixels.shape[:2]
        return (
            self.left <= region.left and region.right <= self.left + width
            and self.top <= region.top and region.bottom <= self.top + height
        )  # fmt: skip


class Region(NamedTuple):
    """A part of a frame, by its first and its last pixel plus one."""

    left: int
    top: int
    right: int
    bottom: int


@dataclasses.dataclass(frozen=True)
class Cut:
    """How faces are found and cut out; the same for the training data and for prediction.

    Attributes:
      detector: see detect.create.
      min_face: smallest face that is detected, as a fraction of the frame's short side.
      margin: added on every side, as a fraction of the face's box.
      align: whether to turn the face so that its eyes are level, if the detector finds eyes.
      yunet: the ONNX file of YuNet.
    """

    detector: str = "blazeface"
    min_face: float = 0.1
    margin: float = 0.1
    align: bool = True
    yunet: str = ""

    def create_detector(self) -> Detector:
        """Returns the detector; errors as of detect.create."""
        return create(self.detector, self.min_face, self.yunet)

    def crop(self, image: np.ndarray, track: Track, place: int, size: int) -> np.ndarray:
        """Cuts a face out of its frame.

        Args:
          image: the frame, uint8 [H, W, 3].
          track: the face, which is present there.
          place: index of the frame among the analyzed ones.
          size: height and width of the result, pixels.

        Returns:
          uint8 [size, size, 3].
        """
        return self.crop_at(image, track.boxes[place], track.points[place], size)

    def region(self, box: Sequence[float], frame: tuple[int, int], times: float = 1.0) -> Region:
        """Returns the part of a frame that the crop at a box can touch, or one `times` as wide.

        Args:
          box: left, top, width, height in pixels; it overlaps the frame.
          frame: width and height of the frame, pixels.
          times: see above.
        """
        return _region(*_square(box, self._margin), frame, times)

    @property
    def _margin(self) -> float:
        return 0.0 if self.detector == "none" else self.margin

    def crop_at(
        self, image: np.ndarray | Patch, box: Sequence[float], points: np.ndarray, size: int
    ) -> np.ndarray:
        """Cuts out the face at a box, with the key points float [P, 2]; see crop.

        A patch must cover the region of the box; the result is that of the whole frame.
        """
        eyes = points[:2] if self.align and len(points) else None
        return crop(image, box, self._margin, size, eyes)

    def __str__(self) -> str:
        aligned = "aligned by the eyes" if self.align else "upright"
        return f"{self.detector}, margin {self.margin:g}, {aligned}"

    def to_json(self, size: int) -> dict[str, Any]:
        """Returns what to remember of faces that the build cut to `size` pixels; see the module."""
        return {"by": BUILD} | dataclasses.asdict(self) | {"size": size}

    @classmethod
    def from_json(cls, remembered: Mapping[str, Any]) -> Self | None:
        """Returns how the build cut the faces; None if it did not."""
        if remembered.get("by") != BUILD:
            return None
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in remembered.items() if name in names})


def _square(box: Sequence[float], margin: float) -> tuple[np.ndarray, float]:
    """Returns center and side of the square around a box, float [2] and float."""
    left, top, width, height = box
    side = max(max(width, height) * (1 + 2 * margin), 1.0)
    return np.array([left + width / 2, top + height / 2]), side


def _region(center: np.ndarray, side: float, frame: tuple[int, int], times: float = 1.0) -> Region:
    """Returns the part of the frame that a turned square can touch; see Cut.region."""
    reach = times * (side / math.sqrt(2) + 2)
    x, y = np.clip(np.floor(center - reach), 0, np.array(frame) - 1).astype(int).tolist()
    x_end, y_end = np.minimum(np.ceil(center + reach), frame).astype(int).tolist()
    return Region(x, y, max(x_end, x + 1), max(y_end, y + 1))


def crop(
    image: np.ndarray | Patch,
    box: Sequence[float],
    margin: float,
    size: int,
    eyes: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the square around a face; outside of the frame, its border is repeated.

    The square is turned about the middle of the box so that the eyes become level.

    Args:
      image: uint8 [H, W, 3]; or a part of it that covers what the square can touch.
      box: left, top, width, height in pixels.
      margin: added on every side, as a share of the box's longer side.
      size: height and width of the crop, pixels.
      eyes: float [2, 2], their places as (x, y), first the one that is left when the face is upright; None
        to leave the face as it is.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: the square lies outside of the frame.
    """
    patch = image if isinstance(image, Patch) else Patch(image, 0, 0, image.shape[1::-1])
    center, side = _square(box, margin)
    frame = np.array(patch.frame)
    if (center + side / 2 <= 0).any() or (center - side / 2 >= frame).any():
        raise ValueError(f"the box {tuple(box)} lies outside of the frame {patch.frame[::-1]}")
    # Only a part of the frame: OpenCV refuses to warp very wide images.
    x, y, x_end, y_end = _region(center, side, patch.frame)
    part = patch.pixels[y - patch.top : y_end - patch.top, x - patch.left : x_end - patch.left]
    # A face of four times the size or more is halved until it is of two to four times.
    step = steps(side / size / 2)
    # Sampled at a multiple of the size and averaged, so that a large face keeps no jagged edges.
    times = math.ceil(side / step / size)
    scale = side / step / (size * times)
    turned = scale * _rotation(eyes)
    middle = np.full(2, (size * times - 1) / 2)
    shift = (center - 0.5 - (x, y) - (step - 1) / 2) / step - turned @ middle
    sampled = cv2.warpAffine(
        halved(part, step, cv2.BORDER_REPLICATE),
        np.column_stack([turned, shift]),
        (size * times, size * times),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.resize(sampled, (size, size), interpolation=cv2.INTER_AREA) if times > 1 else sampled


def _rotation(eyes: np.ndarray | None) -> np.ndarray:
    """Returns the rotation that takes the level direction to the line of the eyes, float [2, 2]."""
    across, down = (1.0, 0.0) if eyes is None else eyes[1] - eyes[0]
    length = math.hypot(across, down)
    cos, sin = (across / length, down / length) if length else (1.0, 0.0)
    return np.array([[cos, -sin], [sin, cos]])
