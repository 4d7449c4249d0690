"""Prediction of a user's own videos: faces found, followed and cut out, windows slid along, read.

Enters: a run's folder, and videos. Leaves: records, and their files. A video is read twice, once to find
the faces and once to cut them out, as a stream: memory does not grow with its length.

Letters: A analysed frames of the video, F frames of a window's buffer, N classes, S side of a crop.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from scipy import special

from rdfer_jax import config as config_lib
from rdfer_jax import models, sharding
from rdfer_jax.media import video
from rdfer_jax.media.video import Frames, Video, VideoError
from rdfer_jax.pipeline.sampling import frame_indices
from rdfer_jax.predict import faces, files
from rdfer_jax.predict.result import Face, VideoPrediction, Window, stretches
from rdfer_jax.steps import make_predict_step
from rdfer_jax.training import evaluate, run_dir
from rdfer_jax.training.writers import bar
from rdfer_jax.types import Batch, Prediction

log = logging.getLogger(__name__)

#: A face in view for fewer analysed frames than this is not predicted.
LEAST_FRAMES = 3


@dataclasses.dataclass(frozen=True)
class Scan:
    """What the first reading of a video found.

    Attributes:
      size: height and width of its frames.
      numbers, times: the analysed frames, as in VideoPrediction.
      tracks: the faces, largest first.
    """

    size: tuple[int, int]
    numbers: np.ndarray
    times: np.ndarray
    tracks: list[faces.Track]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A window that is to be predicted: of which face, and of which analysed frames, int [n]."""

    face: int
    places: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cut:
    """A planned window, cut out.

    Attributes:
      plan: what it is of.
      buffer: int [F], the analysed frames that the network reads.
      crops: uint8 [F, S, S, 3], the face in each.
    """

    plan: Plan
    buffer: np.ndarray
    crops: np.ndarray


