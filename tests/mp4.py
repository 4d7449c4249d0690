"""Changes what an .mp4 file says of its frames, as cameras and phones would have written it."""

import pathlib
import struct

_UPRIGHT = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_TURNED = struct.pack(">9I", 0, 0x10000, 0, 0xFFFF0000, 0, 0, 0, 0, 0x40000000)
_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def turn(path: pathlib.Path) -> None:
    """Marks a video as to be shown turned by 90 degrees clockwise, by the matrix of its track header."""
    data = path.read_bytes()
    start = data.index(_UPRIGHT, data.index(b"tkhd"))
    path.write_bytes(data[:start] + _TURNED + data[start + len(_TURNED) :])


def hesitate(path: pathlib.Path, first: int, factor: int) -> None:
    """Makes every frame from the `first` one on last `factor` times as long: a variable frame rate."""
    data = bytearray(path.read_bytes())
    assert data.index(b"mdat") < data.index(b"moov"), "offsets into mdat must stay right"
    place = data.index(b"stts")
    _, entries, count, delta = struct.unpack(">4I", data[place + 4 : place + 20])
    assert entries == 1
    table = struct.pack(">6I", 0, 2, first, delta, count - first, delta * factor)
    data[place + 4 : place + 20] = table
    for name in (*_PARENTS, b"stts"):
        size_at = data.index(name) - 4
        (size,) = struct.unpack(">I", data[size_at : size_at + 4])
        data[size_at : size_at + 4] = struct.pack(">I", size + 8)
    data[(edits := data.index(b"edts")) : edits + 4] = b"free"  # it would end where it ended before
    path.write_bytes(data)


def begin_at(path: pathlib.Path, seconds: float, timescale: int = 12_800) -> None:
    """Moves the start of the one edit of a video, as a phone does when its owner trims the beginning."""
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    duration, start = struct.unpack_from(
        ">Ii", data, place
    )  # in thousandths, in ticks of the track
    struct.pack_into(
        ">Ii", data, place, duration - round(1000 * seconds), start + round(seconds * timescale)
    )
    path.write_bytes(data)


def crop(path: pathlib.Path, size: tuple[int, int], offset: tuple[int, int] = (0, 0)) -> None:
    """Marks a part of an H.264 video as its clean aperture: its size, and how far from the middle."""
    numbers = (size[0], 1, size[1], 1, offset[0], 1, offset[1], 1)
    _describe(path, struct.pack(">I4s8i", 40, b"clap", *numbers))


def dolby_vision(path: pathlib.Path, profile: int, compatible_with: int) -> None:
    """Marks an H.264 video as Dolby Vision, by a configuration record of 24 bytes."""
    record = bytes((1, 0, profile << 1, 0b00110101, compatible_with << 4)) + bytes(19)
    _describe(path, struct.pack(">I4s", 8 + len(record), b"dvcC") + record)


def _describe(path: pathlib.Path, box: bytes) -> None:
    """Adds a box to the description of an H.264 video."""
    data = bytearray(path.read_bytes())
    assert data.index(b"mdat") < data.index(b"moov"), "offsets into mdat must stay right"
    entry = data.index(b"avc1", data.index(b"stsd")) - 4
    end = entry + struct.unpack_from(">I", data, entry)[0]
    data[end:end] = box
    for name in (*_PARENTS, b"stsd", b"avc1"):
        place = entry if name == b"avc1" else data.index(name) - 4
        struct.pack_into(">I", data, place, struct.unpack_from(">I", data, place)[0] + len(box))
    path.write_bytes(data)
