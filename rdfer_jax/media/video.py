"""Video files: a stream of upright frames with exact times; and H.264 in MP4, which browsers play.

The one place that opens a video file. FFmpeg decodes, by PyAV. Frames come one at a time, so that memory
does not grow with the length of a video.
"""

import contextlib
import dataclasses
import fractions
import functools
import itertools
import logging
import math
import os
import re
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Self, cast

import av
import av.container
import av.filter
import cv2
import numpy as np
from av.codec.context import Flags
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from etils import epath

from rdfer_jax.media import colors, container, images, kinds, orientation, structure
from rdfer_jax.media.clock import Clock
from rdfer_jax.media.files import MediaError, check_size, open_file, unreadable

log = logging.getLogger(__name__)

#: Frame rate where nothing says how fast frames follow each other.
FALLBACK_FPS = 25.0

#: Containers that are opened. Playlists (concat, HLS, DASH, SDP) are not among them: they name other files
#: and addresses, and FFmpeg would read those.
_FORMATS = (
    *("mov", "matroska", "avi", "mpeg", "mpegts", "mpegvideo", "m4v", "h264", "hevc", "ivf", "obu"),
    *("asf", "flv", "live_flv", "ogg", "gif", "mxf", "dv", "rm", "nut", "wtv", "yuv4mpegpipe"),
    *("mjpeg", "apng", "vvc", "vc1", "dhav", "ifv"),
)
_OPTIONS = {"format_whitelist": ",".join(_FORMATS), "protocol_whitelist": "file"}
#: How playlists begin, for a message that says what is wrong.
_PLAYLISTS = (b"ffconcat", b"#EXTM3U", b"<?xml", b"<MPD")
#: How pictures of a network camera begin (multipart/x-mixed-replace), with or without the server's answer.
_MULTIPART = re.compile(
    rb"\s*(HTTP/[0-9.]+ 200.*multipart/x-mixed-replace|--[^\r\n]+\r?\n.*content-type: *image/jpe?g)",
    re.DOTALL | re.IGNORECASE,
)
#: Names of the logarithmic scales of cameras, and metadata in which people write what they like.
_LOG = re.compile(
    r"\b([a-z]-?log ?[2-4lm]?|(apple|canon)[ _-]?log ?\d?|log-?c[34]?|cine-?d?log|log3g10|bmdfilm)\b",
    re.IGNORECASE,
)
_FREE_TEXT = ("title", "comment", "description", "synopsis", "artist", "album", "keywords")
#: Containers round times to a millisecond at the coarsest, seconds.
_ROUNDING = 1e-3
#: Pixel shapes beyond this ratio are damage rather than the geometry of a camera.
_MAX_PIXEL_ASPECT = 10
#: Share of the declared frames, and their number, that may be missing from a complete file: many containers
#: declare a few too many.
_MISSING_SHARE, _MISSING_FRAMES = 0.05, 1
#: Damages to the structure of a file in a row, after which it is not read on.
_DAMAGES = 100
#: Clock of written videos, seconds (MPEG-4 Part 2 allows 65,535 ticks in one), and the longest time that
#: one frame is shown.
_TICK, _LONGEST_PAUSE = fractions.Fraction(1, 60_000), 60
#: Encoders of H.264, which browsers play, in order of preference.
_ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox", "h264_mf")
#: What writes where FFmpeg has none of them.
_FALLBACK_ENCODER = "mpeg4"
#: Nearly lossless to the eye; libx264 is twice as fast as by default.
_ENCODING, _OTHER_ENCODING = {"crf": "20", "preset": "veryfast"}, {"b": "8M"}
#: FFmpeg's numbers for the colors of BT.601 in limited range, into which its converter turns RGB.
_BT601, _LIMITED = 6, 1
#: And of a frame that does not say how its colors are coded.
_UNSPECIFIED = 2


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


@dataclasses.dataclass
class _Counts:
    """What was met while reading.

    Attributes:
      coded: frames in the file that are to be shown.
      hidden: others: those that an edit list hides or the camera dropped.
      shown: frames that were decoded.
      errors: coded frames that could not be decoded.
      spoiled: decoded frames that show damage.
      breaks: places where the structure of the file is damaged.
      encrypted: coded frames that are encrypted.
    """

    coded: int = 0
    hidden: int = 0
    shown: int = 0
    errors: int = 0
    spoiled: int = 0
    breaks: int = 0
    encrypted: int = 0


