"""Puts the network of a run on still pictures into the package, with its card.

    python -m experiments.pack --run=runs/faces

Fits the temperature on the split `validation` and measures the network as it is stored, in float16, on the
split `test`. Writes NAME.safetensors, NAME.json and NAME.md into rdfer_jax/weights.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from etils import epath
from scipy import special, stats

from benchmarks import harness
from rdfer_jax import metrics, weights
from rdfer_jax.calibration import ece, temperature
from rdfer_jax.config import Config, Predict
from rdfer_jax.metrics import aurc
from rdfer_jax.pipeline import loader, source
from rdfer_jax.predict import trained
from rdfer_jax.training import run_dir
from rdfer_jax.training.checkpoint import last_variables

#: Whether the network reads the mirror image of each frame, too.
MIRROR = True
#: Text of the card.
CARD = pathlib.Path(__file__).with_name("pack_card.md")


class Predicted(NamedTuple):
    """The predictions for M pictures: logits [M, N], label int [M], is_hard bool [M]."""

    logits: np.ndarray
    label: np.ndarray
    is_hard: np.ndarray


def predict(network: trained.Trained, config: Config, name: str) -> Predicted:
    """Returns the predictions for a split, by the code that predicts videos: pictures as the frames."""
    split = source.open_split(source.find(config.data), name)
    frames = network.config.data.frames
    batches = loader.eval_loader(
        split, config.data, local_batch_size=8 * frames, process=0, processes=1
    )
    parts = []
    for batch in batches:
        mask, pictures = batch["mask"], batch["frames"]
        windows = pictures.reshape(-1, frames, *pictures.shape[2:])
        predicted = network.predict(windows, np.ones(len(windows), bool), mirror=MIRROR)
        logits = np.asarray(predicted.clip_logits).reshape(len(mask), -1)
        parts.append(Predicted(logits[mask], batch["label"][mask], batch["is_hard"][mask]))
    return Predicted(*map(np.concatenate, zip(*parts, strict=True)))


def measure(predicted: Predicted, classes: tuple[str, ...], scale: float) -> dict[str, Any]:
    """Returns the scores of a split, with logits divided by `scale`."""
    probs_MN = special.softmax(predicted.logits.astype(np.float64) / scale, axis=-1)
    best_M, confidence_M = probs_MN.argmax(-1), probs_MN.max(-1)
    right_M = best_M == predicted.label
    interval = stats.binomtest(int(right_M.sum()), len(right_M)).proportion_ci(method="wilson")
    summary = metrics.summarize(
        metrics.confusion_matrix(predicted.label, best_M, len(classes)), classes
    )
    return summary | {
        "pictures": len(right_M),
        "interval": (float(interval.low), float(interval.high)),
        "easy": float(right_M[~predicted.is_hard].mean()),
        "hard": float(right_M[predicted.is_hard].mean()),
        "ece": ece(confidence_M, right_M),
        "aurc": aurc(confidence_M, right_M),
    }


def pack(run: epath.Path, name: str, folder: pathlib.Path) -> str:
    """Writes the files of a network and returns its card."""
    info = run_dir.read(run)
    step, variables = last_variables(run)
    config = dataclasses.replace(
        info.config,
        optim=dataclasses.replace(info.config.optim, evaluate="last"),
        data=dataclasses.replace(info.config.data, dir="tfds", frame_cache=""),
        predict=Predict(),
    )
    packaged = weights.Packaged(name, config, info.classes, variables, step)
    weights.save(packaged, folder)
    network = trained.from_package(name, folder)
    parts = {part: predict(network, info.config, part) for part in ("validation", "test")}
    scale = temperature(parts["validation"].logits, parts["validation"].label)
    scores = measure(parts["test"], info.classes, scale)
    config = dataclasses.replace(
        config, predict=dataclasses.replace(Predict(), temperature=scale, mirror=MIRROR)
    )
    weights.save(dataclasses.replace(packaged, config=config), folder)
    counts = np.bincount(parts["test"].label, minlength=len(info.classes))
    card = CARD.read_text().format(
        name=name,
        classes=", ".join(info.classes),
        frames=network.config.data.frames,
        trunk=config.model.trunk,
        parameters=weights.size(packaged),
        megabytes=(folder / f"{name}.safetensors").stat().st_size / 1e6,
        size=config.augment.size,
        train=info.num_train,
        validation=len(parts["validation"].label),
        temperature=scale,
        command=f"rdfer train --config={name}",
        commit=harness.commit(),
        low=scores["interval"][0],
        high=scores["interval"][1],
        recalls="\n".join(
            f"| {label} | {scores['recall_per_class'][label]:.1%} | {count} |"
            for label, count in zip(info.classes, counts, strict=True)
        ),
        **{key: scores[key] for key in ("pictures", "war", "uar", "easy", "hard", "ece", "aurc")},
    )
    (folder / f"{name}.md").write_text(card)
    return card


def main(argv: list[str]) -> None:
    """Packs the network of --run."""
    del argv
    folder = pathlib.Path(FLAGS.output) if FLAGS.output else weights.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    print(pack(epath.Path(FLAGS.run), FLAGS.name, folder))


FLAGS = flags.FLAGS

if __name__ == "__main__":
    flags.DEFINE_string("run", None, "folder of the run", required=True)
    flags.DEFINE_string("name", "faces", "name of the network")
    flags.DEFINE_string("output", "", "folder of the files; default: that of the package")
    app.run(main)
