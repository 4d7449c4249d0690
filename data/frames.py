"""The frames of one clip: from a folder of pictures, or a video file, to JPEG bytes.

Enters: the path of a clip. Leaves: its frames in time order, each a JPEG whose short side is at
most a given number of pixels. Everything here runs in worker processes, so that this module
imports OpenCV and NumPy and nothing heavier.
"""

import dataclasses
import hashlib
import itertools
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from etils import epath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".ts", ".mts", ".m2ts", ".ogv", ".gif"),
)

#: Pixels of the largest frame that is decoded, about twice those of an 8K video: 200 MB in memory.
MAX_PIXELS = 1 << 26

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_TAIL_BYTES = 256
#: In so many bytes a picture mostly says how large it is.
_HEAD_BYTES = 4096
#: Text files that FFmpeg takes for videos, and reads the files that they name.
_PLAYLISTS = (b"ffconcat", b"#EXTM3U", b"<?xml", b"<MPD")


class FrameError(ValueError):
    """A clip whose frames cannot be read; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One clip to convert.

    Attributes:
      path: folder of pictures, or video file.
      short_side: short side of a stored frame, in pixels; smaller frames are left as they are.
      jpeg_quality: 1 to 100.
      max_fps: frames per second that a video is thinned to; 0 keeps every frame.
    """

    path: str
    short_side: int
    jpeg_quality: int
    max_fps: float = 0.0


