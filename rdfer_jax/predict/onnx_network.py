"""The network of a run or of the package, run by ONNX Runtime.

It is exported once, and kept in the user's cache folder under a name that changes with the weights, the
settings and the version of this package. Or `rdfer export` has written it, and nothing else is needed.
"""

import dataclasses
import hashlib
import json
import logging
import os
from typing import Any

import numpy as np
from etils import epath
from scipy import special

from rdfer_jax import __version__, compile_cache
from rdfer_jax import config as config_lib
from rdfer_jax.export import exporter
from rdfer_jax.export.names import CARD, FORMATS
from rdfer_jax.predict.trained import OUTPUTS, Read, Trained
from rdfer_jax.types import Prediction

log = logging.getLogger(__name__)

#: Models that are kept.
MOST_MODELS = 20


def of(network: Trained) -> Trained:
    """Returns the same network, run by ONNX Runtime.

    Raises:
      MissingExtraError: a package of the extra `export` is missing.
      ValueError: the network cannot be exported, see exporter.checked_onnx.
    """
    if network.runtime == "onnx":
        return network
    runtime = _runtime()
    path = _path(network)
    try:
        session = runtime.Session(path.read_bytes())
        os.utime(path)  # used now
    except Exception as error:  # not there, or damaged: onnxruntime has no base class of its errors
        log.debug("%s: not used: %s", path, error)
        log.info("exporting the network for ONNX Runtime, once")
        content = exporter.checked_onnx(network.function(), network.shape)[0].SerializeToString()
        session = runtime.Session(content)
        try:
            runtime.keep(path, content, MOST_MODELS)
        except OSError as problem:
            log.debug("%s: not kept: %s", path, problem)
    # The shift is a part of the exported function.
    return dataclasses.replace(network, runtime="onnx", _read=_reader(session), shift=None)


def is_export(folder: epath.PathLike) -> bool:
    """Returns whether a folder holds a network that `rdfer export` wrote as ONNX."""
    folder = epath.Path(folder)
    return (folder / FORMATS["onnx"]).exists() and (folder / CARD).exists()


def from_export(folder: epath.PathLike) -> Trained:
    """Reads a network that `rdfer export` wrote.

    Raises:
      MissingExtraError: a package of the extra `export` is missing.
      ValueError: the file is damaged, or of another program.
    """
    path = epath.Path(folder) / FORMATS["onnx"]
    session = _runtime().load(path)
    card = session.card
    return Trained(
        config=config_lib.resolve(card["config"]),
        classes=tuple(card["classes"]),
        faces=card["faces_in_training"],
        model=card["model"],
        digest=hashlib.blake2b(path.read_bytes()).hexdigest(),
        _state=None,
        _read=_reader(session),
        runtime="onnx",
        temperature=card["temperature"],
    )


def _runtime() -> Any:
    try:
        from rdfer_jax.export import runtime
    except ImportError as error:
        raise exporter.missing(error) from None
    return runtime


def _reader(session: Any) -> Read:
    def read(frames: np.ndarray, mask: np.ndarray) -> Prediction:
        found = session(frames)
        probs_BN = special.softmax(found["clip_logits"], axis=-1).mean(axis=1)
        values: dict[str, Any] = {name: found.get(name) for name in OUTPUTS}
        values |= {
            "index": np.zeros(len(frames), np.int32),
            "mask": mask,
            "consensus": probs_BN.argmax(axis=-1).astype(np.int32),
            "noise_score": np.zeros(len(frames), np.float32),  # there is no label
        }
        return Prediction(**values)

    return read


def _path(network: Trained) -> epath.Path:
    about = [__version__, network.digest, config_lib.to_dict(network.config)]
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    return epath.Path(compile_cache.user_folder()) / "onnx" / f"{name}.onnx"
