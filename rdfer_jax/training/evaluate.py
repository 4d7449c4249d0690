"""Evaluation: every video of a split once -> predictions.npz, results.json, pictures."""

import contextlib
import itertools
import logging
from collections.abc import Iterator
from typing import Any, Self

import grain
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from rdfer_jax import metrics, models, optim, plots, sharding
from rdfer_jax import state as state_lib
from rdfer_jax.config import Config
from rdfer_jax.pipeline import loader, sampling, source
from rdfer_jax.pipeline.feed import close, placer
from rdfer_jax.state import TrainState
from rdfer_jax.steps import make_predict_step
from rdfer_jax.training import run_dir
from rdfer_jax.training.checkpoint import Checkpoints, abstract
from rdfer_jax.training.predictions import TEST_FILE, TRAIN_FILE, Predictions

log = logging.getLogger(__name__)

#: Outputs of the network that are saved, see types.Prediction.
OUTPUTS = ("logits", "clip_logits", "agreement", "consensus", "noise_score", "key_instants")


class Evaluator:
    """Predicts every clip of a split, on any number of devices and processes.

    Use as a context manager where a split is eval_split.
    """

    def __init__(
        self,
        config: Config,
        network: models.Network,
        mesh: Mesh,
        eval_split: source.Split | None = None,
    ):
        """Prepares the step, which is compiled once for all splits and states.

        Args:
          config: all settings.
          network: predicts.
          mesh: of the devices.
          eval_split: a split that will be predicted again and again. What reads it is started once, and
            has the first batches ready when they are asked for.
        """
        self._config, self._watched = config, eval_split
        self._local = sharding.local_batch_size(
            config.data.eval_batch_size, mesh, "config.data.eval_batch_size"
        )
        self._predict = jax.jit(
            make_predict_step(config, network),
            in_shardings=(sharding.replicated(mesh), sharding.split_batch(mesh)),
            out_shardings=sharding.replicated(mesh),
        )
        self._place = placer(mesh)
        self._watching: Iterator[loader.Element] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._watching is not None:
            close(self._watching)
            self._watching = None

    def __call__(self, state: TrainState, split: source.Split) -> Predictions:
        """Returns the predictions; complete in every process."""
        batches = loader.eval_batches(len(split), self._local * jax.process_count())
        predicted, known, pending = [], [], None
        with self._reading(split) as elements:
            for element in itertools.islice(elements, batches):
                batch, host = self._place(element)
                known.append(host)
                ahead = self._predict(state, batch)
                if pending is not None:
                    predicted.append(jax.device_get(pending))
                pending = ahead
        predicted.append(jax.device_get(pending))
        outputs = _stack(
            [
                {f: x for f in ("index", "mask", *OUTPUTS) if (x := getattr(p, f)) is not None}
                for p in predicted
            ]
        )
        rows = _by_index(outputs, len(split)) | _by_index(_gather(_stack(known)), len(split))
        if "key_instants" in rows:
            rows["key_frames"] = self._frames(rows["num_frames"], rows["key_instants"])
        return Predictions(split.title, split.classes, rows)

    @contextlib.contextmanager
    def _reading(self, split: source.Split) -> Iterator[Iterator[loader.Element]]:
        """Gives this process's rows of each batch of the split."""
        if split is self._watched:
            # Wherever in its round it is, so many batches hold every video once.
            self._watching = self._watching or iter(self._loader(split, rounds=None))
            yield self._watching
            return
        elements = iter(self._loader(split, rounds=1))
        try:
            yield elements
        finally:
            close(elements)

    def _loader(self, split: source.Split, rounds: int | None) -> grain.IterDataset[loader.Element]:
        return loader.eval_loader(
            split,
            self._config.data,
            local_batch_size=self._local,
            process=jax.process_index(),
            processes=jax.process_count(),
            rounds=rounds,
        )

    def _frames(self, num_frames_N: np.ndarray, positions_NM: np.ndarray) -> np.ndarray:
        """Positions in the buffer -> frames of the video."""
        buffer = self._config.data.frames
        frames = [
            sampling.frame_indices(int(n), buffer)[positions]
            for n, positions in zip(num_frames_N, positions_NM, strict=True)
        ]
        return np.array(frames, np.int32)