@dataclasses.dataclass(frozen=True)
class Converted:
    """The frames of a clip as JPEG bytes, or the reason why there are none."""

    frames: tuple[bytes, ...] = ()
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a look at a clip found.

    Attributes:
      num_frames: pictures in the folder, or the number of frames that the video declares.
      problem: why the clip cannot be read; empty when it can.
    """

    num_frames: int = 0
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Look:
    """What decoding every frame of a clip found.

    Attributes:
      num_frames: frames that can be read.
      problems: why others cannot, a line each.
      digest: of the bytes of all frames, or of the video file.
      fingerprint: 256 bits for each of four frames, which stay much the same when a clip is scaled or
        compressed again; empty when there is no frame, or one of the four is all of one colour.
    """

    num_frames: int = 0
    problems: tuple[str, ...] = ()
    digest: bytes = b""
    fingerprint: bytes = b""


def natural_key(name: str) -> tuple[str | int, ...]:
    """Returns a key that sorts `2` before `10`: digits compare as numbers, the rest as text."""
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts))


def frame_files(folder: epath.Path) -> list[epath.Path]:
    """Returns the pictures of a folder in time order.

    Names sort by their numbers, so that 1, 2, 10 need no zeros in front. A folder that holds
    nothing but one other folder stands for that one. Hidden files are passed over.

    Raises:
      FrameError: if there are no pictures, or two that carry the same number.
    """
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    pictures = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        folders = [path for path in entries if path.is_dir()]
        if len(folders) == 1:
            return frame_files(folders[0])
        raise FrameError(f"{folder}: holds no frames ({len(entries)} entries, no picture)")
    pictures.sort(key=lambda path: (natural_key(path.stem), path.name))
    for earlier, later in itertools.pairwise(pictures):
        if natural_key(earlier.stem) == natural_key(later.stem):
            raise FrameError(f"{folder}: {earlier.name} and {later.name} are the same frame twice")
    return pictures


@dataclasses.dataclass(frozen=True)
class _JpegHeader:
    """What the markers of a JPEG say."""

    height: int
    width: int
    components: int
    is_baseline: bool  # sequential Huffman coding of 8 bits: every decoder reads it
    has_exif: bool  # may ask to be turned, which not every decoder does
    is_complete: bool  # has an end


def _jpeg_header(data: bytes) -> _JpegHeader | None:
    """Returns what the markers of a JPEG say, or None when it is not one."""
    if not data.startswith(_JPEG_START):
        return None
    position, has_exif, size = 2, False, None
    # As libjpeg does, this passes over bytes between segments that belong to none.
    while 0 <= (position := data.find(b"\xff", position)) <= len(data) - 4:
        marker = data[position + 1]
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD9 or marker == 0x01:  # no segment
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            height, width = (int.from_bytes(body[i : i + 2], "big") for i in (1, 3))
            size = (height, width, body[5], marker == 0xC0 and body[0] == 8)
        has_exif |= marker == 0xE1 and body.startswith(b"Exif")
        position += 2 + length
        if marker == 0xDA:  # the picture itself follows, up to the end marker
            break
    if size is None:
        return None
    # In the coded picture FF is followed by 00 or a restart marker, so FFD9 is the end.
    return _JpegHeader(*size, has_exif=has_exif, is_complete=_JPEG_END in data[position:])


def _is_whole_png(data: bytes) -> bool:
    """Whether each part of a PNG is there, up to the end; OpenCV takes memory for what a part claims."""
    position = len(_PNG_START)
    while position + 12 <= len(data):
        length, name = (
            int.from_bytes(data[position : position + 4], "big"),
            data[position + 4 : position + 8],
        )
        position += 12 + length
        if name == _PNG_END:
            return position <= len(data)
    return False


def _check_size(height: int, width: int, name: object) -> None:
    """Raises FrameError when a frame has more than MAX_PIXELS."""
    if height * width > MAX_PIXELS:
        raise FrameError(
            f"{name}: {width}x{height} pixels; at most {MAX_PIXELS} are read. Make it smaller"
        )


def _check_header(data: bytes, name: object) -> None:
    """Raises FrameError when a JPEG or PNG says that it is too large; of others OpenCV reads 2^30 pixels.

    A small file can claim any size, and decoding it takes memory for all of that.
    """
    if data.startswith(_PNG_START):
        _check_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"), name)
    elif header := _jpeg_header(data):
        _check_size(header.height, header.width, name)


def _decode(data: bytes, name: object) -> np.ndarray:
    """Decodes a picture of any kind to uint8 [H, W, 3], blue first."""
    _check_header(data, name)
    header = _jpeg_header(data)
    # OpenCV decodes the first part of a cut-off picture and fills the rest with grey.
    cut_png = data.startswith(_PNG_START) and not _is_whole_png(data)
    if cut_png or (header is not None and not header.is_complete):
        raise FrameError(f"{name}: the picture is cut off after {len(data)} bytes")
    # A JPEG that does not say its size may be of any.
    is_hopeless = not data or (header is None and data.startswith(_JPEG_START))
    try:
        image = (
            None if is_hopeless else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        )
    except cv2.error:
        image = None
    if image is None:
        raise FrameError(f"{name}: not a readable picture ({len(data)} bytes)")
    return image


def encode(image: np.ndarray, short_side: int, jpeg_quality: int) -> bytes:
    """Returns a picture as JPEG bytes, made smaller where its short side is too long.

    Args:
      image: uint8 [H, W, 3], blue first.
      short_side: short side wanted, in pixels; the sides keep their ratio, nothing is enlarged.
      jpeg_quality: 1 to 100.
    """
    height, width = image.shape[:2]
    if min(height, width) > short_side:
        scale = short_side / min(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    if not done:
        raise FrameError(f"a frame of {width}x{height} pixels cannot be encoded as JPEG")
    return data.tobytes()


def store_picture(data: bytes, name: object, short_side: int, jpeg_quality: int) -> bytes:
    """Returns the JPEG to store for a picture file.

    A baseline JPEG of three channels that is small enough stays as it is, byte for byte, so that
    it loses nothing to a second compression. Everything else is decoded and encoded again.

    Args:
      data: contents of the file.
      name: its name, for messages.
      short_side: short side wanted, in pixels.
      jpeg_quality: 1 to 100.

    Raises:
      FrameError: if it cannot be decoded or is cut off.
    """
    image = _decode(data, name)
    header = _jpeg_header(data)
    is_kept = (
        header is not None
        and header.is_baseline
        and header.components == 3
        and not header.has_exif
        and min(header.height, header.width) <= short_side
    )
    return data if is_kept else encode(image, short_side, jpeg_quality)


def _open_video(path: epath.Path) -> cv2.VideoCapture:
    with path.open("rb") as file:
        if file.read(_TAIL_BYTES).lstrip().startswith(_PLAYLISTS):
            raise FrameError(f"{path}: a playlist, which names other files; a video is meant")
    # FFmpeg by name: OpenCV would take a `%` in the file name for a numbered series of pictures.
    video = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not video.isOpened():
        raise FrameError(f"{path}: OpenCV cannot open this video")
    height, width = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
    _check_size(int(video.get(height)), int(video.get(width)), path)
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # turn frames the way the file asks for
    return video


def _declared_frames(video: cv2.VideoCapture) -> int:
    count = video.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(count) if math.isfinite(count) and count > 0 else 0


def video_frames(path: epath.Path, max_fps: float = 0.0) -> Iterator[np.ndarray]:
    """Yields the frames of a video, uint8 [H, W, 3], blue first, upright.

    Args:
      path: the video file.
      max_fps: frames per second to thin to, by the file's mean frame rate; 0 keeps all.

    Raises:
      FrameError: if the file cannot be opened, has no frame, or ends before half of the frames
        that it declares (their number is often off by a few, so that less is no proof).
    """
    video = _open_video(path)
    try:
        fps, declared = video.get(cv2.CAP_PROP_FPS), _declared_frames(video)
        ratio = max_fps / fps if max_fps > 0 and math.isfinite(fps) and fps > max_fps else 1.0
        count = 0
        while True:
            is_read, image = video.read()
            if not is_read:
                break
            if count == 0 or int(count * ratio) > int((count - 1) * ratio):
                yield image
            count += 1
    finally:
        video.release()
    if count == 0:
        raise FrameError(f"{path}: the video has no readable frame")
    if count < declared / 2:
        raise FrameError(f"{path}: the video breaks off at frame {count} of {declared}")


def _check_picture(path: epath.Path) -> None:
    """Raises FrameError when a picture is plainly broken or too large; reads its two ends only."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
    _check_header(head, path)
    looks_whole = (head.startswith(_JPEG_START) and _JPEG_END in tail) or (
        head.startswith(_PNG_START) and _PNG_END in tail
    )
    if not looks_whole:
        _decode(path.read_bytes(), path)


