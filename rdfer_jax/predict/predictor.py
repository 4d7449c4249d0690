"""Prediction of a user's own videos: find and follow the faces, crop them, run the network on windows.

Enters: the folder of a run, and videos. Leaves: VideoPredictions; `command` writes them to files. Each
video is read once, as a stream: its faces are found and cut out, and the crops wait in a temporary file, so
memory does not grow with its length. Only if a crop turns out to be missing is the video read again; see
faces.kept. `windows` plans what the network reads, and `collect` joins what it says.
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from rdfer_jax import class_shares
from rdfer_jax import config as config_lib
from rdfer_jax.faces import blazeface
from rdfer_jax.faces.boxes import Detection
from rdfer_jax.faces.cut import NOBODY, Cut
from rdfer_jax.faces.detect import Detector
from rdfer_jax.faces.follow import Seen
from rdfer_jax.faces.kept import KeptCrops
from rdfer_jax.faces.tracks import Scan, Track, scan
from rdfer_jax.media import sources
from rdfer_jax.media.files import MediaError
from rdfer_jax.media.sources import Array, Video
from rdfer_jax.media.video import FALLBACK_FPS, Frame
from rdfer_jax.pipeline.sampling import chosen_frames
from rdfer_jax.predict import embedding, onnx_network, people
from rdfer_jax.predict import trained as trained_lib
from rdfer_jax.predict.collect import Clip, Collector, instants_of, window_of
from rdfer_jax.predict.progress import Progress
from rdfer_jax.predict.result import VideoPrediction
from rdfer_jax.predict.stream import Moment, Stream
from rdfer_jax.predict.timecourse import TimeCourse
from rdfer_jax.predict.trained import Trained
from rdfer_jax.predict.windows import CANDIDATES, Plan, portrait_places, windows
from rdfer_jax.training.writers import bar
from rdfer_jax.types import Prediction

log = logging.getLogger(__name__)

#: The network of the package that predicts without a run.
PACKAGED = "faces"
#: Highest number of frames analyzed per second, if predict.fps is 0: of single frames, and of snippets.
FPS, SNIPPET_FPS = 10.0, 30.0
#: What runs the network.
RUNTIMES = ("auto", "jax", "onnx")
#: Height and width of the pictures of a face along its timeline, pixels.
PORTRAIT_SIZE = 192
#: Faces of a frame of which one may become the largest of the video, if only that is predicted.
MOST = 3


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
            Collector(track, TimeCourse(found.times, len(self.classes), self.instants_share))
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
                window, thumbnails = window_of(prediction, row, clip, found, self.temperature)
                instants = instants_of(prediction, row, clip, self.temperature)
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

    def stream(
        self, frames: Iterable[Frame], watch: Callable[[Frame, list[Seen]], None] | None = None
    ) -> Iterator[Moment]:
        """Yields the faces at each stride of a source without an end, at constant memory.

        Args:
          frames: media.video.Frame, with ascending times; more than are read per second are passed over.
          watch: takes each frame that is read, with its faces, before they are predicted.

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
        return running.moments(frames, watch)

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


def _batches(clips: Iterator[Clip], size: int) -> Iterator[list[Clip]]:
    while batch := list(itertools.islice(clips, size)):
        yield batch
