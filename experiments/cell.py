"""Trains one cell of a grid in this process: in memory, without checkpoints, evaluated once at the end.

Enters: cell.json in the folder of a cell, see grid.py. Leaves: result.json, and run/predictions.npz and
run/predictions_train.npz, in the format of rdfer_jax.training.predictions but with half precision and
without what no analysis reads.

The train step, the order of the data, the augmentation and the results are those of `rdfer train` with the
same settings. What differs is the cost: the frames are decoded once and shared by all cells, a program is
compiled once for all cells whose settings differ only in what the program does not contain (seed, labels,
places), and nothing else is written while training, but a small state every few minutes from which a
killed cell continues.
"""

import dataclasses
import functools
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from benchmarks import harness
from experiments import evidence
from rdfer_jax import atomic, sharding
from rdfer_jax import config as config_lib
from rdfer_jax.config import Config
from rdfer_jax.labels import relabel
from rdfer_jax.pipeline import loader, source
from rdfer_jax.pipeline.feed import close, feed
from rdfer_jax.state import TrainState
from rdfer_jax.steps import TrainStep
from rdfer_jax.training import automatic, pretrain, train
from rdfer_jax.training.evaluate import Evaluator, final_summary, noise_detection
from rdfer_jax.training.loop import NonFiniteLossError
from rdfer_jax.training.predictions import TEST_FILE, TRAIN_FILE, Predictions
from rdfer_jax.training.setup import ModelSetup, Setup

#: Seconds between two states of an unfinished cell.
SAVE_SECONDS = 180.0
#: Files of an unfinished cell: its state, and the labels for the second of two trainings.
STATE, LABELS = "state.npz", "labels.csv"
#: Steps between two checks that the loss is finite.
CHECK_STEPS = 50
#: Compiled programs that a process keeps.
PROGRAMS = 4
#: What the files of predictions keep, besides the truth.
KEPT = ("clip_id", "label", "logits", "clip_logits", "agreement", "noise_score")