def _check_inside(path: epath.Path, root: str) -> None:
    """Raises FrameError when a path leads out of a folder by a link, unless that is empty."""
    if root and not epath.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise FrameError(f"{path}: a link that leads out of {root}; put the clip itself there")


def _files(clip: epath.Path, root: str) -> list[epath.Path]:
    """Returns the pictures of a clip, or the one video.

    Raises:
      FrameError: if there is none, a link leads out of the root, or one is no file, but a pipe, say.
    """
    _check_inside(clip, root)
    files = frame_files(clip) if clip.is_dir() else [clip]
    _check_inside(files[0].parent, root)
    for file in files:
        local = pathlib.Path(file)
        if local.is_symlink():
            _check_inside(file, root)
        if local.exists() and not local.is_file():
            raise FrameError(f"{file}: not a file")
    return files


def probe(path: str, root: str = "") -> Probe:
    """Looks at a clip without decoding all of it: is every frame there and whole?

    Of pictures the first and last bytes are read, of a video the header and the first frame.

    Args:
      path: folder of pictures, or video file.
      root: folder out of which no link may lead; empty to follow every link.
    """
    clip = epath.Path(path)
    try:
        files = _files(clip, root)
        if clip.is_dir():
            for file in files:
                _check_picture(file)
            return Probe(num_frames=len(files))
        video = _open_video(clip)
        declared = _declared_frames(video)
        is_read, _ = video.read()
        video.release()
        if not is_read:
            raise FrameError(f"{clip}: the video has no readable frame")
        return Probe(num_frames=max(declared, 1))
    except (FrameError, OSError) as error:
        return Probe(problem=str(error))


#: Frames of a clip that are in its fingerprint.
_PRINTED = 4
FINGERPRINT_BYTES = 32 * _PRINTED
#: Deviation of grey values below which a picture is all of one colour.
_FLAT = 4.0


def look(path: str, root: str = "") -> Look:
    """Decodes every frame of a clip; arguments as of `probe`."""
    clip = epath.Path(path)
    try:
        files = _files(clip, root)
        if clip.is_dir():
            return look_at((file, file.read_bytes()) for file in files)
        thumbnails, problems = [], []
        try:
            for image in video_frames(clip):
                thumbnails.append(_thumbnail(image))
        except FrameError as error:
            problems.append(str(error))
        with clip.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        return Look(len(thumbnails), tuple(problems), digest, _fingerprint(thumbnails))
    except (FrameError, OSError) as error:
        return Look(problems=(str(error),))


def look_at(pictures: Iterable[tuple[object, bytes]]) -> Look:
    """Decodes every picture of a clip.

    Args:
      pictures: name, for messages, and contents of each, in time order.
    """
    thumbnails, problems, digest = [], [], hashlib.sha256()
    for name, data in pictures:
        digest.update(data)
        try:
            thumbnails.append(_thumbnail(_decode(data, name)))
        except FrameError as error:
            problems.append(str(error))
    if not thumbnails and not problems:
        problems.append("it has no frames")
    return Look(len(thumbnails), tuple(problems), digest.digest(), _fingerprint(thumbnails))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Grey values of a picture, uint8 [16, 17]."""
    return cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (17, 16), interpolation=cv2.INTER_AREA
    )


def _fingerprint(thumbnails: Sequence[np.ndarray]) -> bytes:
    """Whether each grey value is below its right neighbour's (difference hash), in four frames."""
    if not thumbnails:
        return b""
    chosen = [thumbnails[(2 * i + 1) * len(thumbnails) // (2 * _PRINTED)] for i in range(_PRINTED)]
    if min(float(thumbnail.std()) for thumbnail in chosen) < _FLAT:
        return b""
    return b"".join(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes() for grey in chosen)


def convert(job: Job) -> Converted:
    """Reads a clip and returns its frames as JPEG bytes, in time order."""
    clip = epath.Path(job.path)
    try:
        if clip.is_dir():
            jpegs = [
                store_picture(file.read_bytes(), file, job.short_side, job.jpeg_quality)
                for file in frame_files(clip)
            ]
        else:
            jpegs = [
                encode(image, job.short_side, job.jpeg_quality)
                for image in video_frames(clip, job.max_fps)
            ]
    except (FrameError, OSError) as error:
        return Converted(problem=str(error))
    return Converted(frames=tuple(jpegs))
