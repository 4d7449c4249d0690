"""Renders a film to try prediction on: faces in a larger picture, one after the other, with pauses.

    python -m data.synthetic_faces.film --output=film.mp4 [--clips=7,4,2] [--seconds=6] [--pause=1]

Writes the film, and film.json with its expressions and times next to it. Deterministic.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from absl import app, flags
from etils import epath

from rdfer_jax import paths
from rdfer_jax.media.video import VideoWriter

from . import clips, labels
from .parameters import Parameters

#: Height and width of the picture, and side of the square with the face, in pixels.
SIZE = (360, 480)
FACE = 200
FPS = 25


def scenes(
    numbers: Sequence[int], seconds: float, pause: float
) -> Iterator[tuple[np.ndarray, dict[str, Any] | None]]:
    """Yields the frames, uint8 [360, 480, 3], RGB, each with its content or None.

    Args:
      numbers: clips of the split `test`; all are easy and correctly labeled.
      seconds: length of a clip.
      pause: length of the pauses between clips, without a face, in seconds.
    """
    length = max(8, round(seconds * FPS))
    parameters = Parameters(image_size=FACE, num_frames=length, hard_share=0.0)
    for place, number in enumerate(numbers):
        clip = clips.render_clip(parameters, "test", number)
        rng = np.random.default_rng(number)
        wall = _wall(rng)
        if place:
            yield from ((wall.copy(), None) for _ in range(round(pause * FPS)))
        top = int(rng.integers(20, SIZE[0] - FACE - 20))
        drift = rng.uniform(-30, 30)
        for i, face in enumerate(clip.frames):
            picture = wall.copy()
            left = round((SIZE[1] - FACE) / 2 + drift * i / length)
            picture[top : top + FACE, left : left + FACE] = face
            key = clip.timeline
            yield (
                picture,
                {
                    "clip": number,
                    "expression": labels.CLASSES[clip.labels.label],
                    "is_key": bool(key.key_start <= i < key.key_end),
                },
            )


def _wall(rng: np.random.Generator) -> np.ndarray:
    """Samples a smooth, colored background."""
    coarse = rng.integers(70, 190, (4, 5, 3), np.uint8)
    return cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def write(path: epath.Path, numbers: Sequence[int], seconds: float, pause: float) -> None:
    """Writes the film, and its content into a .json file next to it.

    Raises:
      OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    shown: list[dict[str, Any]] = []
    with VideoWriter(path, FPS, SIZE) as writer:
        for number, (picture, what) in enumerate(scenes(numbers, seconds, pause)):
            writer.write(picture)
            if what is None:
                continue
            if not shown or shown[-1]["clip"] != what["clip"]:
                shown.append(
                    {"clip": what["clip"], "expression": what["expression"], "start": number / FPS}
                )
            shown[-1]["end"] = number / FPS
            if what["is_key"]:
                shown[-1].setdefault("key_start", number / FPS)
                shown[-1]["key_end"] = number / FPS
    path.with_suffix(".json").write_text(json.dumps(shown, indent=1) + "\n")


def main(_: Sequence[str]) -> None:
    """Writes the film."""
    options = flags.FLAGS
    try:
        numbers = [int(number) for number in options.clips]
        write(epath.Path(options.output), numbers, options.seconds, options.pause)
    except (ValueError, OSError, IndexError) as error:
        sys.exit(f"error: {error}")
    print(f"film in {options.output}")


if __name__ == "__main__":
    paths.DEFINE_path("output", "film.mp4", "The .mp4 file to write.")
    flags.DEFINE_list("clips", "7,4,2", "Clips of the test split to show.")
    flags.DEFINE_float("seconds", 6.0, "Length of a clip.", lower_bound=0.4, upper_bound=40)
    flags.DEFINE_float("pause", 1.0, "Length of a pause.", lower_bound=0)
    app.run(main)
