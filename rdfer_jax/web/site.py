"""Writes the page: static files that any web server can serve.

    index.html, *.js, style.css   the page
    settings.json                 what it must know of the network, and constants of the Python modules
    network.onnx.gz               the network; blazeface.onnx.gz the face detector
    ort.*                         ONNX Runtime Web
    LICENSES.txt

Large files are compressed, and the page unpacks them, so that the download is small on every server.
"""

import gzip
import json
import logging
import pathlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax import html
from rdfer_jax.export import exporter
from rdfer_jax.export import quantize as quantize_lib
from rdfer_jax.faces import blazeface, detect, tracks
from rdfer_jax.predict import exported, predictor, stream
from rdfer_jax.predict.timeline import class_color
from rdfer_jax.web import detector, runtime
from rdfer_jax.web.server import POLICY, SETTINGS

log = logging.getLogger(__name__)

#: What the page takes from the card of an exported network.
_OF_CARD = (
    "classes", "frames", "snippet", "snippet_stride", "side", "instants_share", "fps", "window", "stride",
    "smooth", "mirror", "temperature", "min_confidence",
)  # fmt: skip
LICENSES = "LICENSES.txt"
NETWORK, DETECTOR, BINARY = "network.onnx.gz", "blazeface.onnx.gz", "ort.wasm.gz"
SCRIPTS = (
    "app.js", "blazeface.js", "chart.js", "load.js", "pixels.js", "source.js", "network.js", "tracks.js",
    "windows.js", "worker.js",
)  # fmt: skip


def export(
    run: epath.PathLike | None,
    folder: str,
    checkpoint: str = "last",
    quantize: str = "none",
    settings: config_lib.Predict | None = None,
    onnxruntime: str | None = None,
) -> int:
    """Writes the page of a network.

    Args:
      run: folder of the training run; None for the network that comes with the package.
      folder: for the page.
      checkpoint: last, best, or a step.
      quantize: none or int8, the weights of the network.
      settings: how to read videos; those of the run, if None.
      onnxruntime: see runtime.read.

    Returns:
      The size of the download, bytes.

    Raises:
      ValueError, OSError: as of Predictor, exporter.checked_onnx, runtime.read and write.
    """
    engine = runtime.read(onnxruntime)
    place = pathlib.Path(folder)
    _check(place)
    reader = predictor.Predictor(run, checkpoint, settings)
    model, _ = exporter.checked_onnx(reader.network.function(), reader.network.shape)
    if quantize == "int8":
        model = quantize_lib.int8_weights(model)
    return write(place, model.SerializeToString(), exported.card(reader), engine)


def write(
    folder: pathlib.Path, model: bytes, card: Mapping[str, Any], engine: Mapping[str, bytes]
) -> int:
    """Writes the files.

    Args:
      folder: new, empty, or with an older page.
      model: the network as ONNX, as the exporter makes it.
      card: what is in model.json of an exported network.
      engine: the files of ONNX Runtime Web, see runtime.read.

    Returns:
      The size of the download, bytes.

    Raises:
      FileExistsError: the folder is a file, or holds something else.
    """
    _check(folder)
    if card["faces"]["detector"] in ("haar", "yunet"):
        log.warning(
            "faces are found by %s in rdfer predict, but by blazeface in the page",
            card["faces"]["detector"],
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
    contents[SETTINGS] = json.dumps(page_settings(card, sizes), indent=1, allow_nan=False).encode()
    license_text = (blazeface.MODEL.parent / "LICENSE").read_bytes()
    contents[LICENSES] = page.joinpath(LICENSES).read_bytes() + license_text
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return sum(len(data) for name, data in contents.items() if name != LICENSES)


def page_settings(card: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Returns what the page must know; the constants are those of the Python modules.

    Args:
      card: see write.
      sizes: of the large files, bytes, by name.
    """
    files = {"network": NETWORK, "detector": DETECTOR, "runtime": BINARY}
    cut = {name: card["faces"][name] for name in ("detector", "min_face", "margin", "align")}
    return {name: card[name] for name in _OF_CARD} | {
        "network": "{run}, checkpoint {checkpoint}, step {step}".format(**card["model"]),
        "cut": cut,
        "colors": [class_color(index) for index in range(len(card["classes"]))],
        "least_frames": stream.LEAST_FRAMES,
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
            "grid": blazeface.GRID,
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
