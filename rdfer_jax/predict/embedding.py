"""An embedding of faces: vectors that lie near each other for the same person. Only for use within a video.

The network is the face recognition ResNet of dlib (Davis King 2017; its weights are in the public domain),
as the npm package @vladmandic/face-api (MIT) has it, with weights of 8 bits. It is not part of this
package; see rdfer_jax.npm. docs/explanation/design-decisions.md has what it was trained on.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdfer_jax import npm

_MANIFEST = "face_recognition_model-weights_manifest.json"
_WEIGHTS = "face_recognition_model.bin"
PACKAGE = npm.Package(
    name="@vladmandic/face-api",
    version="1.7.15",
    holds="the network that tells people apart",
    folder="model",
    files={
        _MANIFEST: "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b",
        _WEIGHTS: "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589",
    },
)
#: Height and width of the network's input, pixels; and the length of the embedding.
SIDE, LENGTH = 150, 128
#: Faces that go through the network at once.
BATCH = 4
#: Mean color of its training data, RGB.
_MEAN = (122.782, 117.001, 104.298)
#: Its residual blocks. Those named `down` halve the height and width.
BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3"),
    *("conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2"),
    *("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)

#: Arrays of the network by name.
Weights = Mapping[str, Any]


class Embedder:
    """Embeds faces."""

    def __init__(self, weights: Weights):
        """Takes the weights, see decode."""
        self._weights = jax.device_put(dict(weights))

    @classmethod
    def from_cache(cls) -> "Embedder":
        """Reads the network from the user's cache folder; errors as of npm.Package.read."""
        files = PACKAGE.read("config.predict.identities")
        return cls(decode(json.loads(files[_MANIFEST]), files[_WEIGHTS]))

    def __call__(self, faces: Sequence[np.ndarray]) -> np.ndarray:
        """Returns float32 [n, LENGTH], of n faces, each uint8 [SIDE, SIDE, 3] in RGB."""
        found = []
        for start in range(0, len(faces), BATCH):
            batch = list(faces[start : start + BATCH])
            padded = np.stack(batch + [batch[0]] * (BATCH - len(batch)))  # one shape is compiled
            found.append(np.asarray(_embed(self._weights, padded))[: len(batch)])
        return np.concatenate(found) if found else np.empty((0, LENGTH), np.float32)


def decode(manifest: Sequence[Mapping[str, Any]], data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays, float32, of a weights manifest of TensorFlow.js and its one binary file.

    Raises:
      ValueError: the file is not as long as the manifest says.
    """
    arrays, start = {}, 0
    for entry in manifest[0]["weights"]:
        size, scale = math.prod(entry["shape"]), entry.get("quantization")
        kind = np.dtype(scale["dtype"] if scale else entry["dtype"]).newbyteorder("<")
        if start + size * kind.itemsize > len(data):
            raise ValueError(f"{_WEIGHTS}: ends within {entry['name']}")
        array = np.frombuffer(data, kind, size, start).astype(np.float32)
        start += size * kind.itemsize
        if scale:
            array = array * np.float32(scale["scale"]) + np.float32(scale["min"])
        arrays[entry["name"]] = array.reshape(entry["shape"])
    if start != len(data):
        raise ValueError(f"{_WEIGHTS}: {len(data)} bytes; its manifest describes {start}")
    return arrays


@jax.jit
def _embed(weights: Weights, faces: jax.Array) -> jax.Array:
    """Maps uint8 [B, SIDE, SIDE, 3] to float32 [B, LENGTH]."""
    x = (faces.astype(jnp.float32) - jnp.asarray(_MEAN)) / 255
    x = jax.nn.relu(_convolved(weights, "conv32_down", x, stride=2))
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
    for name in BLOCKS:
        x = _residual(weights, name, x)
    return x.mean(axis=(1, 2)) @ weights["fc"]


def _residual(weights: Weights, name: str, x: jax.Array) -> jax.Array:
    """A residual block. One that halves averages its input, and pads what is smaller by zeros."""
    stride = 2 if "down" in name else 1
    y = jax.nn.relu(_convolved(weights, f"{name}/conv1", x, stride))
    y = _convolved(weights, f"{name}/conv2", y)
    if stride == 2:
        x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        y = jnp.pad(y, [(0, max(0, to - of)) for of, to in zip(y.shape, x.shape, strict=True)])
        x = jnp.pad(x, [(0, max(0, to - of)) for of, to in zip(x.shape, y.shape, strict=True)])
    return jax.nn.relu(x + y)


def _convolved(weights: Weights, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution, and a scale and a bias for each channel."""
    y = lax.conv_general_dilated(
        x,
        weights[f"{name}/conv/filters"],
        (stride, stride),
        "SAME" if stride == 1 else "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    y = y + weights[f"{name}/conv/bias"]
    return y * weights[f"{name}/scale/weights"] + weights[f"{name}/scale/biases"]