class VideoReader:
    """An open video file. Use as a context manager; it can be read once.

    Frames are turned and mirrored as the file asks for, deinterlaced where they are interlaced, and
    stretched to the shape that a player shows where pixels are not square. All have the size of the first
    one. Reading goes on after damage.

    Attributes:
      declared: number of frames that the container says it holds; 0 if it does not say.
      fps: frames per second, on average.
    """

    def __init__(self, path: epath.Path, threads: int = 0):
        """Opens a file.

        Args:
          path: the video.
          threads: number of decoding threads; 0 for one per core.

        Raises:
          MediaError: it cannot be read, is not a video, or has frames of more than files.MAX_PIXELS pixels.
        """
        self._path, self._state = path, _state(path)
        self._count, self._is_log = _Counts(), False
        with contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context(open_file(path))
                start = file.read(256)
                if not start:
                    raise MediaError(f"{path}: an empty file")
                if start.lstrip().startswith(_PLAYLISTS):
                    raise MediaError(
                        f"{path}: a playlist, which names other files; expected a video"
                    )
                parts = structure.inspect(file)
                self._missing, self._count.breaks = parts.missing, int(parts.is_broken)
                self._bytes = self._missing + file.seek(0, os.SEEK_END)
                file.seek(0)
                # By the open file: FFmpeg would take some names for addresses or numbered series.
                self._container: av.container.InputContainer = av.open(
                    file,
                    "r",
                    format=_raw_format(path, start),
                    options=_OPTIONS,
                    metadata_errors="replace",
                )
                opened.callback(self._container.close)
            except av.FFmpegError:
                if self._missing:
                    end = f"; it ends after {self._share_of_bytes} of its bytes"
                else:
                    what = kinds.described(file)
                    end = f": {what}" if what else ""
                raise MediaError(f"{path}: not a video that FFmpeg can read{end}") from None
            except OSError as error:
                raise unreadable(path, error) from None
            stream = _moving(self._container)
            if stream is None or stream.codec_context is None:
                raise MediaError(f"{path}: holds no video that FFmpeg can decode")
            check_size(stream.codec_context.height, stream.codec_context.width, path)
            track = self._told(file, stream)
            if track.has_own_colors:
                raise MediaError(
                    f"{path}: Dolby Vision without a picture in ordinary colors or HDR10 (profile 5), "
                    "which would look green and purple; convert it into one of them"
                )
            self._crop = track.crop
            self._opened = opened.pop_all()
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        # Or what a stream cuts off on the left would stay, up to an address that suits the processor.
        stream.codec_context.flags |= Flags.unaligned
        self._stream = stream
        # In MP4, an edit list may leave out some of the stored frames, and FFmpeg takes them off its index.
        has_edits = self._container.format.name.startswith("mov") and stream.frames
        self.declared = len(stream.index_entries) if has_edits else stream.frames
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.fps = rate if 0 < rate <= 1000 else FALLBACK_FPS
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
        return max(1, round(duration * self.fps))

    def frames(self, max_fps: float = 0.0) -> Iterator[Frame]:
        """Yields the frames in time order, at most max_fps per second; all of them if that is 0.

        Frames that are left out are not converted, which saves most of their cost.

        Raises:
          MediaError: reading fails, a frame has more than files.MAX_PIXELS pixels, or there is no frame.
        """
        keeps, clock, number, size = Thinner(max_fps), Clock(self.fps), 0, None
        for number, (frame, time) in enumerate(_timed(_deinterlaced(self._decoded()), clock), 1):
            if keeps(time):
                image = self._image(frame)
                size = size or image.shape[1::-1]
                yield Frame(number - 1, time, images.fit(image, size))
        if not number:
            why = ", because it is encrypted" if self._count.encrypted else ""
            raise MediaError(f"{self._path}: holds no frame that can be decoded{why}")

    @property
    def share(self) -> float:
        """How much of the video there is, from 0 to 1, once all frames are read."""
        if self.declared:
            return min(1.0, (self._count.coded + self._count.hidden) / self.declared)
        return 1 - self._missing / self._bytes

    def problem(self) -> str:
        """Returns what was missing or damaged, once all frames are read; empty if nothing was."""
        problems, count = [], self._count
        least = (1 - _MISSING_SHARE) * self.declared - _MISSING_FRAMES
        if count.coded + count.hidden < (self.declared if self._missing else least):
            read = count.shown + count.hidden
            problems.append(f"holds {read} of the {self.declared} frames that it declares")
        elif self._missing and not self.declared:
            problems.append(f"ends after {self._share_of_bytes} of its bytes")
        cut = len(problems)  # the frame at which it breaks off
        if count.errors > cut:
            lost = max(count.errors, count.coded - count.shown) - cut
            problems.append(f"damaged: {lost} of {count.coded} frames cannot be decoded")
        if count.breaks > cut:
            problems.append("the structure of the file is damaged")
        if count.spoiled:
            problems.append(f"{count.spoiled} of {count.coded} frames show damage")
        if self._is_log or _names_log(self._container, self._stream):
            problems.append(
                "log footage, which is pale and is not converted; give it ordinary colors in an editor"
            )
        if _state(self._path) != self._state:
            problems.append("changed while it was read; is it still being recorded or copied?")
        return "; ".join(problems)

    @property
    def _share_of_bytes(self) -> str:
        return f"{1 - self._missing / self._bytes:.1%}"

    def _decoded(self) -> Iterator[VideoFrame]:
        """Yields decoded frames and skips damaged ones."""
        yield from self._attempted()
        if self._threads == 1 or self._count.shown + self._count.errors >= self._count.coded:
            return
        # Several threads swallow frames at the end if one of the last is damaged; one thread does not.
        with VideoReader(self._path, threads=1) as again:
            yield from itertools.islice(again._decoded(), self._count.shown, None)
        self._count = again._count

    def _attempted(self) -> Iterator[VideoFrame]:
        """Yields frames as the decoder gives them; counts what it decodes, spoils and cannot decode."""
        for packet in self._packets():
            try:
                for frame in self._stream.decode(packet):
                    frame.time_base = self._stream.time_base  # PyAV omits it in the last ones
                    self._count.shown += 1
                    self._count.spoiled += frame.is_corrupt
                    yield frame
            except av.FFmpegError:
                self._count.errors += 1

    def _packets(self) -> Iterator[av.Packet | None]:
        """Yields and counts coded frames; goes on after damage to the structure; at the end yields None."""
        damages = 0
        while damages < _DAMAGES:
            try:
                for packet in self._container.demux(self._stream):
                    damages = 0
                    if packet.size:
                        self._count.coded += not packet.is_discard
                        self._count.hidden += packet.is_discard
                        self._count.breaks += packet.is_corrupt
                        self._count.encrypted += packet.has_sidedata("encryption_info")
                        yield packet
                    elif packet.dts is not None:  # a frame that the camera dropped
                        self._count.hidden += 1
                    else:  # PyAV's mark of the end
                        damages = _DAMAGES
            except av.FFmpegError:
                damages += 1
                self._count.breaks += 1
            except OSError as error:
                raise unreadable(self._path, error) from None
        yield None

    def _told(self, file: BinaryIO, stream: av.VideoStream) -> container.Track:
        """Returns what the container says of a stream; leaves the file where FFmpeg has left it."""
        place, name = file.tell(), self._container.format.name
        size = self._bytes - self._missing
        try:
            if name.startswith("mov"):
                return container.of_mp4(file, size, stream.id)
            if name.startswith("matroska"):
                number = self._container.streams.video.index(stream)
                return container.of_matroska(file, size, number)
            return container.Track()
        except OSError as error:
            raise unreadable(self._path, error) from None
        finally:
            file.seek(place)

    def _image(self, frame: VideoFrame) -> np.ndarray:
        """Converts a decoded frame to the picture that a player shows, uint8 [H, W, 3], RGB."""
        aspect = self._stream.sample_aspect_ratio or fractions.Fraction(1)
        if not 1 / _MAX_PIXEL_ASPECT <= aspect <= _MAX_PIXEL_ASPECT:
            aspect = fractions.Fraction(1)
        check_size(frame.height, max(frame.width, round(frame.width * aspect)), self._path)
        image = self._crop(self._colors(frame))
        height, stored = image.shape[:2]
        width = max(1, round(stored * aspect))
        if width != stored:
            method = cv2.INTER_AREA if width < stored else cv2.INTER_LINEAR
            image = cv2.resize(image, (width, height), interpolation=method)
        return np.ascontiguousarray(orientation.of_frame(frame)(image))

    def _colors(self, frame: VideoFrame) -> np.ndarray:
        """Converts the stored pixels of a decoded frame to uint8 [H, W, 3], RGB."""
        is_hdr, is_wide = colors.is_hdr(frame), colors.is_wide(frame)
        matrix = Colorspace.BT2020 if is_hdr and frame.colorspace == _UNSPECIFIED else None
        self._is_log |= colors.is_log(frame)
        try:
            rgb = self._converter.reformat(
                frame,
                format="rgb48le" if is_hdr or is_wide else "rgb24",
                src_colorspace=matrix,
                threads=self._threads,
            )
        except av.FFmpegError as error:
            raise MediaError(
                f"{self._path}: pixel format {frame.format.name} with color matrix {frame.colorspace} "
                f"cannot be read ({error.strerror}); convert it into yuv420p"
            ) from None
        image: np.ndarray = rgb.to_ndarray()
        if is_hdr or is_wide:
            convert = colors.hdr_to_srgb if is_hdr else colors.wide_to_srgb
            image = convert(image, frame.color_trc, frame.color_primaries)
        return image


