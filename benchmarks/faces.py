"""How well and how fast the detectors find faces in a folder of videos.

    python -m benchmarks.faces --videos=folder [--detectors=blazeface,haar] [--fps=10] [--output=runs/faces]

Analyzes each video with each detector as prediction does; also darkened, lightened, turned and shrunk.
Prints a table, writes faces.json, and for each video a picture of frames with the boxes, to look at.
Whether a face is one, only you can tell: in a video without any, all are false alarms. Without --videos it
analyzes a synthetic film.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from absl import app, flags
from etils import epath

from benchmarks import harness
from data.synthetic_faces import film
from rdfer_jax import config as config_lib
from rdfer_jax.faces.boxes import Box
from rdfer_jax.faces.detect import Detector, create
from rdfer_jax.faces.tracks import Scan, scan
from rdfer_jax.media import sources
from rdfer_jax.media.files import MediaError
from rdfer_jax.media.sources import Video
from rdfer_jax.media.video import Frame

#: Colors of the detectors in the pictures, RGB, in the order in which they are given.
COLORS = ((230, 40, 40), (40, 90, 230), (30, 160, 60))
#: Frames in a picture, and width of each, pixels.
SHOWN, WIDTH = 12, 320
#: Factor of a video that is shrunk.
SHRUNK = 0.3


def _turned(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 30, 1.0)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _shrunk(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, None, fx=SHRUNK, fy=SHRUNK, interpolation=cv2.INTER_AREA)
    result = np.full_like(image, 120)
    top, left = ((a - b) // 2 for a, b in zip(image.shape[:2], small.shape[:2], strict=True))
    result[top : top + small.shape[0], left : left + small.shape[1]] = small
    return result


#: What is done to the frames: uint8 [H, W, 3] -> the same.
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda image: image,
    "dark, 1/5": lambda image: (image * 0.2).astype(np.uint8),
    "light, + 100": lambda image: cv2.add(image, np.full_like(image, 100)),
    "turned by 30 degrees": _turned,
    f"shrunk to {SHRUNK:g}": _shrunk,
}


@dataclasses.dataclass
class Timed:
    """A detector that counts the seconds of CPU time that it takes, in the calling thread."""

    detect: Detector
    seconds: float = 0.0

    def __call__(
        self, image: np.ndarray, near: Sequence[Box] = (), small: bool = True
    ) -> list[Any]:
        """See detect.Detector."""
        start = time.thread_time()
        found = self.detect(image, near, small)
        self.seconds += time.thread_time() - start
        return found


def measure(
    frames: Iterable[Frame], detector: str, min_face: float, small_every: float
) -> tuple[Scan, float]:
    """Returns the faces that a detector finds, and the milliseconds of CPU time for a frame."""
    detect = Timed(create(detector, min_face))
    found = scan(frames, detect, small_every=small_every)
    return found, 1000 * detect.seconds / max(len(found.times), 1)


def row(found: Scan, milliseconds: float) -> dict[str, Any]:
    """Returns the numbers of an analyzed video.

    frames that were analyzed; with_face, those in which a face was found and kept; bridged, those in
    between; faces, the number of tracks; milliseconds per frame.
    """
    places = [track.found for track in found.tracks]
    present = [track.present for track in found.tracks]
    with_face = int(np.any(places, axis=0).sum()) if places else 0
    bridged = int(np.any(present, axis=0).sum()) - with_face if places else 0
    return {
        "frames": len(found.times),
        "with_face": with_face,
        "bridged": bridged,
        "faces": len(found.tracks),
        "milliseconds": milliseconds,
    }


def run(
    videos: Sequence[Video],
    detectors: Sequence[str],
    fps: float,
    min_face: float,
    output: epath.Path,
    small_every: float = config_lib.Predict().small_every,
) -> list[dict[str, Any]]:
    """Analyzes videos, and writes a picture for each video and change.

    Args:
      videos: the videos.
      detectors: see detect.create.
      fps: highest number of frames analyzed per second.
      min_face: smallest face, as a share of the frame's short side.
      output: folder for the pictures, which exists.
      small_every: seconds between searches for small faces, see tracks.Finder.

    Returns:
      A row for each video, change and detector.

    Raises:
      MediaError: a video cannot be read.
    """
    rows = []
    for number, video in enumerate(videos):
        name = epath.Path(video.name).name
        for place, (change, function) in enumerate(CHANGES.items()):
            scans = []
            for detector in detectors:
                frames = _changed(video, fps, function)
                found, milliseconds = measure(frames, detector, min_face, small_every)
                scans.append(found)
                about = {"video": name, "change": change, "detector": detector}
                rows.append(about | row(found, milliseconds))
            picture = draw(_changed(video, fps, function), scans)
            path = output / f"{number:02d}-{place}-{epath.Path(name).stem}.png"
            path.write_bytes(
                cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
            )
    return rows


def _changed(
    video: Video, fps: float, function: Callable[[np.ndarray], np.ndarray]
) -> Iterator[Frame]:
    for frame in video.frames(fps):
        yield dataclasses.replace(frame, image=function(frame.image))


def draw(frames: Iterable[Frame], scans: Sequence[Scan]) -> np.ndarray:
    """Draws the boxes and key points of each scan into frames of a video, uint8 [h, w, 3]."""
    count = len(scans[0].times)
    chosen = set(np.linspace(0, count - 1, min(SHOWN, count)).astype(int).tolist())
    cells = []
    for place, frame in enumerate(frames):
        if place not in chosen:
            continue
        scale = WIDTH / frame.image.shape[1]
        cell = cv2.resize(frame.image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for found, color in zip(scans, COLORS, strict=False):
            for track in found.tracks:
                _draw_face(cell, track.boxes[place] * scale, track.points[place] * scale, color)
        cells.append(cell)
    columns = math.ceil(math.sqrt(len(cells)))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    lines = [np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    return np.vstack(lines)


def _draw_face(
    image: np.ndarray, box_4: np.ndarray, points_P2: np.ndarray, color: tuple[int, int, int]
) -> None:
    if np.isnan(box_4).any():
        return
    left, top, width, height = box_4.round().astype(int).tolist()
    cv2.rectangle(image, (left, top), (left + width, top + height), color, 2)
    for x, y in points_P2.round().astype(int).tolist():
        cv2.circle(image, (x, y), 2, (60, 230, 60), -1)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a table in Markdown."""
    header = [
        "video",
        "change",
        "detector",
        "frames",
        "with a face",
        "bridged",
        "faces",
        "CPU ms a frame",
    ]
    return harness.table(
        [
            header,
            *(
                [
                    *(r["video"], r["change"], r["detector"], str(r["frames"])),
                    f"{r['with_face']} ({r['with_face'] / max(r['frames'], 1):.0%})",
                    *(str(r["bridged"]), str(r["faces"]), f"{r['milliseconds']:.1f}"),
                ]
                for r in rows
            ),
        ]
    )


