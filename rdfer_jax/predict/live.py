"""Prediction of a camera, a network stream, or a file played as if it were live.

A thread reads the source and keeps the newest frame only: what comes in while a frame is analyzed is
dropped, and counted. A camera is read from the moment it is opened, so that nothing piles up in its buffer
while the network is prepared.
"""

import contextlib
import csv
import io
import logging
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax import fonts
from rdfer_jax.faces.follow import Seen
from rdfer_jax.media import sources
from rdfer_jax.media.files import MediaError, printable
from rdfer_jax.media.sources import Video
from rdfer_jax.media.video import Frame
from rdfer_jax.predict.annotate import UNKNOWN_COLOR, draw_box
from rdfer_jax.predict.predictor import Predictor
from rdfer_jax.predict.stream import LiveFace, Moment
from rdfer_jax.predict.timeline import class_color

log = logging.getLogger(__name__)

#: Time between two lines on the terminal, seconds.
LINE_EVERY = 1.0
_WINDOW = "rdfer live"
#: Keys that close the window: Esc and q.
_END_KEYS = (27, ord("q"))
_COLUMNS = (
    "time", "frame", "face", "left", "top", "width", "height", "expression", "confidence",
    "agreement", "latency", "dropped",
)  # fmt: skip


class Camera:
    """A camera or a network stream, as a source of frames at the time they come in."""

    def __init__(self, place: str):
        """Opens camera number `place`, or the stream at an address.

        Raises:
          MediaError: it cannot be opened.
        """
        self._capture = cv2.VideoCapture(int(place) if place.isdigit() else place)
        if not self._capture.isOpened():
            kind = "camera" if place.isdigit() else "stream"
            raise MediaError(f"--input={_named(place)}: no such {kind}, or it cannot be opened")

    def frames(self) -> Iterator[Frame]:
        """Yields frames until the source ends."""
        start, number = time.monotonic(), 0
        try:
            while True:
                is_read, image = self._capture.read()
                if not is_read:
                    return
                now = time.monotonic() - start
                yield Frame(number, now, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
                number += 1
        finally:
            self._capture.release()


def played(video: Video) -> Iterator[Frame]:
    """Yields the frames of a video at their times, as a camera would."""
    start = time.monotonic()
    for frame in video.frames():
        time.sleep(max(0.0, start + frame.time - time.monotonic()))
        yield frame


class Newest:
    """The newest frame of a source that a thread reads; frames that nobody took are dropped."""

    def __init__(self, frames: Iterator[Frame]):
        """Reads nothing before `start`, or before it is iterated over."""
        self.dropped = 0
        #: Time of the newest frame, seconds; None before the first one.
        self.time: float | None = None
        #: Monotonic time at which the frame that was taken last came in, seconds.
        self.came = 0.0
        self._slot: tuple[Frame, float] | None = None
        self._error: Exception | None = None
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(frames,), daemon=True)

    def start(self) -> None:
        """Starts to read."""
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        """Yields the newest frame whenever the last one is done. Raises what the source raises."""
        if self._thread.ident is None:
            self.start()
        while True:
            with self._changed:
                # With a time limit, because Ctrl-C is not seen by a wait without one.
                while not (self._slot or self._is_over):
                    self._changed.wait(0.2)
                if self._slot is None:
                    if self._error:
                        raise self._error
                    return
                (frame, self.came), self._slot = self._slot, None
            yield frame

    def forget(self) -> None:
        """Drops the frame that waits, and counts the dropped ones from here."""
        with self._changed:
            self._slot, self.dropped = None, 0

    def stop(self) -> None:
        """Ends the reading."""
        with self._changed:
            self._is_over = True
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def _read(self, frames: Iterator[Frame]) -> None:
        try:
            for frame in frames:
                with self._changed:
                    if self._is_over:
                        return
                    self.dropped += self._slot is not None
                    self.time = frame.time
                    self._slot = (frame, time.monotonic())
                    self._changed.notify()
        except Exception as error:  # told by the other thread
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify()


