"""The set-up that training, evaluation, prediction and the benchmarks start from.

`ModelSetup` needs no data set: the network on its devices, the train step and its state. `Setup` adds the
splits of a data set.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from rdfer_jax import config as config_lib
from rdfer_jax import models, optim, priors, sharding
from rdfer_jax import state as state_lib
from rdfer_jax.config import Config
from rdfer_jax.pipeline import source
from rdfer_jax.pipeline.source import Split
from rdfer_jax.state import TrainState
from rdfer_jax.steps import TrainStep, make_train_step
from rdfer_jax.training import automatic, memory_limit, run_dir
from rdfer_jax.training.checkpoint import Checkpoints
from rdfer_jax.types import Batch

log = logging.getLogger(__name__)

#: Part of a device's memory that the whole state may fill before it is split over the devices.
_SHARE_OF_STATE = 0.25


class StepCounts:
    """The durations in the settings, as numbers of steps.

    Attributes:
      epoch: steps of an epoch, which sees every training video once, rounded.
      total: steps of the run.
      evaluate, save, log: steps between two evaluations, checkpoints, rows of metrics.
      record: steps between two files of predictions for the training split; 0 for never.
    """

    def __init__(self, config: Config, num_train: int):
        """Converts the durations of a run on num_train videos."""
        self.epoch = max(1, round(num_train / config.data.batch_size))
        self.total = config_lib.steps(config.train.duration, steps_per_epoch=self.epoch)

        def every(duration: str) -> int:
            return config_lib.steps(duration, steps_per_epoch=self.epoch, total_steps=self.total)

        self.evaluate = every(config.train.eval_every)
        self.save = every(config.train.save_every)
        self.log = every(config.train.log_every)
        self.record = every(config.train.record_every) if config.train.record_every else 0


class ModelSetup:
    """A network on a mesh of devices, with its train step and state.

    The devices need not exist: for those of a topology description the step can be compiled, not run.
    """

    def __init__(self, config: Config, mesh: Mesh, num_classes: int, num_train: int):
        """Creates the network, as pure functions without variables.

        Args:
          config: all settings.
          mesh: the devices.
          num_classes: N.
          num_train: videos of the training split.

        Raises:
          ValueError: a setting is "auto".
        """
        if config.auto:
            raise ValueError(
                f"config.{config.auto[0]} = 'auto': it is chosen for a data set, by rdfer train or "
                "crossval; set a value"
            )
        self.config, self.mesh = config, mesh
        self.num_classes, self.num_train = num_classes, num_train

    @property
    def platform(self) -> str:
        """The kind of the devices: cpu, gpu or tpu."""
        return self.mesh.devices.flat[0].platform

    @functools.cached_property
    def network(self) -> models.Network:
        """The network, as pure functions."""
        return models.create(self.config, self.num_classes, self.platform)

    @functools.cached_property
    def counts(self) -> StepCounts:
        """The durations of the run in steps."""
        return StepCounts(self.config, self.num_train)

    @functools.cached_property
    def learning_rate(self) -> optax.Schedule:
        """The learning rate as a function of the step."""
        return optim.schedule(
            self.config.optim,
            total_steps=self.counts.total,
            steps_per_epoch=self.counts.epoch,
        )

    @functools.cached_property
    def class_prior(self) -> np.ndarray | None:
        """The share of each class among the training labels, float32 [N]; None for equal ones."""
        return None

    @property
    def local_batch_size(self) -> int:
        """Training videos that this process loads for a step.

        Raises:
          ValueError: the batch cannot be split evenly over the devices.
        """
        return sharding.local_batch_size(
            self.config.data.batch_size, self.mesh, "config.data.batch_size"
        )

    def train_step(self) -> TrainStep:
        """Returns the train step, jitted over the mesh with the state donated."""
        return jax.jit(
            self._step(),
            in_shardings=(self.layout, sharding.split_batch(self.mesh)),
            out_shardings=(self.layout, sharding.replicated(self.mesh)),
            donate_argnums=0,
        )

    def new_state(
        self, seed: int | None = None, class_prior: np.ndarray | None = None
    ) -> TrainState:
        """Returns the state before the first step, on the devices.

        Args:
          seed: config.seed if None.
          class_prior: float32 [N], the shares of the classes in another run; those of this one if None.
        """
        seed = self.config.seed if seed is None else seed
        prior_N = self.class_prior if class_prior is None else class_prior
        return self._new_state(np.uint32(seed), prior_N)

    @functools.cached_property
    def _new_state(self) -> Callable[[np.uint32, np.ndarray | None], TrainState]:
        # The seed is an argument, so that runs with other seeds find the program in the compilation cache.
        return jax.jit(self._create, out_shardings=self.layout)

    def abstract_state(self) -> TrainState:
        """Returns the shapes, types and shardings of the state, without computing it."""
        return state_lib.abstract(self._shapes, self.layout)

    @functools.cached_property
    def layout(self) -> Any:
        """The shardings of the state: one for all of it, or a tree if large parameters are split."""
        whole, choice = sharding.replicated(self.mesh), self.config.train.shard_parameters
        large = {
            name: getattr(self._shapes, name)
            for name in ("params", "opt_state", "teacher", "average")
        }
        if choice == "auto":
            size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(large))
            limit = memory_limit.of_device(self.mesh)
            choice = "never"
            if limit and size > _SHARE_OF_STATE * limit:
                choice = "always"
                log.info(
                    "the state has %.3g GB, a device %.3g GB: config.train.shard_parameters is on",
                    size / 1e9, limit / 1e9,
                )  # fmt: skip
        if choice == "never" or self.mesh.size == 1:
            return whole
        split = {name: sharding.split_parameters(self.mesh, tree) for name, tree in large.items()}
        return dataclasses.replace(jax.tree.map(lambda _: whole, self._shapes), **split)

    @functools.cached_property
    def _shapes(self) -> TrainState:
        return jax.eval_shape(self._create, np.uint32(self.config.seed))

    def abstract_batch(self) -> Batch:
        """Returns the shapes, types and shardings of a training batch."""
        data, layout = self.config.data, sharding.split_batch(self.mesh)

        def array(shape: tuple[int, ...], dtype: Any) -> Any:
            return jax.ShapeDtypeStruct((data.batch_size, *shape), dtype, sharding=layout)

        return Batch(
            frames=array((data.frames, data.image_size, data.image_size, 3), jnp.uint8),
            label=array((), jnp.int32),
            index=array((), jnp.int32),
            mask=array((), jnp.bool_),
            votes=array((self.num_classes,), jnp.float32),
        )

    def abstract_step(self) -> tuple[TrainStep, tuple[TrainState, Batch]]:
        """Returns the train step and abstract arguments, to compile it without data or devices.

        Raises:
          ValueError: the batch cannot be split evenly over the devices.
        """
        assert self.local_batch_size
        return self.train_step(), (self.abstract_state(), self.abstract_batch())

    def restore(self, workdir: epath.PathLike, checkpoint: str) -> tuple[int, TrainState]:
        """Returns the step and the state of a checkpoint.

        Args:
          workdir: folder of the training run.
          checkpoint: last, best, or a step.

        Raises:
          CheckpointNotFoundError: there is no such checkpoint.
          DamagedCheckpointError: its files have changed since they were written.
        """
        with Checkpoints(workdir, best_metric=self.config.train.best_metric) as checkpoints:
            step = checkpoints.find(checkpoint)
            return step, checkpoints.restore(step, self.abstract_state())

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer with the schedule of the learning rate."""
        return optim.create(self.config.optim, self.learning_rate, self.config.model)

    def _step(self) -> TrainStep:
        """Returns the train step as a pure function."""
        return make_train_step(
            self.config,
            self.network,
            self.optimizer,
            total_steps=self.counts.total,
            steps_per_epoch=self.counts.epoch,
        )

    def _create(self, seed: jax.Array, class_prior: jax.Array | None = None) -> TrainState:
        return state_lib.create(
            self.config,
            self.network,
            num_classes=self.num_classes,
            num_train=self.num_train,
            seed=seed,
            class_prior=class_prior,
        )


