"""Prediction of a user's own videos: find and follow the faces, crop them, run the network on windows.

Enters: the folder of a run, and videos. Leaves: VideoPredictions, and their files. Each video is read once,
as a stream: its faces are found and cut out, and the crops wait in a temporary file, so memory does not
grow with its length. Only if a crop turns out to be missing is the video read again; see faces.kept.

Letters: A analyzed frames of the video, F frames of the network's input, N classes, S side of a crop.
"""

import dataclasses
import errno
import itertools
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from scipy import special

from rdfer_jax import class_shares, weights
from rdfer_jax import config as config_lib
from rdfer_jax.faces import blazeface
from rdfer_jax.faces.boxes import Detection
from rdfer_jax.faces.cut import NOBODY, Cut
from rdfer_jax.faces.detect import Detector
from rdfer_jax.faces.kept import KeptCrops, step
from rdfer_jax.faces.tracks import Scan, Track, runs_of_true, scan
from rdfer_jax.media import sources
from rdfer_jax.media.files import MediaError, printable
from rdfer_jax.media.sources import Array, Video
from rdfer_jax.media.video import FALLBACK_FPS, Frame
from rdfer_jax.pipeline.sampling import chosen_frames
from rdfer_jax.predict import annotate, embedding, files, onnx_network, people, resume
from rdfer_jax.predict import trained as trained_lib
from rdfer_jax.predict.progress import Progress
from rdfer_jax.predict.result import Face, VideoPrediction, Window
from rdfer_jax.predict.stream import LEAST_FRAMES, Moment, Stream
from rdfer_jax.predict.timecourse import TimeCourse
from rdfer_jax.predict.trained import Trained
from rdfer_jax.training import run_dir
from rdfer_jax.training.writers import bar
from rdfer_jax.types import Prediction

log = logging.getLogger(__name__)

#: The network of the package that predicts without a run.
PACKAGED = "faces"
#: Highest number of frames analyzed per second, if predict.fps is 0: of single frames, and of snippets.
FPS, SNIPPET_FPS = 10.0, 30.0
#: What runs the network.
RUNTIMES = ("auto", "jax", "onnx")
#: Errors of a place that takes no more, which no other video would change.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
#: Pictures of a face along its timeline, and their height and width in pixels.
PORTRAITS, PORTRAIT_SIZE = 10, 192
#: Of longer videos, only about this many frames may become portraits.
CANDIDATES = 50
#: Faces of a frame of which one may become the largest of the video, if only that is predicted.
MOST = 3


@dataclasses.dataclass(frozen=True)
class Plan:
    """A window to predict.

    Attributes:
      face: index of the face.
      chosen: int [F], indices of the analyzed frames that the network reads.
      places: int [n], indices of all its analyzed frames.
    """

    face: int
    chosen: np.ndarray
    places: np.ndarray


@dataclasses.dataclass(frozen=True)
class Clip:
    """The crops of a planned window.

    Attributes:
      plan: the window.
      crops: uint8 [F, S, S, 3], RGB, the face in each frame that the network reads.
    """

    plan: Plan
    crops: np.ndarray