def evaluate(config: Config, workdir: epath.PathLike, checkpoint: str = "last") -> dict[str, Any]:
    """Restores a checkpoint and evaluates it on the test split.

    Args:
      config: as in training.
      workdir: of the training run; results.json, predictions.npz and pictures go there too.
      checkpoint: last, best, or a step.

    Returns:
      What results.json holds.

    Raises:
      CheckpointNotFoundError: there is no such checkpoint.
      DatasetNotFoundError: the data set has not been built.
    """
    mesh = sharding.make_mesh()
    directory = source.find(config.data)
    whole, test = source.open_splits(directory, config.data)
    train, _ = source.hold_out(whole, config.data.validation_percent)
    network = models.create(config, len(test.classes), mesh.devices.flat[0].platform)
    shapes = abstract_state(config, network, len(test.classes), len(train), mesh)
    step, state = restore(workdir, checkpoint, shapes)
    log.info("restored step %d of %s", step, workdir)
    evaluator = Evaluator(config, network, mesh)
    results = report(evaluator, state, test, train, workdir, checkpoint)
    if jax.process_index() == 0:
        run_dir.write_json(epath.Path(workdir) / "results.json", results)
    return results


def restore(workdir: epath.PathLike, checkpoint: str, shapes: TrainState) -> tuple[int, TrainState]:
    """Returns a checkpoint's step and state.

    Args:
      workdir: of the training run.
      checkpoint: last, best, or a step.
      shapes: as `abstract_state` returns them.

    Raises:
      CheckpointNotFoundError: there is no such checkpoint.
      DamagedCheckpointError: its files are not those that were written.
    """
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.find(checkpoint)
        return step, checkpoints.restore(step, shapes)


def abstract_state(
    config: Config, network: models.Network, num_classes: int, num_train: int, mesh: Mesh
) -> TrainState:
    """Returns shapes, types and shardings of the train state, without computing it."""
    shapes = jax.eval_shape(lambda: new_state(config, network, num_classes, num_train))
    return abstract(shapes, sharding.replicated(mesh))


def new_state(
    config: Config,
    network: models.Network,
    num_classes: int,
    num_train: int,
    seed: jax.Array | None = None,
) -> TrainState:
    """Returns the train state before the first step, to be jitted onto a mesh; see state.create."""
    # The optimiser's state is the same for every schedule.
    optimizer = optim.create(config.optim, lambda step: 0.0)
    return state_lib.create(
        config, network, optimizer, num_classes=num_classes, num_train=num_train, seed=seed
    )


def report(
    evaluator: Evaluator,
    state: TrainState,
    test: source.Split,
    train: source.Split,
    workdir: epath.PathLike,
    checkpoint: str,
    predictions: Predictions | None = None,
) -> dict[str, Any]:
    """Evaluates a state on the test split, and its detection of wrong labels on the training split.

    Writes predictions.npz, pictures, and predictions_train.npz where it is known which labels are flipped.

    Args:
      evaluator: predicts.
      state: what is evaluated.
      test: the test split.
      train: the training split.
      workdir: folder of the run.
      checkpoint: what the state is called in the results.
      predictions: of this state on the test split, if they have been made already.

    Returns:
      What is to be said in results.json.
    """
    predictions = predictions or evaluator(state, test)
    results = {"checkpoint": checkpoint, "step": int(state.step)} | summary(predictions)
    train_predictions = None
    if train.knows_flips:
        train_predictions = evaluator(state, train)
        results |= noise_detection(train_predictions)
    if jax.process_index() == 0:
        _write(epath.Path(workdir), results, predictions, train_predictions)
    return results


def summary(predictions: Predictions) -> dict[str, Any]:
    """WAR, UAR, recalls, confusion matrix; with known truth also by easy and hard clips.

    Against the given labels, which are the clean ones in a clean test split.
    """
    label, best = predictions["label"], predictions["logits"].argmax(-1)
    confusion = metrics.confusion_matrix(label, best, len(predictions.classes))
    found = {"split": predictions.split} | metrics.summarize(confusion, predictions.classes)
    if "is_hard" in predictions:
        hard = predictions["is_hard"].astype(bool)
        for name, part in (("easy", ~hard), ("hard", hard)):
            found[f"war_{name}"] = float((best == label)[part].mean()) if part.any() else None
    if "key_start" in predictions and "key_frames" in predictions:
        start, end = predictions["key_start"][:, None], predictions["key_end"][:, None]
        frames = predictions["key_frames"]
        shows = np.array([name != "neutral" for name in predictions.classes])[label]
        inside = ((frames >= start) & (frames < end))[shows]
        chance = ((end - start)[:, 0] / predictions["num_frames"])[shows]
        found["key_frames_inside"] = float(inside.mean()) if shows.any() else None
        found["key_frames_inside_by_chance"] = float(chance.mean()) if shows.any() else None
    return found


