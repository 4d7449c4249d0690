"""Evaluation: predictions for every clip of a split, scores, predictions.npz, results.json and plots."""

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

from rdfer_jax import class_shares, intervals, metrics, models, plots, sharding
from rdfer_jax.calibration import calibrated
from rdfer_jax.config import Config
from rdfer_jax.pipeline import loader, sampling, source
from rdfer_jax.pipeline.feed import close, placer
from rdfer_jax.state import TrainState
from rdfer_jax.steps import make_predict_step
from rdfer_jax.training import automatic, memory_limit, run_dir
from rdfer_jax.training.automatic import LEAST_VALIDATION
from rdfer_jax.training.predictions import TEST_FILE, TRAIN_FILE, Predictions
from rdfer_jax.training.setup import Setup

log = logging.getLogger(__name__)

#: Fewer clips of a class than this are few.
FEW = 10

#: Outputs of the network that are saved, see types.Prediction.
OUTPUTS = ("logits", "clip_logits", "agreement", "consensus", "noise_score", "key_instants")


class Evaluator:
    """Predicts every clip of a split, on any number of devices and processes.

    Use as a context manager if there is an eval_split.
    """

    def __init__(
        self,
        config: Config,
        network: models.Network,
        mesh: Mesh,
        eval_split: source.Split | None = None,
    ):
        """Prepares the prediction step, which is compiled once for all splits and states.

        Args:
          config: all settings.
          network: predicts.
          mesh: the devices.
          eval_split: a split that is predicted many times during training. It is read by one endless
            loader, which has the first batches of the next evaluation ready.
        """
        self._config, self._eval_split, self._mesh = config, eval_split, mesh
        self._is_compiled = False
        self._local_batch_size = sharding.local_batch_size(
            config.data.eval_batch_size, mesh, "config.data.eval_batch_size"
        )
        self._predict = jax.jit(
            make_predict_step(config, network),
            in_shardings=(None, sharding.split_batch(mesh)),  # the state as it is
            out_shardings=sharding.replicated(mesh),
        )
        self._place = placer(mesh)
        self._eval_elements: Iterator[loader.Element] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._eval_elements is not None:
            close(self._eval_elements)
            self._eval_elements = None

    def __call__(self, state: TrainState, split: source.Split) -> Predictions:
        """Returns the predictions for all clips of the split, in every process."""
        batches = loader.eval_batches(len(split), self._local_batch_size * jax.process_count())
        outputs, known, pending = [], [], None
        with self._elements(split) as elements:
            for element in itertools.islice(elements, batches):
                batch, on_host = self._place(element)
                known.append(on_host)
                if not self._is_compiled:
                    memory_limit.compile_and_check(
                        self._predict, (state, batch), self._mesh,
                        "evaluation step, config.data.eval_batch_size",
                        self._config.data.eval_batch_size,
                    )  # fmt: skip
                    self._is_compiled = True
                newest = self._predict(state, batch)
                if pending is not None:
                    outputs.append(_on_host(pending))
                pending = newest  # fetched while the next batch is computed
        outputs.append(_on_host(pending))
        rows = _by_index(_stack(outputs), len(split))
        rows |= _by_index(_gather(_stack(known)), len(split))
        self._tell_short(rows["num_frames"], split)
        if "key_instants" in rows:
            rows["key_frames"] = self._frames(rows["num_frames"], rows["key_instants"])
        return Predictions(split.title, split.classes, rows)

    @contextlib.contextmanager
    def _elements(self, split: source.Split) -> Iterator[Iterator[loader.Element]]:
        """Yields an iterator over this process's rows of each batch of the split."""
        if split is self._eval_split:
            # A round of the endless loader holds every clip once, wherever it starts.
            self._eval_elements = self._eval_elements or iter(self._loader(split, rounds=None))
            yield self._eval_elements
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
            local_batch_size=self._local_batch_size,
            process=jax.process_index(),
            processes=jax.process_count(),
            rounds=rounds,
        )

    def _tell_short(self, num_frames_N: np.ndarray, split: source.Split) -> None:
        """Logs how many videos are shorter than a snippet, which repeats their last frame."""
        data = self._config.data
        least = (data.snippet - 1) * data.stride + 1
        short = int((num_frames_N < least).sum())
        if short:
            log.warning(
                "%d of %d videos of split %s have fewer than the %d frames over which a snippet extends "
                "(config.data.snippet = %d, config.data.stride = %d): their last frame is repeated",
                short, len(num_frames_N), split.title, least, data.snippet, data.stride,
            )  # fmt: skip

    def _frames(self, num_frames_N: np.ndarray, positions_NM: np.ndarray) -> np.ndarray:
        """Converts positions in the frame buffer to frame numbers of the video."""
        data = self._config.data
        frames = [
            sampling.chosen_frames(int(num_frames), data)[positions_M]
            for num_frames, positions_M in zip(num_frames_N, positions_NM, strict=True)
        ]
        return np.array(frames, np.int32)


