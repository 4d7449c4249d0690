"""The ffmpeg program, of the package imageio-ffmpeg: the independent reference for what a video shows."""

import pathlib
import re
import subprocess
from typing import NamedTuple

import imageio_ffmpeg
import numpy as np

#: Pixels that are not square become square, after ffmpeg has turned the frame upright.
_SHAPE = "scale=round(iw*sar):ih,setsar=1"


class Shown(NamedTuple):
    """What a player shows: seconds from the first frame, float [T], and uint8 [T, H, W, 3] in RGB."""

    times: np.ndarray
    images: np.ndarray


def run(*words: object) -> subprocess.CompletedProcess[bytes]:
    """Runs ffmpeg with these arguments; it overwrites files. Its errors fail the test."""
    program = imageio_ffmpeg.get_ffmpeg_exe()
    done = subprocess.run(
        [program, "-nostdin", "-hide_banner", "-y", *map(str, words)], capture_output=True
    )
    assert not done.returncode, done.stderr.decode(errors="replace")[-2000:]
    return done


def shown(path: pathlib.Path, filters: str = "") -> Shown:
    """Decodes a video; `filters` come before the pixels are made square."""
    chain = ",".join(part for part in (filters, _SHAPE, "showinfo") if part)
    output = ("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    done = run("-i", path, "-map", "0:v:0", "-vf", chain, *output)
    text = done.stderr.decode(errors="replace")
    times = np.array([float(t) for t in re.findall(r"Parsed_showinfo.* pts_time: *(\S+)", text)])
    width, height = map(int, re.findall(r"Parsed_showinfo.* s:(\d+)x(\d+)", text)[0])
    return Shown(
        times - times[0], np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    )