def noise_detection(predictions: Predictions) -> dict[str, Any]:
    """How well agreement and loss tell flipped labels from true ones, as AUROC; None without flips.

    Among all clips, and, if it is known which are hard, among those that are flipped or hard, where
    the loss alone is said to fail.
    """
    flipped = predictions["is_flipped"].astype(bool)
    scores = {
        "agreement": predictions["noise_score"],
        "loss": metrics.loss_per_example(predictions["logits"], predictions["label"]),
    }
    found: dict[str, Any] = {"noise_split": predictions.split, "noise_share": float(flipped.mean())}
    hard = predictions["is_hard"].astype(bool) if "is_hard" in predictions else None
    if hard is not None:
        disagreement = 1 - predictions["agreement"]
        found["hard_auroc_agreement"] = metrics.finite_or_none(
            metrics.auroc(disagreement[~flipped], hard[~flipped])
        )
    for name, score in scores.items():
        found[f"noise_auroc_{name}"] = metrics.finite_or_none(metrics.auroc(score, flipped))
        if hard is not None:
            doubtful = flipped | hard
            among = metrics.auroc(score[doubtful], flipped[doubtful])
            found[f"noise_auroc_{name}_among_hard"] = metrics.finite_or_none(among)
    return found


def describe(results: dict[str, Any]) -> str:
    """Results as a few lines for the terminal."""
    lines = [
        f"{results['checkpoint']} checkpoint, step {results['step']}, split {results['split']}: "
        f"WAR {results['war']:.4f}  UAR {results['uar']:.4f}  ({results['num_examples']} clips)"
    ]
    if results.get("war_hard") is not None:
        lines.append(
            f"easy clips WAR {results['war_easy']:.4f}, hard clips {results['war_hard']:.4f}"
        )
    recalls = results["recall_per_class"].items()
    lines.append(
        "recall " + ", ".join(f"{k} {'-' if v is None else f'{v:.2f}'}" for k, v in recalls)
    )
    if results.get("noise_auroc_agreement") is not None:
        lines.append(
            f"flipped labels of split {results['noise_split']} ({results['noise_share']:.1%}) found, "
            f"AUROC: by agreement {results['noise_auroc_agreement']:.4f}, "
            f"by loss {results['noise_auroc_loss']:.4f}"
        )
    if results.get("noise_auroc_agreement_among_hard") is not None:
        lines.append(
            "the same among flipped or hard clips only: by agreement "
            f"{results['noise_auroc_agreement_among_hard']:.4f}, "
            f"by loss {results['noise_auroc_loss_among_hard']:.4f}"
        )
    if results.get("key_frames_inside") is not None:
        lines.append(
            f"key frames inside the true key segment {results['key_frames_inside']:.1%}, "
            f"by chance {results['key_frames_inside_by_chance']:.1%}"
        )
    return "\n".join(lines)


def _write(
    workdir: epath.Path,
    results: dict[str, Any],
    predictions: Predictions,
    train_predictions: Predictions | None,
) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    predictions.save(workdir / TEST_FILE)
    title = f"{results['split']}, {results['checkpoint']}: WAR {results['war']:.1%}"
    picture = plots.confusion_matrix_figure(
        np.array(results["confusion_matrix"]), predictions.classes, title
    )
    plots.save(picture, workdir / "confusion_matrix.png")
    if train_predictions is not None:
        train_predictions.save(workdir / TRAIN_FILE)
        flipped = train_predictions["is_flipped"].astype(bool)
        hard = train_predictions.arrays.get("is_hard", np.zeros_like(flipped)).astype(bool)
        picture = plots.agreement_histogram(train_predictions["agreement"], flipped, hard)
        plots.save(picture, workdir / "agreement.png")


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in parts[0]}


def _gather(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Puts the rows of all processes together, in every process."""
    if jax.process_count() == 1:
        return rows
    texts = {key: value for key, value in rows.items() if value.dtype.kind in "US"}
    numbers = {key: value for key, value in rows.items() if key not in texts}
    for key, value in texts.items():
        encoded = np.char.encode(value, "utf-8")
        width = int(multihost_utils.process_allgather(np.array(encoded.itemsize)).max())
        padded = np.ascontiguousarray(encoded.astype(f"S{width}"))
        numbers[key] = padded.view(np.uint8).reshape(len(value), width)
    gathered = multihost_utils.process_allgather(numbers, tiled=True)
    for key in texts:
        raw = np.ascontiguousarray(gathered[key])
        gathered[key] = np.char.decode(raw.view(f"S{raw.shape[1]}")[:, 0], "utf-8")
    return gathered


def _by_index(rows: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Drops the padding and sorts by index.

    Raises:
      RuntimeError: a clip is missing or came twice.
    """
    real = np.flatnonzero(rows["mask"])
    order = real[np.argsort(rows["index"][real], kind="stable")]
    if not np.array_equal(rows["index"][order], np.arange(count)):
        raise RuntimeError(
            f"{len(order)} predictions for {count} clips: each must come exactly once"
        )
    return {key: value[order] for key, value in rows.items() if key not in ("index", "mask")}
