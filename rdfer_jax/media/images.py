"""Images: headers, checks, decoding, encoding.

Every decoder can be made to allocate memory for whatever size a small file claims to have, and OpenCV fills
the missing part of a truncated image with gray. Therefore headers are read first, with Pillow, and decoding
begins only for images that are small enough and complete.
"""

import dataclasses
import io
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from rdfer_jax.media.files import MediaError, check_size

#: First bytes of a file -> Pillow's reader of its header. Called directly, because `PIL.Image.open` has a
#: size limit of its own, which is global to the process.
_READERS: dict[bytes, type[ImageFile]] = {
    b"\xff\xd8": JpegImagePlugin.JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"II": TiffImagePlugin.TiffImageFile,
    b"MM": TiffImagePlugin.TiffImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
}
_JPEG_END = b"\xff\xd9"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
#: Bytes at the end of a file in which a complete image has its end marker.
_TAIL = 256


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
      format: JPEG, PNG, BMP, WEBP, TIFF or GIF.
      height, width: pixels, before a rotation that EXIF asks for.
      is_plain_jpeg: a baseline JPEG of three channels without EXIF, which every decoder shows alike.
      end: JPEG: bytes up to the coded pixels; otherwise 0.
    """

    format: str
    height: int
    width: int
    is_plain_jpeg: bool
    end: int


def read_header(file: BinaryIO, name: object) -> Header:
    """Reads the header of an image; the file may be anything.

    Args:
      file: the image, at its start.
      name: what errors call it.

    Raises:
      MediaError: not an image, one of more than files.MAX_PIXELS pixels, or several in one file.
    """
    image, count = _open(file, name)
    if count > 1:
        raise MediaError(
            f"{name}: holds {count} pictures, expected one; convert it into a video, such as MP4"
        )
    width, height = image.size
    check_size(height, width, name)
    end, is_plain = 0, False
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        end = file.tell()
        file.seek(0)
        is_baseline = b"\xff\xc0" in file.read(end) and "progressive" not in image.info
        is_plain = is_baseline and image.layers == 3 and "exif" not in image.info
    return Header(str(image.format), height, width, is_plain, end)


def _open(file: BinaryIO, name: object) -> tuple[ImageFile, int]:
    """Returns an image of which only the header is read, and the number of pictures in the file."""
    start = file.read(8)
    file.seek(0)
    reader = next((reader for magic, reader in _READERS.items() if start.startswith(magic)), None)
    try:
        if reader is not None:
            image = reader(file)
            return image, getattr(image, "n_frames", 1)
    except Exception:  # damaged headers make Pillow raise many kinds
        pass
    raise MediaError(f"{name}: not a readable image")


def looks_whole(file: BinaryIO, header: Header) -> bool:
    """Returns whether the last bytes of a JPEG or PNG hold its end marker.

    False proves nothing: other formats have no such marker, and other data may follow it.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(header.end, size - _TAIL))
    marker = {"JPEG": _JPEG_END, "PNG": _PNG_END}.get(header.format)
    return marker is not None and marker in file.read()


def decode(data: bytes, name: object) -> np.ndarray:
    """Decodes an image of any format, upright.

    Args:
      data: contents of the file.
      name: what errors call it.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      MediaError: not one image, truncated or damaged, or of more than files.MAX_PIXELS pixels.
    """
    header = read_header(io.BytesIO(data), name)
    if not _is_whole(data, header):
        raise MediaError(f"{name}: the image is truncated or damaged ({len(data)} bytes)")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise MediaError(f"{name}: not a readable image ({len(data)} bytes)")
    return image


def _is_whole(data: bytes, header: Header) -> bool:
    """Returns False when a JPEG or PNG is truncated, or a chunk of a PNG claims more than there is."""
    if header.format == "JPEG":
        # Coded pixels never contain FFD9: an FF in them is followed by 00 or a restart marker.
        return data.find(_JPEG_END, header.end) >= 0
    if header.format == "PNG":
        file = io.BytesIO(data)
        try:
            PngImagePlugin.PngImageFile(file).verify()
        except Exception:  # as in _open
            return False
        place = file.tell() - len(_PNG_END) + 4
        return data[place : place + len(_PNG_END)] == _PNG_END
    return True


def decode_jpeg(
    data: bytes | memoryview, least: int = 0, into: np.ndarray | None = None
) -> np.ndarray:
    """Decodes a JPEG, at a fraction of its size where that suffices, which costs less than shrinking it.

    Args:
      data: contents of the file.
      least: short side wanted, in pixels. The JPEG is decoded at 1/8, 1/4 or 1/2 of its size if the short
        side is then still at least this long; 0 for the full size.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      MediaError: not a JPEG, or without pixels.
    """
    try:
        height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
        by = next((by for by in (8, 4, 2) if min(height, width) >= by * least > 0), 1)
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // by), min_width=-(-width // by), strict=False
        )
    except (ValueError, KeyError):  # some files that are not JPEG lead to a KeyError
        pass
    # OpenCV also knows rare kinds of color sampling, which TurboJPEG does not.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if image is None:
        raise MediaError(f"{len(data)} bytes are not a JPEG")
    return image


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Returns an image, uint8 [H, W, 3] in RGB, as a JPEG of quality 1 to 100."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    if not done:
        raise MediaError(f"a frame of {image.shape[1]}x{image.shape[0]} pixels does not fit a JPEG")
    return data.tobytes()


def shrink(image: np.ndarray, short_side: int) -> np.ndarray:
    """Returns an image whose short side is at most `short_side` pixels; the sides keep their ratio."""
    height, width = image.shape[:2]
    if min(height, width) <= short_side:
        return image
    scale = short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales an image to a size, keeping its proportions: the rest, on two sides, is black.

    Args:
      image: uint8 [H, W, 3].
      size: width and height, pixels.

    Returns:
      uint8 [height, width, 3].
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    scale = min(size[0] / width, size[1] / height)
    inner = tuple(
        max(1, min(side, round(scale * own)))
        for side, own in zip(size, (width, height), strict=True)
    )
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    result = np.zeros((size[1], size[0], 3), np.uint8)
    result[top : top + inner[1], left : left + inner[0]] = cv2.resize(
        image, inner, interpolation=method
    )
    return result
