"""Writes the page: static files that any web server can serve.

    index.html, *.js, style.css   the page
    settings.json                 what it must know of the network, and constants of the Python modules
    network.onnx.gz               the network; blazeface.onnx.gz the face detector
    ort.*                         ONNX Runtime Web
    LICENSES.txt

Large files are compressed, and the page unpacks them, so that the download is small on every server.
"""

import dataclasses
import gzip
import json
import logging
import pathlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from rdfer_jax import html
from rdfer_jax.faces import blazeface, detect, tracks
from rdfer_jax.predict import predictor
from rdfer_jax.predict.timeline import class_color
from rdfer_jax.web import detector, runtime
from rdfer_jax.web.server import POLICY, SETTINGS

log = logging.getLogger(__name__)

LICENSES = "LICENSES.txt"
NETWORK, DETECTOR, BINARY = "network.onnx.gz", "blazeface.onnx.gz", "ort.wasm.gz"
SCRIPTS = (
    "app.js", "blazeface.js", "chart.js", "load.js", "pixels.js", "source.js", "network.js", "tracks.js",
    "windows.js", "worker.js",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a network reads videos; for fields without a comment, see config.Predict.

    Attributes:
      network: its name, for people.
      classes: names of the N classes.
      frames: F, frames of a window that the network reads.
      snippet: see config.Data.
      size: S, height and width of a crop, pixels.
      instants_weight: of the instants in the timeline, see predict.timecourse.
      cut: detector, min_face, margin, align, as of faces.cut.Cut.
    """

    network: str
    classes: tuple[str, ...]
    frames: int
    snippet: int
    size: int
    instants_weight: float
    fps: float
    window: float
    stride: float
    smooth: float
    mirror: bool
    temperature: float
    min_confidence: float
    cut: Mapping[str, Any]


def write(
    folder: pathlib.Path, model: bytes, reading: Reading, onnxruntime: str | None = None
) -> int:
    """Writes the page.

    Args:
      folder: new, empty, or with an older page.
      model: the network as ONNX: uint8 frames [B, F, S, S, 3] to logits, agreement and, where it has them,
        instants and instant_logits.
      reading: how it reads videos.
      onnxruntime: see runtime.read.

    Returns:
      The size of the download in bytes.

    Raises:
      FileNotFoundError, ValueError: as of runtime.read.
      FileExistsError: the folder is a file, or holds something else.
    """
    engine = runtime.read(onnxruntime)
    _check(folder)
    if reading.cut["detector"] in ("haar", "yunet"):
        log.warning(
            "faces are found by %s in rdfer predict, but by blazeface in the page",
            reading.cut["detector"],
        )
    page = resources.files(__package__) / "page"
    contents = {name: page.joinpath(name).read_bytes() for name in SCRIPTS}
    contents["index.html"] = html.render("web/page/index.html", policy=POLICY).encode()
    contents["style.css"] = html.source("style.css", "web/page/page.css").encode()
    contents[runtime.SCRIPT] = engine[runtime.SCRIPT]
    packed = {
        NETWORK: model,
        DETECTOR: detector.blazeface_onnx(),
        BINARY: engine[runtime.BINARY],
    }
    contents |= {name: gzip.compress(data, 9, mtime=0) for name, data in packed.items()}
    sizes = {name: len(contents[name]) for name in packed}
    contents[SETTINGS] = json.dumps(settings(reading, sizes), indent=1, allow_nan=False).encode()
    license_text = (blazeface.MODEL.parent / "LICENSE").read_bytes()
    contents[LICENSES] = page.joinpath(LICENSES).read_bytes() + license_text
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return sum(len(data) for name, data in contents.items() if name != LICENSES)


def settings(reading: Reading, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Returns what the page must know; the constants are those of the Python modules."""
    files = {"network": NETWORK, "detector": DETECTOR, "runtime": BINARY}
    return dataclasses.asdict(reading) | {
        "colors": [class_color(index) for index in range(len(reading.classes))],
        "least_frames": predictor.LEAST_FRAMES,
        "blazeface": {
            "input": blazeface.INPUT,
            "anchors": list(blazeface.ANCHORS.items()),
            "first_score": blazeface.FIRST_SCORE,
            "score": blazeface.SCORE,
            "same": blazeface.SAME,
            "smallest": blazeface.SMALLEST,
            "step": blazeface.STEP,
            "raised": blazeface.RAISED,
            "around": blazeface.AROUND,
        },
        "tracks": {
            "search_every": tracks.SEARCH_EVERY,
            "least_hits": tracks.LEAST_HITS,
            "hit": tracks.HIT,
            "longest_gap": tracks.LONGEST_GAP,
            "longest_step": tracks.LONGEST_STEP,
            "quick": tracks.QUICK,
            "same_face": detect.SAME_FACE,
            "smooth": tracks.SMOOTH,
        },
        "files": {key: {"name": name, "bytes": sizes[name]} for key, name in files.items()},
    }


def _check(folder: pathlib.Path) -> None:
    """Raises FileExistsError if a page cannot be written there."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SETTINGS).is_file():
        raise FileExistsError(f"{folder}: holds files that are no page; choose another --web")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder}: a file; --web needs a folder")