def main(_: Sequence[str]) -> None:
    """Runs the benchmark, prints the table, writes faces.json and the pictures."""
    options = flags.FLAGS
    output = epath.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    try:
        if not options.videos:
            film.write(output / "synthetic.mp4", [0, 1, 4], seconds=3, pause=1)
        videos = sources.find(options.videos or output / "synthetic.mp4")
        rows = run(
            videos,
            options.detectors,
            options.fps,
            options.min_face,
            output,
            options.small_every,
        )
    except (MediaError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    about = {"hardware": harness.hardware(), "commit": harness.commit()}
    print(f"{about['hardware']}, commit {about['commit']}; one thread\n\n{table(rows)}")
    (output / "faces.json").write_text(harness.to_json(about | {"rows": rows}))
    print(f"report and pictures in {output}")


if __name__ == "__main__":
    flags.DEFINE_string("videos", None, "Folder of videos, or one; by default a synthetic film.")
    flags.DEFINE_list("detectors", "blazeface,haar", "Detectors to compare.")
    flags.DEFINE_float("fps", 10.0, "Highest number of frames analyzed per second.")
    flags.DEFINE_float("min_face", 0.1, "Smallest face, as a share of the frame's short side.")
    flags.DEFINE_float(
        "small_every",
        config_lib.Predict().small_every,
        "Seconds between searches for small faces while a face is in view.",
    )
    flags.DEFINE_string("output", "runs/faces", "Folder for the report and the pictures.")
    app.run(main)