class Predictor:
    """A trained network that reads videos."""

    def __init__(
        self,
        run: epath.PathLike,
        checkpoint: str = "last",
        settings: config_lib.Predict | None = None,
    ):
        """Restores the network.

        Args:
          run: folder of the training run.
          checkpoint: last, best, or a step.
          settings: how to read videos; those of the run, if None.

        Raises:
          FileNotFoundError: it is no run, or has no such checkpoint; or there is no such detector's file.
          ValueError: its files are damaged.
        """
        known = run_dir.read(run)
        self.config, self.classes = known.config, known.classes
        self.settings = settings or self.config.predict
        options = self.settings
        self._detect = faces.create(options.detector, options.min_face, options.yunet)
        mesh = sharding.make_mesh(jax.local_devices()[:1])
        platform = mesh.devices.flat[0].platform
        network = models.create(self.config, len(self.classes), platform)
        shapes = evaluate.abstract_state(
            self.config, network, len(self.classes), known.num_train, mesh
        )
        step, self._state = evaluate.restore(run, checkpoint, shapes)
        self.model = {"run": epath.Path(run).name, "checkpoint": checkpoint, "step": step}
        self._step = jax.jit(make_predict_step(self.config, network))

    def frames(self, images: np.ndarray, fps: float = video.FALLBACK_FPS) -> VideoPrediction:
        """Predicts a video in memory: uint8 [T, H, W, 3], RGB, at fps frames a second."""
        return self.video(Frames(images, fps))

    def file(self, path: epath.PathLike) -> VideoPrediction:
        """Predicts a video file or a folder of pictures.

        Raises:
          VideoError: there is not exactly one video, or it cannot be read.
        """
        found = video.find(path)
        if len(found) != 1:
            raise VideoError(f"{path}: holds {len(found)} videos; one is meant")
        return self.video(found[0])

    def video(self, source: Video) -> VideoPrediction:
        """Predicts one video.

        Raises:
          VideoError: it cannot be read.
        """
        scan = self._scan(source)
        chosen = scan.tracks[: 1 if self.settings.faces == "largest" else None]
        plans = [
            Plan(face, places)
            for face, track in enumerate(chosen)
            for places in windows(
                track.present, scan.times, self.settings.window, self.settings.stride
            )
        ]
        found: list[list[tuple[Plan, Window]]] = [[] for _ in chosen]
        thumbnails: list[dict[int, Any]] = [{} for _ in chosen]
        for batch in _batches(self._cut(source, scan, chosen, plans), self.settings.batch_size):
            prediction = self._predict([cut.crops for cut in batch])
            for row, cut in enumerate(batch):
                window, shown = _window(prediction, row, cut, scan)
                found[cut.plan.face].append((cut.plan, window))
                _keep_best(thumbnails[cut.plan.face], window, shown)
        read = [
            _face(track, rows, best, scan.times, len(self.classes))
            for track, rows, best in zip(chosen, found, thumbnails, strict=True)
            if rows
        ]
        return VideoPrediction(
            name=source.name,
            size=scan.size,
            classes=self.classes,
            model=self.model,
            numbers=scan.numbers,
            times=scan.times,
            faces=tuple(read),
            others=len(scan.tracks) - len(chosen),
            unread=len(chosen) - len(read),
        )

    def _scan(self, source: Video) -> Scan:
        """Finds and follows the faces."""
        numbers, times, boxes, size = [], [], [], (0, 0)
        find = faces.Finder(self._detect)
        for frame in bar(source.frames(self.settings.fps), f"{_short(source)}: faces", "frame"):
            numbers.append(frame.number)
            times.append(frame.time)
            boxes.append(find(frame.image, frame.time))
            size = frame.image.shape[:2]
        tracks = faces.track(boxes, times)
        return Scan(size, np.array(numbers, int), np.array(times, float), tracks)

    def _cut(
        self, source: Video, scan: Scan, tracks: Sequence[faces.Track], plans: Sequence[Plan]
    ) -> Iterator[Cut]:
        """Yields each planned window as soon as it is read."""
        if not plans:
            return
        margin = 0.0 if self.settings.detector == "none" else self.settings.margin
        size = self.config.data.image_size
        waiting = {
            face: [plan for plan in plans if plan.face == face] for face in range(len(tracks))
        }
        crops: dict[int, dict[int, np.ndarray]] = {face: {} for face in waiting}
        frames = bar(
            source.frames(self.settings.fps),
            f"{_short(source)}: expressions",
            "frame",
            len(scan.times),
        )
        for place, frame in zip(range(len(scan.times)), frames, strict=False):
            for face, queue in waiting.items():
                if queue and place >= queue[0].places[0] and tracks[face].present[place]:
                    box = tracks[face].boxes[place]
                    crops[face][place] = faces.crop(frame.image, box, margin, size)
                while queue and place >= queue[0].places[-1]:
                    plan = queue.pop(0)
                    buffer = plan.places[frame_indices(len(plan.places), self.config.data.frames)]
                    yield Cut(plan, buffer, np.stack([crops[face][p] for p in buffer.tolist()]))
                    first = queue[0].places[0] if queue else np.inf
                    crops[face] = {p: c for p, c in crops[face].items() if p >= first}

    def _predict(self, crops: Sequence[np.ndarray]) -> Prediction:
        """Predicts windows; a batch that is not full is filled up, so that one program fits all."""
        missing = self.settings.batch_size - len(crops)
        frames = np.stack([*crops, *[crops[0]] * missing])
        nothing = np.zeros(len(frames), np.int32)
        real = np.arange(len(frames)) < len(crops)
        arrays = jax.device_put((frames, nothing, nothing, real))
        return jax.device_get(self._step(self._state, Batch(*arrays)))


def windows(
    present_A: np.ndarray, times_A: np.ndarray, length: float, stride: float
) -> list[np.ndarray]:
    """Returns the analysed frames of each window, each an int array, in time order.

    Windows of `length` seconds begin every `stride` seconds in each stretch of frames with the face; the
    last one ends where the stretch does. A stretch that is shorter is one window, unless it has fewer
    than LEAST_FRAMES frames and the video has more.

    Args:
      present_A: bool [A], whether the face is there.
      times_A: float [A], seconds.
      length: seconds.
      stride: seconds.
    """
    least = min(LEAST_FRAMES, len(times_A))
    found = []
    for stretch in stretches(present_A):
        times = times_A[stretch]
        last = times[-1] - length
        starts = np.arange(times[0], last - 1e-6, stride)
        for start in [*starts.tolist(), max(last, times[0])]:
            inside = stretch[(times >= start - 1e-6) & (times <= start + length + 1e-6)]
            if len(inside) >= least:
                found.append(inside)
    return found


