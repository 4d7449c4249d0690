"""What a file is that cannot be read as a video or a list, told from its bytes."""

import io
import re
from typing import BinaryIO

from rdfer_jax.media import structure

_ARCHIVE = "an archive; unpack it"
_PICTURE = "a picture; pictures are a video in a folder of their own: give the folder"
_SOUND = "sound without pictures"
_LINK = "a shortcut to another place"
_UNFINISHED = "the recording, download or copy did not finish"
#: How files begin, after spaces and in lower case -> what they are.
_BEGINNINGS = {
    rb"version https://git-lfs": "a pointer of Git LFS; fetch the file by git lfs pull",
    rb"/annex/objects/": "a pointer of git-annex; fetch the file by git annex get",
    rb"bplist00": "a property list of macOS, as iCloud leaves for a file that is not on this machine",
    rb"<!doctype html|<html": "a page of the web, which may say why a download failed",
    rb"<\?xml": "an XML document",
    rb"pk\x03\x04": "an archive (ZIP) or an office document",
    rb"\xd0\xcf\x11\xe0": "an office document of before 2007",
    rb"par1[\x00-\x1f]": "a Parquet table",
    rb"\{\\rtf": "an RTF document",
    rb"%pdf-": "a PDF document",
    rb"sqlite format 3\x00": "a database",
    rb'[\[{]\s*["\[{]': "JSON",
    rb"rar!|7z\xbc\xaf|\x1f\x8b|bzh[1-9]1ay|\xfd7zxz": _ARCHIVE,
    rb"\xff\xd8\xff|\x89png|ii\*\x00|mm\x00\*": _PICTURE,
    rb"riff....webp": "a WebP picture or animation; convert it into a video, such as MP4",
    rb"id3[\x00-\x1f]|flac[\x00-\x1f]|riff....wave": _SOUND,
    rb"l\x00\x00\x00\x01\x14\x02|\[internetshortcut\]": _LINK,
    rb"salted__|-----begin pgp": "encrypted; decrypt it",
}
#: Bytes at the start and at the end of a file that are looked at.
_LOOK = 512


def described(file: BinaryIO) -> str:
    """Returns what a file is, as part of a sentence; empty if that is not known.

    Args:
      file: any file that is not read otherwise; where it is in it does not matter.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(_LOOK)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, what in _BEGINNINGS.items():
        if re.match(beginning, text, re.DOTALL):
            return what
    if start[257:262] == b"ustar":
        return _ARCHIVE
    if structure.inspect(file).lacks_index:
        return f"an MP4 without its index, which comes last; {_UNFINISHED}"
    file.seek(max(0, size - _LOOK))
    if size and not any(file.read()):
        return f"a file that ends in zeros; {_UNFINISHED}"
    return ""