def evaluate(config: Config, workdir: epath.PathLike, checkpoint: str = "last") -> dict[str, Any]:
    """Restores a checkpoint and evaluates it on the test split.

    Args:
      config: the settings of the training run.
      workdir: folder of the training run; results.json, predictions.npz and plots go there too.
      checkpoint: last, best, or a step.

    Returns:
      The content of results.json.

    Raises:
      CheckpointNotFoundError: there is no such checkpoint.
      DamagedCheckpointError: the files of the checkpoint have changed since they were written.
      DatasetNotFoundError: the data set has not been built.
      ValueError: the run is one of pretraining.
    """
    run_dir.check_kind(workdir)
    file, shift_N = config.predict.class_shares, None
    if file:
        info = run_dir.read(workdir)
        shift_N = class_shares.read(file, info.classes, info.config)
    setup = Setup.create(automatic.of_run(config, workdir))
    step, state = setup.restore(workdir, checkpoint)
    log.info("restored step %d of %s", step, workdir)
    evaluator = Evaluator(setup.config, setup.network, setup.mesh)
    predictions = evaluator(state, setup.test)
    results = evaluate_and_save(evaluator, state, setup, workdir, checkpoint, predictions)
    if shift_N is not None:
        scale = config.predict.temperature or results["temperature"] or 1.0
        results["class_shares"] = {"file": file} | shifted_scores(predictions, scale * shift_N)
    if jax.process_index() == 0:
        run_dir.write_json(epath.Path(workdir) / "results.json", results)
    return results


def evaluate_and_save(
    evaluator: Evaluator,
    state: TrainState,
    setup: Setup,
    workdir: epath.PathLike,
    checkpoint: str,
    predictions: Predictions | None = None,
) -> dict[str, Any]:
    """Evaluates a state on the test split, and how well it detects wrong labels of the training split.

    Writes predictions.npz and plots; also predictions_train.npz where the flipped labels are known.

    Args:
      evaluator: predicts.
      state: the state to evaluate.
      setup: the splits.
      workdir: folder of the run.
      checkpoint: name of the state in the results.
      predictions: for the test split by this state, if there are any already.

    Returns:
      The results, as for results.json.
    """
    predictions = predictions or evaluator(state, setup.test)
    results = {"checkpoint": checkpoint, "step": int(state.step)} | final_summary(predictions)
    train_predictions = None
    if setup.train.knows_flips:
        train_predictions = evaluator(state, setup.train)
        results |= noise_detection(train_predictions)
    if jax.process_index() == 0:
        _write(epath.Path(workdir), results, predictions, train_predictions)
    return results


def final_summary(predictions: Predictions) -> dict[str, Any]:
    """Returns the summary of a network that is done, with the temperature that calibrates it."""
    return summary(predictions) | calibrated(predictions["logits"], predictions["label"])


def shifted_scores(predictions: Predictions, shift_N: np.ndarray) -> dict[str, float]:
    """Returns WAR and UAR with float [N] added to the logits of the classes."""
    best = (predictions["logits"] + shift_N).argmax(-1)
    confusion = metrics.confusion_matrix(predictions["label"], best, len(predictions.classes))
    scores = metrics.summarize(confusion, predictions.classes)
    return {name: scores[name] for name in ("war", "uar")}


def summary(predictions: Predictions) -> dict[str, Any]:
    """Returns WAR, UAR, recalls and confusion matrix; where the truth or votes are known, more.

    Scores are measured against the given labels, which are the true ones in a clean test split. Where it
    is known which clips are hard, WAR is also given for easy and for hard clips; where the key segment is
    known, also the share of key frames inside of it. Where clips have annotators' votes, also the mean of
    KL(votes || prediction) over these clips, and their number.
    """
    label, best = predictions["label"], predictions["logits"].argmax(-1)
    confusion = metrics.confusion_matrix(label, best, len(predictions.classes))
    scores = {"split": predictions.split} | metrics.summarize(confusion, predictions.classes)
    if "votes" in predictions:
        divergence = metrics.divergence_from_votes(predictions["logits"], predictions["votes"])
        has_votes = ~np.isnan(divergence)
        if has_votes.any():
            scores["kl_votes"] = float(divergence[has_votes].mean())
            scores["clips_with_votes"] = int(has_votes.sum())
    if "is_hard" in predictions:
        hard = predictions["is_hard"].astype(bool)
        for name, part in (("easy", ~hard), ("hard", hard)):
            scores[f"war_{name}"] = float((best == label)[part].mean()) if part.any() else None
    if "key_start" in predictions and "key_frames" in predictions:
        start, end = predictions["key_start"][:, None], predictions["key_end"][:, None]
        frames = predictions["key_frames"]
        has_key = np.array([name != "neutral" for name in predictions.classes])[label]
        inside = ((frames >= start) & (frames < end))[has_key]
        chance = ((end - start)[:, 0] / predictions["num_frames"])[has_key]
        scores["key_frames_inside"] = float(inside.mean()) if has_key.any() else None
        scores["key_frames_inside_by_chance"] = float(chance.mean()) if has_key.any() else None
    return scores