def _window(
    prediction: Prediction, row: int, cut: Cut, scan: Scan
) -> tuple[Window, list[tuple[float, np.ndarray]]]:
    """Returns the window's record, and its key frames to look at, as in Face.thumbnails."""
    instants = () if prediction.key_instants is None else prediction.key_instants[row].tolist()
    keys: dict[int, np.ndarray] = {}  # a short window repeats frames in its buffer
    for position in instants:
        keys.setdefault(int(cut.buffer[position]), cut.crops[position])
    window = Window(
        start=float(scan.times[cut.plan.places[0]]),
        end=float(scan.times[cut.plan.places[-1]]),
        probs=special.softmax(prediction.logits[row].astype(np.float64)),
        agreement=float(prediction.agreement[row]),
        key_numbers=tuple(int(scan.numbers[k]) for k in keys),
        key_times=tuple(float(scan.times[k]) for k in keys),
    )
    return window, list(zip(window.key_times, keys.values(), strict=True))


def _face(
    track: faces.Track,
    rows: list[tuple[Plan, Window]],
    best: dict[int, Any],
    times_A: np.ndarray,
    num_classes: int,
) -> Face:
    total_AN = np.zeros((len(times_A), num_classes))
    count_A1 = np.zeros((len(times_A), 1))
    for plan, window in rows:
        total_AN[plan.places] += window.probs
        count_A1[plan.places] += 1
    probs_AN = np.where(count_A1 > 0, total_AN / np.maximum(count_A1, 1), np.nan)
    face = Face(track.boxes, track.found, probs_AN, tuple(window for _, window in rows))
    return dataclasses.replace(face, thumbnails=tuple(best[face.expression][1]))


def _keep_best(best: dict[int, Any], window: Window, shown: list[tuple[float, np.ndarray]]) -> None:
    """Keeps the key frames of the window that shows each class best: so many, however long the video."""
    for index, probability in enumerate(window.probs.tolist()):
        if index not in best or probability > best[index][0]:
            best[index] = (probability, shown)


def _batches(cuts: Iterator[Cut], size: int) -> Iterator[list[Cut]]:
    batch: list[Cut] = []
    for cut in cuts:
        batch.append(cut)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _short(source: Video) -> str:
    return source.name.rsplit("/", 1)[-1]


def predict(
    run: epath.PathLike,
    inputs: epath.PathLike,
    output: epath.PathLike | None = None,
    checkpoint: str = "last",
    settings: config_lib.Predict | None = None,
) -> list[dict[str, Any]]:
    """Predicts videos, and writes for each a folder with prediction.json, frames.csv and timeline.png.

    A video that cannot be read, or that shows no face, is named and counted; the others are predicted.

    Args:
      run: folder of the training run.
      inputs: a video, a folder or a list; see video.find.
      output: folder for everything; predict/ in the run's folder, if None.
      checkpoint: last, best, or a step.
      settings: how to read videos; those of the run, if None.

    Returns:
      A row for each video, as in summary.csv.

    Raises:
      VideoError: there is no video, or none that could be read.
    """
    sources = video.find(inputs)
    output = epath.Path(output) if output else epath.Path(run) / "predict"
    predictor = Predictor(run, checkpoint, settings)
    rows: list[dict[str, Any]] = []
    done, failed = 0, 0
    folders = files.folders([source.name for source in sources])
    for source, folder in zip(sources, folders, strict=True):
        try:
            record = predictor.video(source)
        except VideoError as error:
            log.warning("not predicted: %s", error)
            rows.append({"video": source.name, "problem": str(error)})
            failed += 1
            continue
        files.write(record, output / folder)
        if predictor.settings.annotate and record.faces:
            files.annotate(source, record, output / folder / "annotated.mp4")
        rows.append(files.summary(record, folder))
        done += bool(record.faces)
        log.info("%s\n  %s", files.describe(record), output / folder / "timeline.png")
    files.write_summary(rows, output / "summary.csv")
    log.info(
        "%d videos: %d predicted, %d without a face, %d not readable; results in %s",
        len(rows), done, len(rows) - done - failed, failed, output,
    )  # fmt: skip
    if failed == len(rows):
        raise VideoError(f"{inputs}: none of the {failed} videos could be read")
    return rows