class Predictor:
    """A trained network that predicts videos."""

    def __init__(
        self,
        run: epath.PathLike | None = None,
        checkpoint: str = "last",
        settings: config_lib.Predict | None = None,
        runtime: str = "auto",
    ):
        """Restores the network.

        Args:
          run: folder of the training run, or of what `rdfer export` wrote; None for the network that comes
            with the package.
          checkpoint: last, best, or a step; an exported network is of one checkpoint.
          settings: how to read videos; those of the run, if None.
          runtime: of RUNTIMES, what runs the network. onnx: ONNX Runtime, on the CPU; it takes the extra
            `export`. auto: jax, except for exported networks.

        Raises:
          FileNotFoundError: not a run, or no such checkpoint, or no such file of a detector or embedding.
          ValueError: the run's files are damaged, the class shares are of other classes, or the detector
            finds too little for identities.
        """
        network = _load(run, checkpoint, runtime)
        self.config, self.classes, self.model = network.config, network.classes, network.model
        self.settings = settings or self.config.predict
        self.fps = self.settings.fps or (FPS if self.config.data.snippet == 1 else SNIPPET_FPS)
        # What a network of single frames says of a window is the mean over its frames already.
        self.instants_share = 1.0 if self.config.clips.frames == 1 else 0.5
        self.temperature = (
            self.settings.temperature
            or self.config.predict.temperature
            or network.temperature
            or 1.0
        )
        if self.settings.class_shares:
            if network.runtime == "onnx":
                raise ValueError(
                    f"config.predict.class_shares: {run} is an exported network. Give the file to rdfer "
                    "export, and leave the setting empty here"
                )
            shift_N = class_shares.read(self.settings.class_shares, self.classes, self.config)
            network = network.shifted(self.temperature * shift_N)
        self.network = onnx_network.of(network) if runtime == "onnx" else network
        self.cut, self._detect = _with_detector(choose_cut(network.faces, self.settings))
        self._embed = _embedder(self.cut) if self.settings.identities else None

    def made_by(self) -> dict[str, Any]:
        """Returns what predictions depend on besides the video, as JSON values."""
        return {
            "network": self.network.digest,
            "config": config_lib.to_dict(self.config),
            "classes": list(self.classes),
            "settings": dataclasses.asdict(self.settings),
            "temperature": self.temperature,
            "cut": dataclasses.asdict(self.cut),
        }

    def frames(
        self, images: np.ndarray | Sequence[np.ndarray], fps: float | None = None
    ) -> VideoPrediction:
        """Predicts a video in memory.

        Args:
          images: uint8 [T, H, W, 3] in RGB, or a list of T frames.
          fps: frames per second; None if unknown, for 25.

        Raises:
          MediaError: it is something else; the message says what.
        """
        return self.video(Array(images, FALLBACK_FPS if fps is None else fps))

    def file(self, path: epath.PathLike) -> VideoPrediction:
        """Predicts a video file or a folder of pictures.

        Raises:
          MediaError: there is not exactly one video, or it cannot be read.
        """
        videos = sources.find(path)
        if len(videos) != 1:
            raise MediaError(f"{path}: expected one video, found {len(videos)}")
        return self.video(videos[0])

    def video(self, source: Video, progress: Progress | None = None) -> VideoPrediction:
        """Predicts one video.

        Args:
          source: the video.
          progress: what is known of it already; takes what is found and predicted.

        Raises:
          MediaError: it cannot be read.
        """
        size = self.config.data.image_size
        most = MOST if self.settings.faces == "largest" else None
        with KeptCrops(self.cut, {size: 0, PORTRAIT_SIZE: CANDIDATES}, most) as kept:
            return self._video(source, kept, progress)

    def _video(self, source: Video, kept: KeptCrops, progress: Progress | None) -> VideoPrediction:
        """Predicts one video; its crops are kept in an empty store."""
        found = self._scan(source, kept, progress)
        tracks = found.tracks[: 1 if self.settings.faces == "largest" else None]
        plans = [
            Plan(face, places[chosen_frames(len(places), self.config.data)], places)
            for face, track in enumerate(tracks)
            for places in windows(
                track.present, found.times, self.settings.window, self.settings.stride
            )
        ]
        collectors = [
            _Collector(track, TimeCourse(found.times, len(self.classes), self.instants_share))
            for track in tracks
        ]
        shown = [portrait_places(track.present, found.times) for track in tracks]
        self._complete(source, found, plans, shown, kept)
        clips = self._clips(tracks, plans, kept)
        for number, batch in enumerate(_batches(clips, self.settings.batch_size)):
            prediction = progress and progress.batch(number)
            if not prediction:
                prediction = self._predict([clip.crops for clip in batch])
                if progress:
                    progress.add_batch(number, prediction)
            for row, clip in enumerate(batch):
                window, thumbnails = _window(prediction, row, clip, found, self.temperature)
                instants = _instants(prediction, row, clip, self.temperature)
                collectors[clip.plan.face].add(clip.plan.places, window, thumbnails, instants)
        predicted = tuple(
            collector.face(
                self.settings.smooth,
                tuple(
                    (float(found.times[place]), kept.get(track, place, PORTRAIT_SIZE))
                    for place in places
                ),
            )
            for collector, track, places in zip(collectors, tracks, shown, strict=True)
            if collector.windows
        )
        return VideoPrediction(
            name=source.name,
            size=found.size,
            classes=self.classes,
            model=self.model,
            numbers=found.numbers,
            times=found.times,
            faces=predicted,
            other_faces=len(found.tracks) - len(tracks),
            faces_too_brief=len(tracks) - len(predicted),
            damage=source.damage,
            min_confidence=self.settings.min_confidence,
            identities=self.settings.identities,
        )

    def stream(self, frames: Iterable[Frame]) -> Iterator[Moment]:
        """Yields the faces at each stride of a source without an end, at constant memory.

        Args:
          frames: media.video.Frame, with ascending times; more than are read per second are passed over.

        Yields:
          The faces, each with its box, probabilities, agreement and confidence; see stream.Moment. What
          differs from `video` is in faces.follow.
        """
        if self.settings.identities:
            log.warning(
                "config.predict.identities: not of running videos; faces are followed by place"
            )
        running = Stream(
            self.network, self._detect, self.cut, self.settings, self.fps, self.temperature
        )
        return running.moments(frames)

    def _scan(self, source: Video, kept: KeptCrops, progress: Progress | None) -> Scan:
        """Finds and follows the faces or people, and cuts the faces out."""
        name, expected = epath.Path(source.name).name, source.expected(self.fps)
        frames = bar(source.frames(self.fps), f"{name}: faces", "frame", expected)
        with people.Faces() as faces:

            def watch(frame: Frame, found: list[Detection]) -> None:
                kept.watch(frame, found)
                if self._embed:
                    faces.watch(frame, found)

            found = scan(frames, self._detect, watch, progress, self.settings.small_every)
            kept.finish()
            if progress:
                progress.save()
            if self._embed:
                tracks = people.people(found.tracks, faces, self._embed, name)
                found = dataclasses.replace(found, tracks=tracks)
        return found

    def _complete(
        self,
        source: Video,
        found: Scan,
        plans: Sequence[Plan],
        shown: Sequence[Sequence[int]],
        kept: KeptCrops,
    ) -> None:
        """Reads the video again if crops are missing, and cuts those out."""
        size = self.config.data.image_size
        wanted = {(plan.face, place, size) for plan in plans for place in plan.chosen.tolist()}
        for face in {plan.face for plan in plans}:
            wanted |= {(face, place, PORTRAIT_SIZE) for place in shown[face]}
        missing: dict[int, list[tuple[int, int]]] = {}
        for face, place, side in wanted:
            if not kept.has(found.tracks[face], place, side):
                missing.setdefault(place, []).append((face, side))
        if not missing:
            return
        log.debug("%s: read again for the faces of %d frames", source.name, len(missing))
        name = epath.Path(source.name).name
        frames = bar(source.frames(self.fps), f"{name}: again", "frame", len(found.times))
        for place, frame in zip(range(max(missing) + 1), frames, strict=False):
            for face, side in missing.get(place, []):
                kept.put(frame.image, found.tracks[face], place, side)

    def _clips(
        self, tracks: Sequence[Track], plans: Sequence[Plan], kept: KeptCrops
    ) -> Iterator[Clip]:
        """Yields the crops of each window, in the order of the windows' ends."""
        size = self.config.data.image_size
        for plan in sorted(plans, key=lambda plan: (plan.places[-1], plan.face)):
            crops = [kept.get(tracks[plan.face], place, size) for place in plan.chosen.tolist()]
            yield Clip(plan, np.stack(crops))

    def _predict(self, crops: Sequence[np.ndarray]) -> Prediction:
        """Runs the network; smaller batches are padded, so that it is compiled for one shape only."""
        missing = self.settings.batch_size - len(crops)
        frames = np.stack([*crops, *[crops[0]] * missing])
        mask = np.arange(len(frames)) < len(crops)
        return self.network.predict(frames, mask, mirror=self.settings.mirror)