class Setup(ModelSetup):
    """A network and the data set that it is trained and tested on.

    Attributes:
      directory: folder of the data set.
      data_set: name, variant and version of the data set, such as dfew/default/1.0.0.
      train: the training split, without the validation part.
      validation: the held-out validation part; None if config.data.validation_percent is 0.
      test: the test split.
      kind: what runs of this set-up do, see run_dir.
    """

    kind = "train"

    def __init__(
        self, config: Config, mesh: Mesh, directory: epath.Path, train: Split,
        validation: Split | None, test: Split,
    ):  # fmt: skip
        """Takes opened splits; use `create`."""
        super().__init__(config, mesh, len(train.classes), len(train))
        self.directory, self.data_set = directory, _data_set(config, directory)
        self.train, self.validation, self.test = train, validation, test

    @classmethod
    def create(cls, config: Config, workdir: epath.Path | None = None) -> Self:
        """Opens the data set and creates the network on all devices.

        Settings that are "auto" are those that an earlier run in the folder began with, or else chosen for
        the data and the devices; see `automatic`. The attribute `config` has all of them.

        Args:
          config: all settings.
          workdir: folder of the run, for training: settings and data have to be those that an earlier
            run in the folder began with. Then config.data.frame_cache is filled, if it is set.

        Raises:
          DatasetNotFoundError: the data set has not been built.
          OSError: the folder of config.data.frame_cache cannot be written to, or the disk is full.
          RecordError: a file of the data set is missing or damaged.
          ValueError: the settings do not fit the data, the devices or the earlier run.
        """
        mesh = sharding.make_mesh()
        if workdir is not None:
            config = automatic.of_run(config, workdir)
        directory = source.find(config.data)
        config = automatic.choose_splits(config, source.splits(directory))
        whole, test = source.open_splits(directory, config.data)
        config = automatic.choose(config, automatic.facts_of(whole, mesh))
        if workdir is not None:
            sharding.local_batch_size(config.data.batch_size, mesh, "config.data.batch_size")
            run_dir.check_kind(workdir, cls.kind)
            run_dir.check_config(workdir, config)
            fingerprint = source.fingerprint(directory, config.data.labels)
            run_dir.check_data(workdir, _data_set(config, directory), fingerprint)
            # After the checks: decoding can take long.
            whole, test = whole.with_cache(config.data), test.with_cache(config.data)
        train, validation = source.hold_out(whole, config.data.validation_percent)
        if config.data.validation_split:
            validation = source.open_validation(directory, config.data).with_cache(config.data)
        return cls(config, mesh, directory, train, validation, test)

    def abstract_batch(self) -> Batch:
        """Returns the shapes, types and shardings of a training batch."""
        batch = super().abstract_batch()
        return dataclasses.replace(batch, flipped=batch.mask) if self.train.knows_flips else batch

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identifies the data and the given labels, see pipeline.source."""
        return source.fingerprint(self.directory, self.config.data.labels)

    @functools.cached_property
    def class_prior(self) -> np.ndarray | None:
        """The share of each class among the given labels that this run trains on, float32 [N]."""
        if not config_lib.uses_class_prior(self.config):
            return None
        prior_N = priors.shares(self.train.given_labels, self.num_classes)
        shown = ", ".join(f"{n} {p:.1%}" for n, p in zip(self.classes, prior_N, strict=True))
        log.info("class prior, of the given labels: %s", shown)
        return prior_N

    @property
    def sizes(self) -> str:
        """How many videos are used for what, in words."""
        return (
            f"{self.num_train} videos to train on, {len(self.validation or ())} to validate, "
            f"{len(self.test)} to test; {self.num_classes} classes"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the N classes, by index."""
        return self.train.classes


def _data_set(config: Config, directory: epath.Path) -> str:
    return f"{config.data.name}/{config.data.variant}/{directory.name}"
