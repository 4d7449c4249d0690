"""What a container says of a video, and FFmpeg's Python interface does not.

What to cut off at the edges: `clap` of MP4, PixelCrop of Matroska. Whether it is Dolby Vision that needs a
decoder of its own: the configuration record `dvcC` or `dvvC` in both.
"""

import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import numpy as np

from rdfer_jax.media.structure import CLUSTER, SEGMENT, number

_TRACKS, _TRACK, _TYPE, _VIDEO = 0x1654AE6B, 0xAE, 0x83, 0xE0
_ADDITION, _ADDITION_TYPE, _ADDITION_DATA = 0x41E4, 0x41E7, 0x41ED
#: Elements of Matroska, in the order of Crop.
_PIXEL_CROPS = (0x54BB, 0x54AA, 0x54CC, 0x54DD)
_DOLBY_VISION = (b"dvcC", b"dvvC")
#: Profiles of Dolby Vision that may have only its own colors; the first one always has.
_OWN_COLORS = (5, 10, 20)
#: Bytes of a sample entry of MP4 before the boxes inside, and where its width and height are.
_ENTRY, _SIZES = 78, slice(24, 28)


class Crop(NamedTuple):
    """Pixels to cut off, of the stored picture."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns uint8 [H, W, 3] without them; the whole if nothing would be left."""
        height, width = image.shape[:2]
        is_valid = min(self) >= 0 and self.top + self.bottom < height
        if not is_valid or self.left + self.right >= width:
            return image
        return image[self.top : height - self.bottom, self.left : width - self.right]


class Track(NamedTuple):
    """What a container says of a video.

    Attributes:
      crop: what to cut off.
      has_own_colors: whether it is Dolby Vision without a picture in the colors of other videos.
    """

    crop: Crop = Crop()
    has_own_colors: bool = False


class _Part(NamedTuple):
    """A box or an element: its type, and where its content begins and ends."""

    kind: bytes | int
    start: int
    end: int


def of_mp4(file: BinaryIO, size: int, track: int) -> Track:
    """Returns what an MP4 file says of a track, by the number of the track.

    Args:
      file: the file; where it is in it changes.
      size: of the file, bytes.
      track: number of the track.
    """
    for movie in _named(_boxes(file, 0, size), b"moov"):
        for part in _named(_boxes(file, movie.start, movie.end), b"trak"):
            if _track_number(file, part) == track:
                return _of_entry(file, part)
    return Track()


def of_matroska(file: BinaryIO, size: int, place: int) -> Track:
    """Returns what a Matroska file says of a video track, by its place among them; else as of_mp4."""
    for segment in _named(_elements(file, 0, size), SEGMENT):
        for tracks in _named(_elements(file, segment.start, segment.end), _TRACKS):
            parts = _named(_elements(file, tracks.start, tracks.end), _TRACK)
            videos = [part for part in parts if _value(file, part, _TYPE) == 1]
            for video in videos[place : place + 1]:
                inside = list(_elements(file, video.start, video.end))
                crop = next(
                    (
                        Crop(*(_value(file, part, kind) for kind in _PIXEL_CROPS))
                        for part in inside
                        if part.kind == _VIDEO
                    ),
                    Crop(),
                )
                return Track(crop, _has_own_colors(_dolby_vision(file, inside)))
    return Track()


def _named(parts: Iterator[_Part], kind: bytes | int) -> Iterator[_Part]:
    return (part for part in parts if part.kind == kind)


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[_Part]:
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        length, first = int.from_bytes(head[:4], "big"), 8
        if length == 1 and len(head) == 16:
            (length,), first = struct.unpack(">Q", head[8:]), 16
        length = length or end - start
        if length < first:
            return
        yield _Part(head[4:8], start + first, min(start + length, end))
        start += length


def _inside(file: BinaryIO, part: _Part, *names: bytes) -> _Part | None:
    """Returns the first box of these names, each inside of the one before."""
    for name in names:
        found = next(_named(_boxes(file, part.start, part.end), name), None)
        if found is None:
            return None
        part = found
    return part


def _content(file: BinaryIO, part: _Part, most: int = 256) -> bytes:
    file.seek(part.start)
    return file.read(min(most, part.end - part.start))


def _track_number(file: BinaryIO, track: _Part) -> int:
    header = _inside(file, track, b"tkhd")
    data = _content(file, header) if header else b""
    place = 20 if data[:1] == b"\1" else 12
    return int.from_bytes(data[place : place + 4], "big")


def _of_entry(file: BinaryIO, track: _Part) -> Track:
    """Returns what the description of a track's samples says."""
    table = _inside(file, track, b"mdia", b"minf", b"stbl", b"stsd")
    entry = next(_boxes(file, table.start + 8, table.end), None) if table else None
    if not entry:
        return Track()
    sizes = _content(file, entry)[_SIZES]
    boxes = {box.kind: box for box in _boxes(file, entry.start + _ENTRY, entry.end)}
    clap = _content(file, boxes[b"clap"]) if b"clap" in boxes else b""
    dolby = next((_content(file, boxes[kind]) for kind in _DOLBY_VISION if kind in boxes), b"")
    return Track(_clap(clap, sizes), _has_own_colors(dolby))


def _clap(clap: bytes, sizes: bytes) -> Crop:
    """Returns the clean aperture of a track: a size, and how far its middle is from that of the picture."""
    if len(sizes) < 4 or len(clap) < 32:
        return Crop()
    numbers = struct.unpack(">8i", clap[:32])
    if min(numbers[1::2]) <= 0:
        return Crop()
    width, height, right, down = map(Fraction, numbers[::2], numbers[1::2])
    full_width, full_height = struct.unpack(">2H", sizes)
    left, top = (full_width - width) / 2 + right, (full_height - height) / 2 + down
    edges = (top, full_height - height - top, left, full_width - width - left)
    return Crop(*map(round, edges))


def _has_own_colors(record: bytes) -> bool:
    """Returns what a configuration record of Dolby Vision says.

    Its profile is seven bits after the version; four bits later on say with what else it is compatible.
    """
    if len(record) < 5:
        return False
    profile = record[2] >> 1
    return profile == _OWN_COLORS[0] or (profile in _OWN_COLORS and not record[4] >> 4)


def _dolby_vision(file: BinaryIO, inside: Sequence[_Part]) -> bytes:
    """Returns the configuration record in a track of Matroska; empty if there is none."""
    for addition in _named(iter(inside), _ADDITION):
        kind = _value(file, addition, _ADDITION_TYPE).to_bytes(8, "big")[4:]
        records = _named(_elements(file, addition.start, addition.end), _ADDITION_DATA)
        if kind in _DOLBY_VISION:
            return next((_content(file, part) for part in records), b"")
    return b""


def _elements(file: BinaryIO, start: int, end: int) -> Iterator[_Part]:
    """Yields the elements of Matroska up to the first cluster."""
    while start < end:
        file.seek(start)
        head = file.read(12)
        kind, after_kind = number(head, keeps_marker=True)
        length, after = number(head[after_kind:])
        if kind in (-1, CLUSTER):
            return
        start += after_kind + after
        stop = end if length < 0 else min(start + length, end)
        yield _Part(kind, start, stop)
        start = stop


def _value(file: BinaryIO, part: _Part, kind: int) -> int:
    """Returns a number inside of an element; 0 if it is not there."""
    found = next(_named(_elements(file, part.start, part.end), kind), None)
    return int.from_bytes(_content(file, found, 8), "big") if found else 0