def _load(run: epath.PathLike | None, checkpoint: str, runtime: str) -> Trained:
    """Returns the network; arguments as of Predictor."""
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime: expected one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if run and onnx_network.is_export(run):
        if runtime == "jax":
            raise ValueError(f"{run}: an exported network, which ONNX Runtime runs, not jax")
        return onnx_network.from_export(run)
    return trained_lib.from_run(run, checkpoint) if run else trained_lib.from_package(PACKAGED)


def choose_cut(trained: Mapping[str, Any], settings: config_lib.Predict) -> Cut:
    """Returns how to cut faces, and says in the log what the training data have to do with it.

    Args:
      trained: how the faces of the training data were cut, see faces.cut.
      settings: how the user wants to cut them.
    """
    wanted = Cut(
        settings.detector, settings.min_face, settings.margin, settings.align, settings.yunet
    )
    if settings.detector == "none":
        return wanted
    stored = Cut.from_json(trained)
    if stored and settings.as_trained:
        log.info("faces are cut as in the training data: %s", stored)
        return stored
    if stored and stored != wanted:
        log.warning("faces are cut by %s; in the training data, by %s", wanted, stored)
    if trained.get("by") == NOBODY:
        log.warning(
            "the network was trained on clips as they were given, and predicts faces cut by %s. If the "
            "clips showed more than a face, build with config.build.crop_faces=True and train again, or "
            "predict whole frames with config.predict.detector=none",
            wanted,
        )
    return wanted