def noise_detection(predictions: Predictions) -> dict[str, Any]:
    """Returns the AUROC of detecting flipped labels by agreement and by loss; None without flips.

    Measured among all clips and, if it is known which are hard, among the flipped or hard clips, where the
    loss alone is expected to fail.
    """
    flipped = predictions["is_flipped"].astype(bool)
    scores = {
        "agreement": predictions["noise_score"],
        "loss": metrics.loss_per_example(predictions["logits"], predictions["label"]),
    }
    aurocs: dict[str, Any] = {
        "noise_split": predictions.split,
        "noise_share": float(flipped.mean()),
    }
    hard = predictions["is_hard"].astype(bool) if "is_hard" in predictions else None
    if hard is not None:
        disagreement = 1 - predictions["agreement"]
        aurocs["hard_auroc_agreement"] = metrics.finite_or_none(
            metrics.auroc(disagreement[~flipped], hard[~flipped])
        )
    for name, score in scores.items():
        aurocs[f"noise_auroc_{name}"] = metrics.finite_or_none(metrics.auroc(score, flipped))
        if hard is not None:
            doubtful = flipped | hard
            among = metrics.auroc(score[doubtful], flipped[doubtful])
            aurocs[f"noise_auroc_{name}_among_hard"] = metrics.finite_or_none(among)
    return aurocs


def describe(results: dict[str, Any]) -> str:
    """Returns the results as a few lines of text for the terminal."""
    number, matrix = results["num_examples"], results["confusion_matrix"]
    war, uar = intervals.wilson(round(results["war"] * number), number), intervals.uar(matrix)
    lines = [
        f"{results['checkpoint']} checkpoint, step {results['step']}, split {results['split']}: "
        f"WAR {results['war']:.4f}  UAR {results['uar']:.4f}  ({number} clips)",
        f"95 % intervals, for other clips like these: WAR {war.low:.2f} to {war.high:.2f}, "
        f"UAR {uar.low:.2f} to {uar.high:.2f}",
    ]
    fewest = min(filter(None, map(sum, matrix)), default=0)
    if fewest < FEW:
        lines.append(
            f"only {fewest} clip{'s' * (fewest != 1)} of the rarest class: with so few, these numbers mean "
            "little"
        )
    if "chosen_on" in results:
        lines.append(_choice(results["chosen_on"], results["chosen_war"]))
    if results.get("war_hard") is not None:
        lines.append(
            f"easy clips WAR {results['war_easy']:.4f}, hard clips {results['war_hard']:.4f}"
        )
    if "kl_votes" in results:
        lines.append(
            f"KL(votes || prediction) {results['kl_votes']:.4f} nats, mean of the "
            f"{results['clips_with_votes']} clips with votes"
        )
    if results.get("temperature") is not None:
        lines.append(
            f"expected calibration error {results['ece']:.3f}; {results['ece_calibrated']:.3f} if the "
            f"logits are divided by {results['temperature']:.2f}, as in prediction"
        )
    if "class_shares" in results:
        found = results["class_shares"]
        lines.append(
            f"with the class shares of {found['file']}: WAR {found['war']:.4f}  UAR {found['uar']:.4f}"
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
            "among flipped or hard clips only: by agreement "
            f"{results['noise_auroc_agreement_among_hard']:.4f}, "
            f"by loss {results['noise_auroc_loss_among_hard']:.4f}"
        )
    if results.get("key_frames_inside") is not None:
        lines.append(
            f"key frames inside the true key segment {results['key_frames_inside']:.1%}, "
            f"by chance {results['key_frames_inside_by_chance']:.1%}"
        )
    return "\n".join(lines)


def _choice(number: int, score: float) -> str:
    """Returns a line about the clips of the validation part, on which a checkpoint was chosen."""
    interval = intervals.wilson(round(score * number), number)
    line = (
        f"chosen on {number} clips, by WAR {score:.2f} ({interval.low:.2f} to {interval.high:.2f})"
    )
    if number < LEAST_VALIDATION:
        line += ": so few mean little, and the last checkpoint is the safer one"
    return line


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


def _on_host(prediction: Any) -> dict[str, np.ndarray]:
    """Waits for a batch's types.Prediction and returns its fields that are saved or locate its rows."""
    fields = ("index", "mask", *OUTPUTS)
    fetched = jax.device_get(prediction)
    return {name: x for name in fields if (x := getattr(fetched, name)) is not None}


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in parts[0]}


def _gather(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the rows of all processes, in every process; texts travel as bytes."""
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
    """Returns the rows without padding, sorted by index.

    Raises:
      RuntimeError: a clip is missing or was predicted twice.
    """
    real = np.flatnonzero(rows["mask"])
    order = real[np.argsort(rows["index"][real], kind="stable")]
    if not np.array_equal(rows["index"][order], np.arange(count)):
        raise RuntimeError(
            f"got {len(order)} predictions for {count} clips, expected exactly one per clip"
        )
    return {key: value[order] for key, value in rows.items() if key not in ("index", "mask")}