def program(config: Config) -> str:
    """Returns what the compiled steps depend on: cells with equal texts share a program."""
    settings = config_lib.to_dict(config)
    for name in ("seed", "build", "predict", "compile_cache", "profile", "init_from"):
        del settings[name]
    for name in ("dir", "name", "variant", "train_split", "test_split", "labels", "frame_cache"):
        del settings["data"][name]
    # Of the loop's settings, only the length of the run is in the program.
    settings["train"] = {"duration": settings["train"]["duration"]}
    return json.dumps(settings, sort_keys=True, default=list)


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled parts of a cell.

    Attributes:
      setup: the network, which creates the state.
      step: the jitted train step.
      evaluator: predicts a split.
    """

    setup: ModelSetup
    step: TrainStep
    evaluator: Evaluator


class Trainer:
    """Trains cells one after the other and keeps programs and opened data sets between them."""

    def __init__(self) -> None:
        """Starts with nothing compiled."""
        self._programs: OrderedDict[tuple[str, int, int], Program] = OrderedDict()

    def train(self, config: Config, folder: epath.Path) -> dict[str, Any]:
        """Trains and evaluates a cell.

        Args:
          config: all settings.
          folder: of the cell; an earlier process may have left its state there.

        Returns:
          results: as `rdfer train` writes them to results.json; evidence: as evidence.collect returns it.

        Raises:
          NonFiniteLossError: training diverged.
          ValueError: the settings need what a cell does not have.
        """
        setup, compiled, state = self.fit(config, folder)
        test, train = compiled.evaluator(state, setup.test), None
        results = {"checkpoint": "last", "step": int(state.step)} | final_summary(test)
        save_predictions(test, folder / "run" / TEST_FILE)
        if setup.train.knows_flips:
            train = compiled.evaluator(state, setup.train)
            results |= noise_detection(train)
            save_predictions(train, folder / "run" / TRAIN_FILE, memory(state))
        (folder / STATE).unlink(missing_ok=True)
        found = evidence.collect(test, train, state, config)
        return {"results": results, "evidence": found}

    def fit(self, config: Config, folder: epath.Path) -> tuple[Setup, Program, TrainState]:
        """Trains without evaluating; arguments and errors as in `train`."""
        setup = open_data(config)
        compiled = self._program(setup)
        return setup, compiled, run(setup, compiled, folder)

    def relabel(self, config: Config, folder: epath.Path, **options: Any) -> None:
        """Trains, and writes labels.csv for a second training, see labels.relabel.

        Args:
          config: all settings of the first training, which needs a memory.
          folder: of the cell.
          **options: score and threshold of relabel.new_labels.
        """
        setup, _, state = self.fit(config, folder)
        assert state.memory is not None, "config.agreement.memory_decay must be above 0"
        relabel.write_remembered(setup, state.memory, folder / LABELS, **options)
        (folder / STATE).unlink(missing_ok=True)

    def _program(self, setup: Setup) -> Program:
        key = (program(setup.config), setup.num_classes, setup.num_train)
        if key not in self._programs:
            evaluator = Evaluator(setup.config, setup.network, setup.mesh)
            self._programs[key] = Program(setup, setup.train_step(), evaluator)
            if len(self._programs) > PROGRAMS:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]


def open_data(config: Config) -> Setup:
    """Returns the set-up of a cell, with decoded frames if config.data.frame_cache is set.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      ValueError: the settings need what a cell does not have.
    """
    if config.data.validation_percent:
        raise ValueError(
            "config.data.validation_percent: expected 0 in a cell of a grid, got "
            f"{config.data.validation_percent:g}"
        )
    directory = source.find(config.data)
    config = automatic.choose_splits(config, source.splits(directory))
    train, test = _splits(directory, dataclasses.replace(config.data, labels="", dir=""))
    if config.data.labels:
        # Only the labels: the frames of all label files are the same.
        train = dataclasses.replace(
            train, labels=source.training_split(directory, config.data).labels
        )
    mesh = sharding.make_mesh()
    config = automatic.choose(config, automatic.facts_of(train, mesh))
    return Setup(config, mesh, directory, train, None, test)


@functools.lru_cache(maxsize=4)
def _splits(directory: epath.Path, data: config_lib.Data) -> tuple[source.Split, source.Split]:
    train, test = source.open_splits(directory, data)
    return train.with_cache(data), test.with_cache(data)


def run(setup: Setup, compiled: Program, folder: epath.Path) -> TrainState:
    """Runs all steps, from the state in the folder if there is one, and returns the final state.

    Raises:
      NonFiniteLossError: the loss is infinite or NaN.
    """
    config, counts = setup.config, setup.counts
    state = compiled.setup.new_state(config.seed, setup.class_prior)
    saved = folder / STATE
    if saved.exists():
        state = restore(saved, state)
    elif config.init_from:
        state = train.initialized(state, config.init_from)
    start = int(state.step)
    batches = loader.train_loader(
        setup.train,
        config.data,
        seed=config.seed,
        local_batch_size=setup.local_batch_size,
        process=0,
        processes=1,
        start=start,
    )
    iterator = iter(feed(batches, setup.mesh, config.data.prefetch))
    written = time.monotonic()
    try:
        for done in range(start + 1, counts.total + 1):
            batch, _ = next(iterator)
            state, metrics = compiled.step(state, batch)
            if done % CHECK_STEPS == 0 or done == counts.total:
                loss = float(metrics.compute()["loss"])
                if not np.isfinite(loss):
                    raise NonFiniteLossError(f"the loss of step {done} is {loss}")
            if counts.record and done % counts.record == 0:
                path = folder / "run" / "epochs" / f"train_{round(done / counts.epoch):04d}.npz"
                save_predictions(compiled.evaluator(state, setup.train), path)
            if time.monotonic() - written > SAVE_SECONDS and done < counts.total:
                save(saved, state)
                written = time.monotonic()
    finally:
        close(iterator)
    return state


def save(path: epath.Path, state: TrainState) -> None:
    """Writes the leaves of a state, in one step."""
    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    with atomic.replacement(path) as part, part.open("wb") as file:
        np.savez(file, **leaves)  # type: ignore[arg-type]


def restore(path: epath.Path, like: TrainState) -> TrainState:
    """Returns a saved state with the structure and the devices of another."""
    leaves, structure = jax.tree.flatten(like)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        read = [stored[str(i)] for i in range(len(leaves))]
    placed = [jax.device_put(x, leaf.sharding) for x, leaf in zip(read, leaves, strict=True)]
    return jax.tree.unflatten(structure, placed)


def memory(state: TrainState) -> dict[str, np.ndarray]:
    """Returns the memory of the training videos as arrays of the file of predictions."""
    if state.memory is None:
        return {}
    return {f"memory_{name}": np.asarray(getattr(state.memory, name)) for name in evidence.MEMORY}


def save_predictions(
    predictions: Predictions, path: epath.Path, more: Mapping[str, np.ndarray] | None = None
) -> None:
    """Saves the arrays KEPT, the truth, and more; numbers with a fraction in half precision."""
    names = [name for name in (*KEPT, *source.TRUTH_KEYS) if name in predictions]
    arrays = {name: predictions[name] for name in names} | dict(more or {})
    compact = {k: v.astype(np.float16) if v.dtype.kind == "f" else v for k, v in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    dataclasses.replace(predictions, arrays=compact).save(path)


def run_cell(folder: epath.Path, trainer: Trainer) -> None:
    """Trains the cell of a folder and writes its result.json."""
    spec = json.loads((folder / "cell.json").read_text())
    config = harness.load(spec["config"], spec["settings"])
    if config.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    commit = harness.commit()  # before anyone edits the code
    start, cpu = time.monotonic(), time.process_time()
    if again := spec.get("again"):
        options = dict(again)
        if not (folder / LABELS).exists():
            first = harness.load(spec["config"], spec["settings"] | options.pop("first"))
            trainer.relabel(first, folder, **options)
        data = dataclasses.replace(config.data, labels=str(folder / LABELS))
        config = dataclasses.replace(config, data=data)
    if first := spec.get("pretraining"):
        before = folder / "pretraining"
        pretrain.pretrain(harness.load(first["config"], first["settings"]), before)
        config = dataclasses.replace(config, init_from=str(before / pretrain.WEIGHTS))
    found = trainer.train(config, folder)
    result = {
        "name": spec["name"],
        "noise": spec["noise"],
        "seed": config.seed,
        "settings": spec["settings"],
        **found,
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - cpu,
        "commit": commit,
        "hardware": harness.hardware(),
    }
    text = json.dumps(result, indent=2) + "\n"
    atomic.write_bytes(folder / "result.json", text.encode())
