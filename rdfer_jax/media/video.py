"""Video files: a stream of upright frames with exact times; and H.264 in MP4, which browsers play.

The one place that opens a video file. FFmpeg decodes, by PyAV. Frames come one at a time, so that memory
does not grow with the length of a video.
"""

import contextlib
import dataclasses
import fractions
import math
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import av
import av.container
import av.filter
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from etils import epath

from rdfer_jax.media.files import MediaError, check_size, open_file, unreadable

#: Frame rate where nothing says how fast frames follow each other.
FALLBACK_FPS = 25.0

#: Containers that are opened. Playlists (concat, HLS, DASH, SDP) are not among them: they name other files
#: and addresses, and FFmpeg would read those.
_FORMATS = (
    *("mov", "matroska", "avi", "mpeg", "mpegts", "mpegvideo", "m4v", "h264", "hevc", "ivf", "obu"),
    *("asf", "flv", "live_flv", "ogg", "gif", "mxf", "dv", "rm", "nut", "wtv"),
)
_OPTIONS = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
#: How playlists begin, for a message that says what is wrong.
_PLAYLISTS = (b"ffconcat", b"#EXTM3U", b"<?xml", b"<MPD")
#: Containers round times to a millisecond at the coarsest, seconds.
_ROUNDING = 1e-3
#: Pixel shapes beyond this ratio are damage rather than the geometry of a camera.
_MAX_PIXEL_ASPECT = 10
#: Share of the declared frames, and their number, that may be missing without a warning.
_MISSING_SHARE, _MISSING_FRAMES = 0.05, 1
#: Clock of written videos, seconds, and the longest time that one frame is shown.
_TICK, _LONGEST_PAUSE = fractions.Fraction(1, 90_000), 60
#: Nearly lossless to the eye, and twice as fast to encode as the default.
_ENCODING = {"crf": "20", "preset": "veryfast"}


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
      number: its place in the video, from 0.
      time: seconds from the first frame.
      image: uint8 [H, W, 3], RGB, upright.
    """

    number: int
    time: float
    image: np.ndarray


class VideoReader:
    """An open video file. Use as a context manager; it can be read once.

    Frames are rotated as the file asks for, deinterlaced where they are interlaced, and stretched to the
    shape that a player shows where pixels are not square. All have the size of the first one.

    Attributes:
      declared: number of frames that the container says it holds; 0 if it does not say.
      read: number of coded frames decoded so far, among them those that an edit list hides.
      damaged: number of coded frames that could not be decoded.
    """

    def __init__(self, path: epath.Path, threads: int = 0):
        """Opens a file.

        Args:
          path: the video.
          threads: number of decoding threads; 0 for one per core.

        Raises:
          MediaError: it cannot be read, is not a video, or has frames of more than files.MAX_PIXELS pixels.
        """
        self._path = path
        self.read = self.damaged = 0
        with contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context(open_file(path))
                if file.read(256).lstrip().startswith(_PLAYLISTS):
                    raise MediaError(
                        f"{path}: a playlist, which names other files; expected a video"
                    )
                file.seek(0)
                # By the open file: FFmpeg would take some names for addresses or numbered series.
                self._container: av.container.InputContainer = av.open(
                    file, "r", options=_OPTIONS, metadata_errors="replace"
                )
                opened.callback(self._container.close)
            except av.FFmpegError:
                raise MediaError(f"{path}: not a video that FFmpeg can read") from None
            except OSError as error:
                raise unreadable(path, error) from None
            stream = self._container.streams.best("video")
            if not isinstance(stream, av.VideoStream) or stream.codec_context is None:
                raise MediaError(f"{path}: holds no video that FFmpeg can decode")
            check_size(stream.codec_context.height, stream.codec_context.width, path)
            self._opened = opened.pop_all()
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        self._stream = stream
        self.declared = stream.frames
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self._fps = rate if 0 < rate <= 1000 else FALLBACK_FPS
        self._converter, self._threads = VideoReformatter(), threads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    @property
    def expected(self) -> int:
        """Number of frames declared, or else estimated from duration and frame rate; at least 1."""
        if self.declared:
            return self.declared
        duration = (self._container.duration or 0) / av.time_base
        return max(1, round(duration * self._fps))

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """Yields the frames in time order, at most max_fps per second; all of them if that is 0.

        Frames that are left out are not converted, which saves most of their cost.

        Raises:
          MediaError: reading fails, a frame has more than files.MAX_PIXELS pixels, or there is no frame.
        """
        keeps, number, size = Thinner(max_fps), 0, None
        for number, (time, frame) in enumerate(self._timed(), 1):
            if keeps(time):
                image = self._image(frame)
                size = size or image.shape[1::-1]
                if image.shape[1::-1] != size:
                    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                yield Frame(number - 1, time, image)
        if not number:
            raise MediaError(f"{self._path}: holds no frame that can be decoded")

    def problem(self) -> str:
        """Returns what was missing or damaged, once all frames are read; empty if nothing was."""
        least = (1 - _MISSING_SHARE) * self.declared - _MISSING_FRAMES
        if self.read + self.damaged < least:
            return f"ends after {self.read} of the {self.declared} frames that it declares"
        return f"{self.damaged} damaged frames were skipped" if self.damaged else ""

    def _timed(self) -> Iterator[tuple[float, VideoFrame]]:
        """Yields decoded frames with their times: some files carry none, or times that stand still."""
        start, time = None, -1 / self._fps
        for frame in _deinterlaced(self._decoded()):
            stamp = frame.time
            if stamp is not None:
                start = stamp if start is None else start
                stamp -= start
            time = stamp if stamp is not None and stamp > time else time + 1 / self._fps
            yield time, frame

    def _decoded(self) -> Iterator[VideoFrame]:
        """Yields decoded frames; skips damaged ones, and counts both."""
        for packet in self._packets():
            try:
                for frame in self._stream.decode(packet):
                    frame.time_base = self._stream.time_base  # PyAV omits it in the last ones
                    yield frame
                self.read += packet is not None
            except av.FFmpegError:
                self.damaged += packet is not None

    def _packets(self) -> Iterator[av.Packet | None]:
        """Yields coded frames up to the end of the file or the first damage to its structure, then None."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    yield packet
                else:  # a dropped frame, or PyAV's mark of the end
                    self.read += packet.dts is not None
        except av.FFmpegError:
            pass
        except OSError as error:
            raise unreadable(self._path, error) from None
        yield None

    def _image(self, frame: VideoFrame) -> np.ndarray:
        """Converts a decoded frame to the picture that a player shows, uint8 [H, W, 3], RGB."""
        aspect = self._stream.sample_aspect_ratio or fractions.Fraction(1)
        if not 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
            aspect = fractions.Fraction(1)
        height, width = frame.height, max(1, round(frame.width * aspect))
        check_size(height, max(width, frame.width), self._path)
        try:
            rgb = self._converter.reformat(frame, format="rgb24", threads=self._threads)
        except av.FFmpegError as error:
            raise MediaError(
                f"{self._path}: pixel format {frame.format.name} cannot be read ({error.strerror})"
            ) from None
        image: np.ndarray = rgb.to_ndarray()
        if width != frame.width:
            method = cv2.INTER_AREA if width < frame.width else cv2.INTER_LINEAR
            image = cv2.resize(image, (width, height), interpolation=method)
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _deinterlaced(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Passes frames on; from the first interlaced one on, through FFmpeg's yadif filter."""
    graph, kind = None, None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if graph is None or kind != (frame.width, frame.height, frame.format.name):
            if graph is not None:
                yield from _filtered(graph, None)
            kind = (frame.width, frame.height, frame.format.name)
            graph = _yadif(frame)
        yield from _filtered(graph, frame)
    if graph is not None:
        yield from _filtered(graph, None)


def _yadif(frame: VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(source, graph.add("yadif", deint="interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _filtered(graph: av.filter.Graph, frame: VideoFrame | None) -> Iterator[VideoFrame]:
    """Pushes a frame, or None at the end, and yields what comes out."""
    graph.push(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):  # it wants another frame; it is empty
            return


class Thinner:
    """Selects at most max_fps frames per second, evenly spaced if the frames are."""

    def __init__(self, max_fps: float):
        self._max_fps, self._slot = max_fps, -1

    def __call__(self, time: float) -> bool:
        """Returns whether to keep the next frame: the first one in each slot of 1 / max_fps seconds."""
        if not self._max_fps:
            return True
        slot = math.floor((time + _ROUNDING) * self._max_fps)
        keeps, self._slot = slot > self._slot, max(slot, self._slot)
        return keeps


class VideoWriter:
    """Writes H.264 in MP4, with the pixel format that browsers play. Use as a context manager.

    The file appears under its name once it is complete; after an error there is none.
    """

    def __init__(self, path: epath.Path, fps: float, size: tuple[int, int]):
        """Creates the file.

        Args:
          path: an .mp4 file on a local disk, in a folder that exists.
          fps: frames per second, for frames that come without times.
          size: height and width of the frames, at least 2 pixels each. Odd ones lose their last row or
            column, since color is stored at half the resolution.

        Raises:
          OSError: it cannot be written there.
        """
        self._path, self._part = path, path.with_name(f"part-{path.name}")
        self._step = max(1, round(1 / fps / _TICK))
        self._place, self._skipped = -self._step, 0
        try:
            self._part.touch()
        except OSError as error:
            raise OSError(f"{path}: cannot be written ({error.strerror})") from None
        self._container = av.open(
            os.fspath(self._part), "w", format="mp4", options={"movflags": "faststart"}
        )
        rate = fractions.Fraction(fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate, options=_ENCODING)
        self._stream.height, self._stream.width = (side // 2 * 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _TICK

    def __enter__(self) -> Self:
        return self

    def write(self, image: np.ndarray, time: float | None = None) -> None:
        """Adds a frame.

        Args:
          image: uint8 [H, W, 3], RGB.
          time: when to show it, seconds; 1 / fps after the frame before, if None. Pauses of more than a
            minute are cut to a minute: they come from damaged clocks, and MP4 cannot store long ones.
        """
        place = self._place + self._step
        if time is not None:
            place = max(round(time / _TICK) - self._skipped, self._place + 1, 0)
            longest = max(self._place, 0) + round(_LONGEST_PAUSE / _TICK)
            self._skipped += max(0, place - longest)
            place = min(place, longest)
        self._place = place
        image = np.ascontiguousarray(image[: self._stream.height, : self._stream.width])
        frame = VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = place, _TICK
        self._container.mux(self._stream.encode(frame))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None:
                self._part.replace(self._path)
        except av.FFmpegError as problem:
            raise OSError(f"{self._path}: cannot be written ({problem.strerror})") from None
        finally:
            self._part.unlink(missing_ok=True)
