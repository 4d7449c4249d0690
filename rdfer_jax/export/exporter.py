"""A network -> model.stablehlo, model.onnx and model.json in a folder.

Each file is run before it is written, and compared with the network on fixed frames.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export as jax_export

from rdfer_jax.export.names import CARD, FORMATS, INPUT, METADATA

#: Where the StableHLO file runs.
PLATFORMS = ("cpu", "cuda", "tpu")
#: Ways to make weights smaller.
QUANTIZE = ("none", "int8")
#: Largest difference between a file and the network; of int8 weights, before they are rounded.
TOLERANCE = 1e-4
#: Videos with which a file is compared with the network; not the batch it was made with.
_VIDEOS = 3

Function = Callable[[Any], Mapping[str, Any]]


class MissingExtraError(ValueError):
    """A package of the extra `export` is not installed."""


def write(
    function: Function,
    shape: Sequence[int],
    card: Mapping[str, Any],
    folder: epath.PathLike,
    formats: Sequence[str] = tuple(FORMATS),
    quantize: str = "none",
) -> dict[str, Any]:
    """Writes the files.

    Args:
      function: the network as a pure function: uint8 [B, *shape] -> named outputs, each [B, ...].
      shape: of a video's frames, [F, S, S, 3].
      card: what the user of the files has to know; see predict.card.
      folder: for the files.
      formats: of FORMATS.
      quantize: of QUANTIZE; weights of the ONNX file.

    Returns:
      What is in model.json.

    Raises:
      MissingExtraError: ONNX is asked for, and its packages are missing.
      ValueError: a format is unknown, the network has an operation that is not known in ONNX, or a file
        differs from the network. Then nothing is written.
    """
    _check(formats, quantize)
    frames = np.random.default_rng(0).integers(0, 256, (_VIDEOS, *shape), dtype=np.uint8)
    expected = _on_cpu(jax.jit(function), frames)
    files: dict[str, bytes] = {}
    differences: dict[str, float] = {}
    model: Any = None
    if "stablehlo" in formats:
        files["stablehlo"] = stablehlo(function, shape)
        again = jax_export.deserialize(bytearray(files["stablehlo"]))
        differences["stablehlo"] = _difference(expected, _on_cpu(again.call, frames), "StableHLO")
    if "onnx" in formats:
        model, differences["onnx"] = checked_onnx(function, shape, expected, frames)
        if quantize == "int8":
            from rdfer_jax.export import quantize as quantize_lib
            from rdfer_jax.export import runtime

            model = quantize_lib.int8_weights(model)
            rounded = runtime.Session(model.SerializeToString())(frames)
            differences["int8"] = float(np.abs(rounded["logits"] - expected["logits"]).max())
    card = {
        **card,
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": ["B", *shape],
            "colors": "RGB",
        },
        "outputs": {
            name: {"dtype": str(array.dtype), "shape": ["B", *array.shape[1:]]}
            for name, array in expected.items()
        },
        "weights": "int8" if quantize == "int8" else "float32",
        "largest_difference_from_the_network": differences,
    }
    text = json.dumps(card, indent=1, allow_nan=False) + "\n"
    if model is not None:
        model.metadata_props.add(key=METADATA, value=text)
        files["onnx"] = model.SerializeToString()
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / FORMATS[name]).write_bytes(data)
    (folder / CARD).write_text(text)
    return card


def stablehlo(function: Function, shape: Sequence[int]) -> bytes:
    """Returns the network in the form of jax.export, for PLATFORMS and any batch."""
    (batch,) = jax_export.symbolic_shape("B")
    frames = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    return bytes(jax_export.export(jax.jit(function), platforms=PLATFORMS)(frames).serialize())


def checked_onnx(
    function: Function,
    shape: Sequence[int],
    expected: Mapping[str, np.ndarray] | None = None,
    frames: np.ndarray | None = None,
) -> tuple[Any, float]:
    """Returns the ONNX model, and how far its outputs are from the network's.

    Args:
      function, shape: see write.
      expected, frames: outputs of the network for frames [B, *shape]; None to compute them.

    Raises:
      MissingExtraError, ValueError: see write.
    """
    try:
        from rdfer_jax.export import onnx_convert, runtime
    except ImportError as error:
        raise missing(error) from None
    if frames is None or expected is None:
        frames = np.random.default_rng(0).integers(0, 256, (_VIDEOS, *shape), dtype=np.uint8)
        expected = _on_cpu(jax.jit(function), frames)
    model = onnx_convert.convert(function, shape, INPUT)
    found = runtime.Session(model.SerializeToString())(frames)
    return model, _difference(expected, found, "ONNX")


def missing(error: ImportError) -> MissingExtraError:
    """Returns what to tell a user without the packages."""
    return MissingExtraError(
        f"ONNX needs the package {error.name}, which is not installed: pip install 'rdfer-jax[export]'"
    )


def _check(formats: Sequence[str], quantize: str) -> None:
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"--formats: expected some of {', '.join(FORMATS)}, got {name!r}")
    if not formats:
        raise ValueError(f"--formats: expected some of {', '.join(FORMATS)}, got none")
    if quantize not in QUANTIZE:
        raise ValueError(f"--quantize: expected one of {', '.join(QUANTIZE)}, got {quantize!r}")
    if quantize != "none" and "onnx" not in formats:
        raise ValueError(f"--quantize={quantize}: it is for ONNX, which --formats leaves out")


def _on_cpu(call: Callable[[Any], Mapping[str, Any]], frames: np.ndarray) -> dict[str, np.ndarray]:
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.default_device(cpu):
        found = call(jax.device_put(frames, cpu))
    return {name: np.asarray(array) for name, array in found.items()}


def _difference(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], kind: str
) -> float:
    """Returns the largest difference; raises ValueError if it is too large."""
    most = 0.0
    for name, array in expected.items():
        difference = np.abs(array.astype(np.float64) - found[name]).max(initial=0)
        if found[name].shape != array.shape or not difference <= TOLERANCE:
            raise ValueError(
                f"not exported: {name} of the {kind} file differs from the network by {difference:.2g} on "
                f"fixed frames, more than {TOLERANCE:g}"
            )
        most = max(most, float(difference))
    return most