def _with_detector(cut: Cut) -> tuple[Cut, Detector]:
    """Creates the detector; if OpenCV cannot run BlazeFace, Haar takes its place."""
    try:
        return cut, cut.create_detector()
    except blazeface.NotReadableError as error:
        log.warning(
            "%s. Faces are found by haar instead: it misses turned, tilted and dim ones, and nothing is "
            "aligned. Install opencv-python-headless from PyPI for BlazeFace",
            error,
        )
        cut = dataclasses.replace(cut, detector="haar")
        return cut, cut.create_detector()


def _embedder(cut: Cut) -> embedding.Embedder:
    """Returns the embedding of faces; errors as of Predictor."""
    if cut.detector not in ("blazeface", "yunet"):
        raise ValueError(
            f"config.predict.identities: needs the eyes and the mouth of each face, which the detector "
            f"{cut.detector!r} does not find; set config.predict.detector to blazeface or yunet"
        )
    return embedding.Embedder.from_cache()


def windows(
    present_A: np.ndarray, times_A: np.ndarray, length: float, stride: float
) -> list[np.ndarray]:
    """Returns the indices of the analyzed frames of each window, in time order.

    In each run of frames with the face, without a gap in time, windows of `length` seconds start every
    `stride` seconds; the last one ends with the run. A shorter run is one window, unless it has fewer than
    LEAST_FRAMES frames and the video has more.

    Args:
      present_A: bool [A], whether the face is there.
      times_A: float [A], seconds.
      length: seconds.
      stride: seconds.
    """
    least = min(LEAST_FRAMES, len(times_A))
    result = []
    runs = runs_of_true(present_A, times_A)
    # Frames further apart than a window are in no window together, so the cost grows with frames, not time.
    near = (np.split(run, np.flatnonzero(np.diff(times_A[run]) > length) + 1) for run in runs)
    for run in itertools.chain.from_iterable(near):
        times = times_A[run]
        last = times[-1] - length
        starts = np.arange(times[0], last - 1e-6, stride)
        for start in [*starts.tolist(), max(last, times[0])]:
            first, end = np.searchsorted(times, [start - 1e-6, start + length + 1e-6])
            inside = run[first:end]
            if len(inside) >= least:
                result.append(inside)
    return result


