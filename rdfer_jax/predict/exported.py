"""A trained network as files that run without this package, and what their user has to know."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from rdfer_jax import __version__, weights
from rdfer_jax import config as config_lib
from rdfer_jax.export import exporter
from rdfer_jax.export.names import FORMATS
from rdfer_jax.faces import blazeface, tracks
from rdfer_jax.predict.predictor import PACKAGED, Predictor

#: Version of the form of model.json.
FORM = 1


def export(
    run: epath.PathLike | None,
    output: epath.PathLike,
    checkpoint: str = "last",
    formats: Sequence[str] = tuple(FORMATS),
    quantize: str = "none",
    settings: config_lib.Predict | None = None,
) -> dict[str, Any]:
    """Writes model.stablehlo, model.onnx and model.json.

    Args:
      run: folder of the training run; None for the network that comes with the package.
      output: folder for the files.
      checkpoint: last, best, or a step.
      formats: of names.FORMATS.
      quantize: none or int8, the weights of the ONNX file.
      settings: how to read videos, for the card; those of the run, if None.

    Returns:
      What is in model.json.

    Raises:
      ValueError, OSError: as of Predictor and exporter.write.
    """
    output = epath.Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output={output}: a file; give a folder")
    predictor = Predictor(run, checkpoint, settings)
    network = predictor.network
    return exporter.write(
        network.function(), network.shape, card(predictor), output, formats, quantize
    )


def card(predictor: Predictor) -> dict[str, Any]:
    """Returns what the user of an exported network has to know, ready for JSON."""
    settings, cut = predictor.settings, predictor.cut
    config = dataclasses.replace(
        predictor.config,  # the network has the class shares built in
        predict=dataclasses.replace(predictor.config.predict, class_shares=""),
    )
    about: dict[str, Any] = {
        "form": FORM,
        "package": "rdfer_jax",
        "version": __version__,
        "model": predictor.model,
        "classes": list(predictor.classes),
        "config": config_lib.to_dict(config),
        "faces_in_training": dict(predictor.network.faces),
        "frames": config.data.frames,
        "side": config.data.image_size,
        "snippet": config.data.snippet,
        "snippet_stride": config.data.stride,
        "frame_choice": (
            "of the n frames of a window, with G = frames / snippet and e = (snippet - 1) snippet_stride: "
            "snippet g starts at floor((g + 0.5) n / G - 0.5 e), clipped to [0, n - e - 1], and has the "
            "frames that follow at distances of snippet_stride; none is above n - 1"
        ),
        "fps": predictor.fps,
        "window": settings.window,
        "stride": settings.stride,
        "smooth": settings.smooth,
        "mirror": settings.mirror,
        "temperature": predictor.temperature,
        "min_confidence": settings.min_confidence,
        "instants_share": predictor.instants_share,
        "probabilities": (
            "softmax(logits / temperature); with mirror, logits and agreement are first averaged over the "
            "frames and their mirror images"
        ),
        "faces": {
            "detector": cut.detector,
            "min_face": cut.min_face,
            "margin": 0.0 if cut.detector == "none" else cut.margin,
            "align": cut.align,
            "box_raised": blazeface.RAISED if cut.detector == "blazeface" else 0.0,
            "smooth_boxes": tracks.SMOOTH,
            "square": (
                "side = max(width, height of the box) * (1 + 2 margin), in pixels of the frame, about the "
                "middle of the box; the box of blazeface is first raised by box_raised of its height"
            ),
            "turned": (
                "if align and the detector gives eyes: about the middle of the box, so that the line from "
                "the eye on the left of the picture to the one on the right becomes level"
            ),
            "sampled": (
                "bilinear, at ceil(side / S) times S points in each direction, averaged to S; pixel i "
                "covers [i, i + 1); outside of the frame its border is repeated"
            ),
        },
    }
    if predictor.model["checkpoint"] == "packaged":
        about["card"] = {
            "source": f"rdfer_jax/weights/{PACKAGED}.md",
            "text": (weights.FOLDER / f"{PACKAGED}.md").read_text(),
        }
    return about


def describe(about: dict[str, Any], output: epath.PathLike) -> str:
    """Returns what was written, as lines for the terminal."""
    window = json.dumps(about["input"]["shape"])
    differences = about["largest_difference_from_the_network"]
    lines = [f"{about['model']['run']}: {about['input']['name']} uint8 {window}"]
    for name, file in FORMATS.items():
        if name in differences:
            found = f"to {differences[name]:.1g}" if differences[name] else "bit by bit"
            lines.append(f"{file}: equals the network {found}")
    if "int8" in differences:
        lines.append(f"with weights as int8: logits to {differences['int8']:.1g}, of random pixels")
    return "\n".join([*lines, f"files in {epath.Path(output)}"])
