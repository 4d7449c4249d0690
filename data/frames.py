"""The frames of one clip: from a folder of pictures, or a video file, to JPEG bytes.

Enters: the path of a clip. Leaves: its frames in time order, each a JPEG whose short side is at
most a given number of pixels. Everything here runs in worker processes, so it imports nothing heavier than
OpenCV, PyAV and NumPy.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import cv2
import numpy as np
from etils import epath

from rdfer_jax.faces.cut import Cut
from rdfer_jax.faces.tracks import Finder, track
from rdfer_jax.media import images
from rdfer_jax.media.files import (
    IMAGE_SUFFIXES,
    MediaError,
    check_is_file,
    in_time_order,
    printable,
)
from rdfer_jax.media.folders import is_housekeeping
from rdfer_jax.media.video import FALLBACK_FPS, Frame, VideoReader

Result = TypeVar("Result")
Item = TypeVar("Item")

#: Videos of which less is there are not stored.
_LEAST_SHARE = 0.5
#: What the problem of a clip is called in which no face was found.
NO_FACE = "no face was found"


@dataclasses.dataclass(frozen=True)
class Job:
    """One clip to convert.

    Attributes:
      path: folder of pictures, or video file.
      short_side: short side of a stored frame, in pixels; smaller frames are left as they are.
      jpeg_quality: 1 to 100.
      max_fps: frames per second that a video is thinned to; 0 keeps every frame.
      cut: how to cut out the largest face, to a square of short_side pixels; None to store whole frames.
    """

    path: str
    short_side: int
    jpeg_quality: int
    max_fps: float = 0.0
    cut: Cut | None = None


@dataclasses.dataclass(frozen=True)
class Converted:
    """The frames of a clip as JPEG bytes, or the reason why there are none.

    Attributes:
      frames: JPEG files, in time order.
      problem: why the clip cannot be stored, NO_FACE if a face is to be cut out and there is none; empty if
        it can.
      damage: what is missing or damaged in a clip that can be stored; empty if nothing is.
      faces: number of faces, if one is to be cut out.
      without: number of frames that are left out because they do not show the face.
    """

    frames: tuple[bytes, ...] = ()
    problem: str = ""
    damage: str = ""
    faces: int = 0
    without: int = 0


@dataclasses.dataclass(frozen=True)
class Probe:
    """The result of a quick check of a clip.

    Attributes:
      num_frames: number of pictures in the folder, or about how many frames the video has.
      problem: why the clip cannot be read; empty if it can.
    """

    num_frames: int = 0
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The result of decoding every frame of a clip.

    Attributes:
      num_frames: number of frames that can be decoded.
      problems: why others cannot, a line each.
      digest: SHA-256 of the bytes of all frames, or of the video file.
      fingerprint: 256 bits for each of four frames, which hardly change when a clip is scaled or
        compressed again; empty if there is no frame, or one of the four is a single color.
    """

    num_frames: int = 0
    problems: tuple[str, ...] = ()
    digest: bytes = b""
    fingerprint: bytes = b""


def frame_files(folder: epath.Path) -> list[epath.Path]:
    """Returns the pictures of a folder in time order.

    A folder that holds only another folder stands for that one. Hidden files are skipped.

    Raises:
      MediaError: there are no pictures, or their order is not clear; see in_time_order.
    """
    entries = [path for path in folder.iterdir() if not is_housekeeping(path.name)]
    pictures = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        folders = [path for path in entries if path.is_dir()]
        if len(folders) == 1:
            return frame_files(folders[0])
        entry = f", such as {min(path.name for path in entries)}" if entries else ""
        raise MediaError(f"{folder}: holds no frames ({len(entries)} entries{entry}, no picture)")
    return in_time_order(pictures)


