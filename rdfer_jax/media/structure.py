"""Is a video file complete and in order? By the sizes that its own parts state, without decoding it.

MP4 and MOV consist of boxes, Matroska and WebM of elements; each begins with its size. A download or a copy
that broke off ends inside of one of them. FFmpeg passes over damage between elements without a word.
"""

import io
import struct
from typing import BinaryIO, NamedTuple

#: Types of the boxes that MP4 and MOV files begin with.
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof")
#: Types of the boxes that list frames: of a whole file, and of a fragment.
_INDEXES = (b"moov", b"moof")
_EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
#: Elements of Matroska: at the top, in a segment, and in a cluster.
_ELEMENTS = frozenset(
    (
        *(_EBML, SEGMENT, CLUSTER, 0xEC, 0xBF),
        *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
        *(0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0x5854, 0xAF),
    )
)


class Structure(NamedTuple):
    """What the parts of a file say.

    Attributes:
      missing: number of bytes that are missing at its end; 0 if it is complete, or does not say.
      is_broken: whether there is something else where a part should begin.
      lacks_index: whether it is an MP4 file without the part that lists its frames.
    """

    missing: int = 0
    is_broken: bool = False
    lacks_index: bool = False


def inspect(file: BinaryIO) -> Structure:
    """Reads the sizes of the parts of a video file; of other formats than the above it says nothing."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(8)
    if head[4:] in _FIRST_BOXES:
        return _walk_boxes(file, size)
    if int.from_bytes(head[:4], "big") == _EBML:
        return _walk_elements(file, size)
    return Structure()


def _walk_boxes(file: BinaryIO, size: int) -> Structure:
    """Goes through the boxes of an MP4 file."""
    place, lacks_index = 0, True
    while place < size:
        file.seek(place)
        head = file.read(16)
        lacks_index &= head[4:8] not in _INDEXES
        length = int.from_bytes(head[:4], "big")
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack(">Q", head[8:])
        if length == 0:  # up to the end of the file; or zeros behind the last box
            return Structure(lacks_index=lacks_index)
        if length < 8 or not head[4:8].isalnum():
            return Structure(is_broken=True, lacks_index=lacks_index)
        place += length
    return Structure(place - size, lacks_index=lacks_index)


def _walk_elements(file: BinaryIO, size: int) -> Structure:
    """Goes through the elements of a Matroska file; the segment says where all of them end, or nothing."""
    place, end = 0, 0
    while place < size:
        file.seek(place)
        head = file.read(12)
        name, after_name = number(head, keeps_marker=True)
        length, after = number(head[after_name:])
        if name not in _ELEMENTS:
            return Structure(max(0, end - size), is_broken=True)
        place += after_name + after
        if name == SEGMENT and length >= 0:
            end = place + length
        elif name not in (SEGMENT, CLUSTER):  # of these, the elements inside come next
            place += max(0, length)
    return Structure(max(0, end - size), is_broken=place > max(end, size))


def number(data: bytes, keeps_marker: bool = False) -> tuple[int, int]:
    """Returns a number as Matroska stores it, -1 for an unknown one, and how many bytes it takes."""
    if not data or not data[0]:
        return -1, 1
    width = 9 - data[0].bit_length()
    value = int.from_bytes(data[:width], "big")
    if keeps_marker:
        return value, width
    most = (1 << 7 * width) - 1
    return (-1 if value & most == most else value & most), width
