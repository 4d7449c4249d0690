"""An exported network, run by ONNX Runtime."""

import json
import os
from typing import Any

import numpy as np
import onnxruntime
from etils import epath

from rdfer_jax import atomic
from rdfer_jax.export.names import INPUT, METADATA


class Session:
    """An ONNX model: frames -> its outputs."""

    def __init__(self, model: bytes):
        """Loads the bytes of a model."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; warnings are about its own optimizations
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs by name, for uint8 [B, F, S, S, 3]."""
        found = self._session.run(self._names, {INPUT: frames})
        return dict(zip(self._names, found, strict=True))

    @property
    def card(self) -> dict[str, Any]:
        """What is in model.json; empty if another program wrote the model."""
        texts = self._session.get_modelmeta().custom_metadata_map
        return json.loads(texts.get(METADATA, "{}"))


def keep(path: epath.Path, model: bytes, most: int) -> None:
    """Writes a model into a folder of at most so many; the one that was used longest ago goes first.

    Raises:
      OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic.write_bytes(path, model, tag=str(os.getpid()))
    models = sorted(path.parent.glob("*.onnx"), key=lambda file: file.stat().mtime, reverse=True)
    for old in models[most:]:
        old.unlink(missing_ok=True)


def load(path: epath.PathLike) -> Session:
    """Reads a file that rdfer export wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is something else.
    """
    data = epath.Path(path).read_bytes()
    try:
        session = Session(data)
    except Exception as error:  # the classes of onnxruntime's errors have no common base
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: ONNX Runtime cannot read it ({reason})") from None
    if not session.card:
        raise ValueError(f"{path}: not written by rdfer export: it has no metadata {METADATA!r}")
    return session