def store_picture(data: bytes, name: object, short_side: int, jpeg_quality: int) -> bytes:
    """Returns the JPEG to store for a picture file.

    A baseline JPEG of three channels that is small enough keeps its bytes, so that it loses nothing to a
    second compression. Everything else is decoded and encoded again.

    Args:
      data: contents of the file.
      name: what errors call it.
      short_side: longest short side, pixels; smaller pictures are not enlarged.
      jpeg_quality: 1 to 100.

    Raises:
      MediaError: see images.decode.
    """
    image = images.decode(data, name)
    header = images.read_header(io.BytesIO(data), name)
    if header.is_plain_jpeg and min(header.height, header.width) <= short_side:
        return data
    return store_frame(image, short_side, jpeg_quality)


def store_frame(image: np.ndarray, short_side: int, jpeg_quality: int) -> bytes:
    """Returns the JPEG to store for a frame, uint8 [H, W, 3] in RGB; arguments as of store_picture."""
    return images.encode_jpeg(images.shrink(image, short_side), jpeg_quality)


def read_video(
    path: epath.Path, use: Callable[[Frame], Result], max_fps: float = 0.0
) -> tuple[list[Result], str, float]:
    """Applies a function to the frames of a video.

    Args:
      path: the video.
      use: takes a frame.
      max_fps: frames per second that the video is thinned to; 0 keeps every frame.

    Returns:
      What the function returned for each frame; what is missing or damaged, empty if nothing is; and how
      much of the video there is, from 0 to 1.

    Raises:
      MediaError: it cannot be read, or has no frame.
    """
    with VideoReader(path, threads=1) as reader:
        results = [use(frame) for frame in reader.frames(max_fps)]
        return results, reader.problem(), reader.share


def _check_picture(path: epath.Path) -> None:
    """Raises MediaError for a picture that is damaged or too large; mostly reads its two ends only."""
    with path.open("rb") as file:
        is_whole = images.looks_whole(file, images.read_header(file, path))
    if not is_whole:
        images.decode(path.read_bytes(), path)


def _check_inside(path: epath.Path, root: str) -> None:
    """Raises MediaError when a link leads a path out of a folder, unless that is empty."""
    if root and not epath.Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise MediaError(f"{path}: a link that leads out of {root}; put the clip itself there")


def _files(clip: epath.Path, root: str) -> list[epath.Path]:
    """Returns the pictures of a clip, or the one video.

    Raises:
      MediaError: there is none, a link leads out of the root, or one is not a regular file.
    """
    _check_inside(clip, root)
    files = frame_files(clip) if clip.is_dir() else [clip]
    _check_inside(files[0].parent, root)
    for file in files:
        if pathlib.Path(file).is_symlink():
            _check_inside(file, root)
        check_is_file(file)
    return files


def probe(path: str, root: str = "") -> Probe:
    """Checks a clip without decoding all of it: is every frame there and complete?

    Reads the first and last bytes of pictures, and the header and first frame of a video.

    Args:
      path: folder of pictures, or video file.
      root: folder that no link may lead out of; empty to follow every link.
    """
    clip = epath.Path(path)
    try:
        files = _files(clip, root)
        if clip.is_dir():
            for file in files:
                _check_picture(file)
            return Probe(num_frames=len(files))
        with VideoReader(clip, threads=1) as reader:
            next(reader.frames())
            return Probe(num_frames=reader.expected)
    except (MediaError, OSError) as error:
        return Probe(problem=str(error))


#: Most frames of a clip in which its faces are measured, and of a video, how many in a second.
_MEASURED, _MEASURED_FPS = 6, 2.0