def problem(path: epath.Path) -> str:
    """Returns why a file is no video, whatever its name says; nothing if it is one."""
    try:
        with VideoReader(path):
            return ""
    except MediaError as error:
        return str(error)


def _raw_format(path: epath.Path, start: bytes) -> str | None:
    """Returns FFmpeg's name of JPEGs one after another, which it takes for a single picture, or for none.

    They are known by the name of the file, or by the headers between them that network cameras send.
    """
    is_series = path.suffix.lower() in (".mjpeg", ".mjpg") and start.startswith(b"\xff\xd8")
    return "mjpeg" if is_series or _MULTIPART.match(start) else None


def _state(path: epath.Path) -> tuple[int, float] | None:
    """Returns the size of a file and the time of its last change; None if there is none now."""
    try:
        found = epath.Path(path).stat()
    except OSError:
        return None
    return found.length, found.mtime


def _names_log(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Returns whether the metadata names the logarithmic scale of a camera, such as S-Log3."""
    told = {**container.metadata, **stream.metadata}
    return any(
        _LOG.search(f"{key}={value}") for key, value in told.items() if key not in _FREE_TEXT
    )


def _moving(container: av.container.InputContainer) -> av.VideoStream | None:
    """Returns the stream that a player shows; a picture of the cover is none."""
    best = container.streams.best("video")
    streams = [stream for stream in (best, *container.streams.video) if stream is not None]
    moving = (s for s in streams if not s.disposition & Disposition.attached_pic)
    return next((s for s in moving if isinstance(s, av.VideoStream)), None)


def _timed(frames: Iterator[VideoFrame], clock: Clock) -> Iterator[tuple[VideoFrame, float]]:
    """Yields frames with their times; one with the stamp of the frame before waits for the next one."""
    waiting, last = None, None
    for frame in frames:
        if waiting is not None:
            yield waiting, clock(waiting.time, frame.time)
        waiting = frame if frame.time == last else None
        last = frame.time
        if waiting is None:
            yield frame, clock(frame.time)
    if waiting is not None:
        yield waiting, clock(waiting.time)


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


@functools.cache
def _encoder() -> str:
    """Returns the encoder that this FFmpeg has; says so once if what it writes is not for browsers."""
    found = next((name for name in _ENCODERS if name in av.codecs_available), "")
    if not found:
        log.warning(
            "videos are written as MPEG-4 Part 2, which browsers do not play, because this build of PyAV "
            "has no encoder for H.264; the one from PyPI has"
        )
    return found or _FALLBACK_ENCODER


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
        codec = _encoder()
        options = _ENCODING if codec == "libx264" else _OTHER_ENCODING
        stream = self._container.add_stream(codec, rate=rate, options=options)
        self._stream = cast(VideoStream, stream)
        self._stream.height, self._stream.width = (side // 2 * 2 for side in size)
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base, context.color_range = _TICK, _LIMITED
        context.colorspace = context.color_primaries = context.color_trc = _BT601

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