def portrait_places(present_A: np.ndarray, times_A: np.ndarray) -> list[int]:
    """Returns the analyzed frames that show a face in the middle of each tenth of the time, if it is there.

    At least one, if it is anywhere. Arguments as of windows.
    """
    places_P = np.arange(0, len(times_A), step(len(times_A), CANDIDATES))
    middles = times_A[0] + (np.arange(PORTRAITS) + 0.5) / PORTRAITS * (times_A[-1] - times_A[0])
    nearest = places_P[np.abs(times_A[places_P, None] - middles).argmin(axis=0)]
    places = list(dict.fromkeys(place for place in nearest.tolist() if present_A[place]))
    first = [*places_P[present_A[places_P]], *np.flatnonzero(present_A)]
    return places or [int(place) for place in first[:1]]


Thumbnails = tuple[tuple[float, np.ndarray], ...]


def _window(
    prediction: Prediction, row: int, clip: Clip, found: Scan, temperature: float
) -> tuple[Window, Thumbnails]:
    """Returns the prediction of a window, and its key frames as in Face.thumbnails."""
    instants = () if prediction.key_instants is None else prediction.key_instants[row].tolist()
    keys: dict[int, np.ndarray] = {}  # short windows repeat frames
    for position in instants:
        keys.setdefault(int(clip.plan.chosen[position]), clip.crops[position])
    window = Window(
        start=float(found.times[clip.plan.places[0]]),
        end=float(found.times[clip.plan.places[-1]]),
        probs=special.softmax(prediction.logits[row].astype(np.float64) / temperature),
        agreement=float(prediction.agreement[row]),
        key_numbers=tuple(int(found.numbers[place]) for place in keys),
        key_times=tuple(float(found.times[place]) for place in keys),
    )
    return window, tuple(zip(window.key_times, keys.values(), strict=True))


#: Indices int [I] of the analyzed frames of the instants, and their probabilities float [I, N].
Instants = tuple[np.ndarray, np.ndarray]


def _instants(prediction: Prediction, row: int, clip: Clip, temperature: float) -> Instants | None:
    """Returns what the instants of a window predict; None for networks that classify none."""
    if prediction.instants is None or prediction.instant_logits is None:
        return None
    logits_IN = np.asarray(prediction.instant_logits[row], np.float64)
    return clip.plan.chosen[prediction.instants[row]], special.softmax(
        logits_IN / temperature, axis=-1
    )


class _Collector:
    """Collects the windows of a face. Of their key frames it keeps one set per class, not all."""

    def __init__(self, track: Track, course: TimeCourse):
        self.windows: list[Window] = []
        self._track, self._course = track, course
        self._best: dict[int, tuple[float, Thumbnails]] = {}

    def add(
        self, places: np.ndarray, window: Window, thumbnails: Thumbnails, instants: Instants | None
    ) -> None:
        """Adds a window: of which analyzed frames, its prediction, its key frames and its instants."""
        self.windows.append(window)
        self._course.add_window(places, window.probs)
        if instants:
            self._course.add_instants(places, *instants)
        for index, probability in enumerate(window.probs.tolist()):
            if index not in self._best or probability > self._best[index][0]:
                self._best[index] = (probability, thumbnails)

    def face(self, smooth: float, portraits: Thumbnails) -> Face:
        """Returns the prediction of the face."""
        probs_AN = self._course.probs(smooth)
        face = Face(self._track.boxes, self._track.found, probs_AN, tuple(self.windows))
        thumbnails = self._best[face.expression][1]
        return dataclasses.replace(face, thumbnails=thumbnails, portraits=portraits)


def _batches(clips: Iterator[Clip], size: int) -> Iterator[list[Clip]]:
    while batch := list(itertools.islice(clips, size)):
        yield batch


def _told(video: Video, error: Exception) -> str:
    """Returns an error as one line that names the video."""
    if isinstance(error, MediaError):
        return str(error)
    return printable(f"{video.name}: {type(error).__name__}: {error}")