def face_size(path: str, cut: Cut) -> float:
    """Returns how much of the picture the largest face of a clip fills.

    Args:
      path: folder of pictures, or video file.
      cut: how faces are found.

    Returns:
      The area of its box as a share of the picture's: the median over some frames that show a face, from
      the beginning of a video; 0 if none does.
    """
    clip, detect, shares = epath.Path(path), _detector(cut), []
    try:
        if clip.is_dir():
            files = frame_files(clip)
            files = files[:: -(-len(files) // _MEASURED)]
            pictures = [images.decode(file.read_bytes(), file) for file in files]
        else:
            with VideoReader(clip, threads=1) as reader:
                frames = itertools.islice(reader.frames(_MEASURED_FPS), _MEASURED)
                pictures = [frame.image for frame in frames]
    except (MediaError, OSError):  # the conversion says what is wrong
        return 0.0
    for picture in pictures:
        if found := detect(picture):
            areas = [face.box.width * face.box.height for face in found]
            shares.append(max(areas) / np.prod(picture.shape[:2]))
    return float(np.median(shares)) if shares else 0.0


#: Number of frames of a clip that its fingerprint covers.
_PRINTED = 4
FINGERPRINT_BYTES = 32 * _PRINTED
#: A picture whose gray values deviate less than this is a single color.
_FLAT = 4.0
#: A gray value is clearly below its neighbor if it is so by this much, and by this share of the picture's
#: standard deviation. Smaller differences are those that another compression changes.
_CLEAR, _CLEAR_SHARE = 3.0, 0.1


def inspect(path: str, root: str = "") -> Inspection:
    """Decodes every frame of a clip; arguments as of probe."""
    clip = epath.Path(path)
    try:
        files = _files(clip, root)
        if clip.is_dir():
            return inspect_pictures((file, file.read_bytes()) for file in files)
        thumbnails, damage, _ = read_video(clip, lambda frame: _thumbnail(frame.image))
        with clip.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        problems = (f"{clip}: {damage}",) if damage else ()
        return Inspection(len(thumbnails), problems, digest, _fingerprint(thumbnails))
    except (MediaError, OSError) as error:
        return Inspection(problems=(str(error),))


def inspect_pictures(pictures: Iterable[tuple[object, bytes]]) -> Inspection:
    """Decodes every picture of a clip.

    Args:
      pictures: for each picture its name, for messages, and its bytes; in time order.
    """
    thumbnails, problems, digest = [], [], hashlib.sha256()
    for name, data in pictures:
        digest.update(data)
        try:
            thumbnails.append(_thumbnail(images.decode(data, name)))
        except MediaError as error:
            problems.append(str(error))
    if not thumbnails and not problems:
        problems.append("it has no frames")
    return Inspection(len(thumbnails), tuple(problems), digest.digest(), _fingerprint(thumbnails))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Returns the gray values of a picture at a small size, uint8 [16, 17]."""
    return cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (17, 16), interpolation=cv2.INTER_AREA
    )


def _fingerprint(thumbnails: Sequence[np.ndarray]) -> bytes:
    """Returns for four frames whether each gray value is clearly below its right neighbor (dHash)."""
    if not thumbnails:
        return b""
    chosen = [thumbnails[(2 * i + 1) * len(thumbnails) // (2 * _PRINTED)] for i in range(_PRINTED)]
    if min(float(thumbnail.std()) for thumbnail in chosen) < _FLAT:
        return b""
    prints = []
    for gray in chosen:
        clear = max(_CLEAR, _CLEAR_SHARE * float(gray.std()))
        prints.append(np.packbits(np.diff(gray.astype(np.float32), axis=1) > clear).tobytes())
    return b"".join(prints)


#: Height of the frames of a film strip, and the width of the widest; between them, pixels.
_STRIP_HEIGHT, _STRIP_WIDTH, _STRIP_GAP = 108, 216, 3
_STRIP_QUALITY = 80


def film_strip(path: str, num_frames: int) -> bytes:
    """Returns the first, the middle and the last frame of a clip side by side, as a JPEG.

    Args:
      path: folder of pictures, or video file.
      num_frames: number of frames that can be decoded, see Inspection.

    Returns:
      The JPEG; empty if no frame can be read.
    """
    clip = epath.Path(path)
    try:
        if clip.is_dir():
            return picture_strip([(file, file.read_bytes()) for file in _ends(frame_files(clip))])
        chosen = set(_ends(range(num_frames)))
        images_ = read_video(
            clip, lambda frame: _small(frame.image) if frame.number in chosen else None
        )
        return _side_by_side([image for image in images_[0] if image is not None])
    except (MediaError, OSError):  # what cannot be read has been said by `inspect`
        return b""


def picture_strip(pictures: Sequence[tuple[object, bytes]]) -> bytes:
    """Does the same for pictures, given as in inspect_pictures; those that are unreadable are left out."""
    shown = []
    for name, data in _ends(pictures):
        with contextlib.suppress(MediaError):
            shown.append(_small(images.decode(data, name)))
    return _side_by_side(shown)


def _ends(items: Sequence[Item]) -> list[Item]:
    """Returns the first, the middle and the last item, each once."""
    places = dict.fromkeys((0, (len(items) - 1) // 2, len(items) - 1))
    return [items[i] for i in places] if items else []


def _small(image: np.ndarray) -> np.ndarray:
    """Returns a frame of a film strip."""
    height, width = image.shape[:2]
    wide = min(max(round(_STRIP_HEIGHT * width / height), _STRIP_HEIGHT // 4), _STRIP_WIDTH)
    return images.fit(image, (wide, _STRIP_HEIGHT))


def _side_by_side(pictures: Sequence[np.ndarray]) -> bytes:
    if not pictures:
        return b""
    gap = np.full((_STRIP_HEIGHT, _STRIP_GAP, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    return images.encode_jpeg(np.concatenate(parts, axis=1), _STRIP_QUALITY)


def convert(job: Job) -> Converted:
    """Reads a clip and returns its frames as JPEG bytes, in time order.

    A video of which less than half is there is a problem.
    """
    clip = epath.Path(job.path)
    try:
        result, share = _cut_face(clip, job, job.cut) if job.cut else _store_whole(clip, job)
    except (MediaError, OSError) as error:
        return Converted(problem=printable(error))
    if share < _LEAST_SHARE:
        return Converted(problem=f"{printable(clip)}: {result.damage}")
    return result


def _store_whole(clip: epath.Path, job: Job) -> tuple[Converted, float]:
    """Returns whole frames, and how much of the clip there is."""
    if clip.is_dir():
        jpegs = [
            store_picture(file.read_bytes(), file, job.short_side, job.jpeg_quality)
            for file in frame_files(clip)
        ]
        return Converted(tuple(jpegs)), 1.0
    jpegs, damage, share = read_video(
        clip, lambda frame: store_frame(frame.image, job.short_side, job.jpeg_quality), job.max_fps
    )
    return Converted(tuple(jpegs), damage=damage), share


def _cut_face(clip: epath.Path, job: Job, cut: Cut) -> tuple[Converted, float]:
    """Returns the largest face in each frame, and how much of the clip there is.

    Reads the clip twice, as prediction does: first to find the faces, then to cut out one.
    """
    find = Finder(_detector(cut))
    seen, damage, share = _read(
        clip, lambda frame: (find(frame.image, frame.time), frame.time), job.max_fps
    )
    tracks = track([found for found, _ in seen], [time for _, time in seen])
    if not tracks:
        return Converted(problem=NO_FACE, damage=damage), share
    face, places = tracks[0], itertools.count()

    def cut_out(frame: Frame) -> bytes | None:
        place = next(places)
        if not face.present[place]:
            return None
        image = cut.crop(frame.image, face, place, job.short_side)
        return images.encode_jpeg(image, job.jpeg_quality)

    jpegs = _read(clip, cut_out, job.max_fps)[0]
    kept = tuple(jpeg for jpeg in jpegs if jpeg is not None)
    without = len(jpegs) - len(kept)
    return Converted(kept, damage=damage, faces=len(tracks), without=without), share


#: Created once in each process.
_detector = functools.cache(Cut.create_detector)


def _read(
    clip: epath.Path, use: Callable[[Frame], Result], max_fps: float
) -> tuple[list[Result], str, float]:
    """Does what read_video does; pictures of a folder follow at FALLBACK_FPS, in the size of the first."""
    if not clip.is_dir():
        return read_video(clip, use, max_fps)
    results, size = [], None
    for number, file in enumerate(frame_files(clip)):
        image = images.decode(file.read_bytes(), file)
        size = size or image.shape[1::-1]
        results.append(use(Frame(number, number / FALLBACK_FPS, images.fit(image, size))))
    return results, "", 1.0