def run(
    run_folder: epath.PathLike | None,
    place: str,
    output: epath.PathLike | None = None,
    checkpoint: str = "last",
    settings: config_lib.Predict | None = None,
    runtime: str = "auto",
    *,
    show: bool = False,
) -> None:
    """Predicts until the source ends or Ctrl-C is pressed.

    Prints a line each second if the output is a terminal.

    Args:
      run_folder: of the training run or of an export; None for the network that comes with the package.
      place: number of a camera, an address such as rtsp://..., or a video file.
      output: CSV file, with a row for each face at each stride; None for none.
      checkpoint, settings, runtime: see Predictor.
      show: whether to open a window.

    Raises:
      MediaError: the source cannot be read.
      ValueError: a window is asked for, and OpenCV has none.
    """
    if show and not has_windows():
        raise ValueError(
            "--show: this OpenCV (opencv-python-headless) cannot open windows; leave --show out, or "
            "install opencv-python in its place"
        )
    name = _named(place)
    is_camera = place.isdigit() or "://" in place
    newest = Newest(Camera(place).frames() if is_camera else played(_video(place)))
    if is_camera:
        newest.start()
    try:
        predictor = Predictor(run_folder, checkpoint, settings, runtime)
        writer = _Rows(epath.Path(output), predictor.classes) if output else None
        _warm_up(predictor)
    except BaseException:
        newest.stop()
        raise
    newest.forget()
    window = _Window(predictor.classes) if show else None
    told, moments, slowest = -np.inf, 0, 0.0
    try:
        frames = window.until_closed(newest) if window else newest
        for moment in predictor.stream(frames, window.show if window else None):
            latency = time.monotonic() - newest.came
            slowest = max(slowest, latency)
            moments += 1
            if writer:
                writer.add(moment, latency, newest.dropped)
            if window:
                window.predicted = {face.number: face for face in moment.faces}
            if sys.stdout.isatty() and moment.time - told >= LINE_EVERY - 1e-3:
                told = moment.time
                print(line(moment, latency, newest.dropped), flush=True)
    finally:
        newest.stop()
        if writer:
            writer.close()
        log.info(
            "%s: %d predictions, latency at most %.0f ms, %d frames dropped",
            name, moments, 1000 * slowest, newest.dropped,
        )  # fmt: skip
    if is_camera and newest.time is None:
        raise MediaError(f"--input={name}: it was opened, but no frame came")
    if is_camera and not (window and window.is_closed):
        log.warning("%s: no more frames came after %.1f s", name, newest.time)


def line(moment: Moment, latency: float, dropped: int) -> str:
    """Returns a moment as a line for the terminal; latency in seconds."""
    faces = "; ".join(
        f"face {face.number}: {face.expression} {face.confidence:.0%}, agreement {face.agreement:.2f}"
        for face in moment.faces
    )
    told = f"latency {1000 * latency:.0f} ms, {dropped} frames dropped"
    return f"{moment.time:8.1f} s  {faces or 'no face'}  ({told})"


def has_windows() -> bool:
    """Returns whether this OpenCV can open windows."""
    lines = [text.split() for text in cv2.getBuildInformation().splitlines()]
    return ["GUI:", "NONE"] not in lines


def _video(place: str) -> Video:
    videos = sources.find(place)
    if len(videos) != 1:
        raise MediaError(f"--input={printable(place)}: expected one video, found {len(videos)}")
    return videos[0]


def _named(place: str) -> str:
    """Returns a source as messages name it: an address without its password."""
    if "://" in place and (password := urllib.parse.urlsplit(place).password):
        place = place.replace(f":{password}@", ":***@", 1)
    return printable(place)


def _warm_up(predictor: Predictor) -> None:
    """Compiles before the first frame comes in."""
    blank = np.zeros((1, *predictor.network.shape), np.uint8)
    predictor.network.predict(blank, np.ones(1, bool), mirror=predictor.settings.mirror)


class _Window:
    """The window, with a box at each face and the expression that was predicted last."""

    def __init__(self, classes: tuple[str, ...]):
        self._names = dict(zip(classes, fonts.names(classes), strict=True))
        self.predicted: dict[int, LiveFace] = {}
        self.is_closed = False

    def until_closed(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yields frames until the window is closed."""
        for frame in frames:
            if self.is_closed:
                break
            yield frame
        cv2.destroyAllWindows()

    def show(self, frame: Frame, faces: Sequence[Seen]) -> None:
        """Shows a frame and the faces in it, and looks whether the window is closed."""
        image = frame.image.copy()
        for seen in faces:
            face = self.predicted.get(seen.number)
            if face:
                name = self._names.get(face.expression, face.expression)
                color = class_color(int(face.probs.argmax()))
                draw_box(image, seen.box.tolist(), color, f"{name} {face.confidence:.0%}")
            else:
                draw_box(image, seen.box.tolist(), UNKNOWN_COLOR)
        cv2.imshow(_WINDOW, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        is_ended = cv2.waitKey(1) & 0xFF in _END_KEYS
        self.is_closed = is_ended or cv2.getWindowProperty(_WINDOW, cv2.WND_PROP_VISIBLE) < 1


class _Rows:
    """The CSV file; each row is there as soon as it is known."""

    def __init__(self, path: epath.Path, classes: tuple[str, ...]):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: Any = path.open("w")
        self._write([[*_COLUMNS, *classes]])

    def add(self, moment: Moment, latency: float, dropped: int) -> None:
        self._write(
            [f"{moment.time:.3f}", moment.number, face.number]
            + [f"{side:.1f}" for side in face.box]
            + [face.expression, f"{face.confidence:.4f}", f"{face.agreement:.4f}"]
            + [f"{latency:.3f}", dropped]
            + [f"{p:.4f}" for p in face.probs]
            for face in moment.faces
        )

    def _write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Raises OSError if they cannot be written."""
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        try:
            self._file.write(text.getvalue())
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):  # it would write again
                self._file.close()
            raise OSError(
                f"{self._path}: cannot be written ({error.strerror}); earlier rows stay"
            ) from None

    def close(self) -> None:
        self._file.close()