def predict(
    run: epath.PathLike | None,
    inputs: epath.PathLike,
    output: epath.PathLike | None = None,
    checkpoint: str = "last",
    settings: config_lib.Predict | None = None,
    *,
    force: bool = False,
    runtime: str = "auto",
) -> list[files.Row]:
    """Predicts videos, and writes a folder with prediction.json, frames.csv and timeline.png for each.

    Videos that cannot be read, or that show no face, are reported; the others are predicted. A video whose
    complete results are there is counted and not predicted again, if its files, the network and the
    settings are the same.

    Args:
      run: folder of the training run; None for the network that comes with the package.
      inputs: a video, a folder or a list; see sources.find.
      output: folder for everything; predict/ in the run's folder, or here without a run, if None.
      checkpoint: last, best, or a step.
      settings: how to read videos; those of the run, if None.
      force: whether to predict all videos again.
      runtime: of RUNTIMES; see Predictor.

    Returns:
      The rows of summary.csv: one for each predicted face, and for each video without one.

    Raises:
      MediaError: there is no video, or none that could be read.
      ValueError: another process is predicting into the same folder; or as of Predictor.
      OSError: the folder cannot be written to.
    """
    output = epath.Path(output) if output else epath.Path(run or ".") / "predict"
    videos = sources.find(inputs, output)
    folders = files.folders([video.name for video in videos])
    files.check_output(output, folders)
    if not run:
        log.info(
            "no --workdir: predicting with the network %r of this package, which was trained on "
            "photographs. What it can do, and what it must not be used for: %s",
            PACKAGED,
            weights.FOLDER / f"{PACKAGED}.md",
        )
    predictor = Predictor(run, checkpoint, settings, runtime)
    with run_dir.run_lock(output, "output"):
        try:
            rows = _predict_all(predictor, videos, folders, output, force)
        except OSError as error:
            raise OSError(
                f"{output}: results, or temporary files in {tempfile.gettempdir()}, cannot be written "
                f"({error.strerror or error}). What is predicted so far stays; the same command goes on"
            ) from None
    if not any("folder" in row for row in rows):
        raise MediaError(f"{inputs}: none of the {len(videos)} videos could be read")
    return rows


def _predict_all(
    predictor: Predictor,
    videos: Sequence[Video],
    folders: Sequence[str],
    output: epath.Path,
    force: bool,
) -> list[files.Row]:
    """Predicts videos, each into its folder in `output`; returns the rows of summary.csv."""
    rows: list[files.Row] = []
    made_by = predictor.made_by()
    predicted, failed, before = 0, 0, 0
    for number, (video, folder) in enumerate(zip(videos, folders, strict=True), 1):
        digest = resume.digest(video, made_by)
        if not force and (known := resume.finished(output / folder, digest)):
            rows += known
            before += 1
            continue
        resume.begin(output / folder)
        progress = Progress(output / folder, digest)
        if force:
            progress.discard()
            progress = Progress(output / folder, digest)
        if progress.frames:
            log.info("%s: the faces of %d frames are known already", video.name, progress.frames)
        try:
            with progress:
                prediction = predictor.video(video, progress)
        except Exception as error:  # one video must not cost the others
            if isinstance(error, OSError) and error.errno in _FULL:
                raise
            progress.discard()
            if not isinstance(error, MediaError):
                log.debug("", exc_info=True)
            rows.append({"video": video.name, "problem": _told(video, error)})
            log.warning("not predicted: %s", rows[-1]["problem"])
            failed += 1
            continue
        if prediction.damage:
            log.warning("%s: %s", video.name, prediction.damage)
        files.write(prediction, output / folder)
        if predictor.settings.annotate and prediction.faces:
            annotate.write(video, prediction, output / folder / "annotated.mp4")
        found = files.summary(prediction, folder)
        rows += found
        resume.complete(output / folder, digest, found)
        progress.discard()
        predicted += bool(prediction.faces)
        which = f"{number} of {len(videos)}: " if len(videos) > 1 else ""
        picture = output / folder / "timeline.png"
        log.info("%s%s\n  %s", which, files.describe(prediction), picture)
    files.write_summary(rows, output / "summary.csv")
    again = f", {before} already predicted (--force predicts them again)" if before else ""
    log.info(
        "%d videos: %d predicted, %d without a face, %d not readable%s; results in %s",
        len(videos), predicted, len(videos) - predicted - failed - before, failed, again, output,
    )  # fmt: skip
    return rows
