"""Masked pretraining without labels: its set-up, its step, and a whole run.

A run reads the training split of a data set with the augmentation and the clips of training, and ignores
the labels and the sections agreement, loss and key of the settings. It leaves the weights in WEIGHTS.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import numpy as safetensors

from rdfer_jax import atomic, augment, optim, plots, sharding, steps
from rdfer_jax.config import Config
from rdfer_jax.metrics import StepMetrics
from rdfer_jax.models import masked, resampling
from rdfer_jax.state import TrainState
from rdfer_jax.steps import GradFn, TrainStep
from rdfer_jax.training import train
from rdfer_jax.training.setup import ModelSetup, Setup
from rdfer_jax.training.writers import read_metrics
from rdfer_jax.types import Batch

#: The weights of a finished run: all arrays of the autoencoder by the names of VideoMAE's authors.
WEIGHTS = "encoder.safetensors"
#: Settings that have no effect in pretraining, and the only value that they may have.
_UNUSED: dict[str, Any] = {
    "augment.erase": 0.0,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
    "model.freeze": "none",
    "model.lora_rank": 0,
    "optim.evaluate": "last",
    "train.record_every": "",
}


def pretrain(config: Config, workdir: epath.PathLike) -> float:
    """Pretrains a trunk; resumes an earlier run in the same folder.

    Args:
      config: all settings.
      workdir: folder of the run: checkpoints/, config.json, data.json, metrics.jsonl, training_curves.png,
        and WEIGHTS when the run is done.

    Returns:
      The mean loss of the steps of the last row of metrics.jsonl.

    Raises:
      ValueError: the settings have no use in pretraining, or the data are less than a batch.
      Exception: the others are those of train.train.
    """
    for path, needed in _UNUSED.items():
        section, _, name = path.partition(".")
        if (found := getattr(getattr(config, section), name)) != needed:
            raise ValueError(f"config.{path}: expected {needed!r} in pretraining, got {found!r}")
    workdir = epath.Path(workdir)
    with train.alone_in(workdir):
        setup = PretrainSetup.create(config, workdir)
        step_fn = setup.train_step()
        with train.open_checkpoints(setup.config, workdir) as checkpoints:
            state = train.initial_state(setup, checkpoints)
            train.describe(setup, state, workdir)
            state = train.run_loop(setup, step_fn, state, checkpoints, None, workdir)
        params = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(setup.mesh))(
            state.params
        )
        rows = read_metrics(workdir)
        if jax.process_index() == 0:
            plots.save(plots.training_curves(rows), workdir / "training_curves.png")
            write_weights(params, workdir / WEIGHTS)
        return next(row["loss"] for row in reversed(rows) if "loss" in row)


def write_weights(params: Any, path: epath.Path) -> None:
    """Writes all arrays, atomically: a kill while writing leaves the old file, or none."""
    arrays = masked.named(jax.tree.map(np.asarray, params))
    atomic.write_bytes(path, safetensors.save(arrays, metadata={"format": "pt"}))


class PretrainModelSetup(ModelSetup):
    """The autoencoder on its devices, with its step and state; no data set is needed."""

    @functools.cached_property
    def pretraining(self) -> masked.Pretraining:
        """The autoencoder, as pure functions.

        Raises:
          ValueError: the trunk cannot be pretrained with these settings.
        """
        return masked.create(self.config, self.platform)

    def _step(self) -> TrainStep:
        return steps.make_update_step(
            self.config,
            make_grad_fn(self.config, self.pretraining),
            _metrics,
            self.optimizer,
            total_steps=self.counts.total,
            steps_per_epoch=self.counts.epoch,
        )

    def _create(self, seed: jax.Array, class_prior: jax.Array | None = None) -> TrainState:
        params = self.pretraining.init(jax.random.key(seed))["params"]
        optimizer = optim.create(self.config.optim, lambda step: 0.0, self.config.model)
        return TrainState(
            seed=seed,
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats={},
            opt_state=optimizer.init(params),
            teacher=None,
            memory=None,
        )


class PretrainSetup(PretrainModelSetup, Setup):
    """The autoencoder and the data set whose training split it reads."""

    kind = "pretrain"

    def __init__(self, *args: Any):
        """As Setup.

        Raises:
          ValueError: the trunk cannot be pretrained with these settings, or the data are less than a batch.
        """
        super().__init__(*args)
        assert self.pretraining
        if self.num_train < self.config.data.batch_size:
            raise ValueError(
                f"config.data.batch_size: expected at most {self.num_train}, the training videos of "
                f"{self.directory}, got {self.config.data.batch_size}"
            )

    @property
    def sizes(self) -> str:
        """How many videos are used for what, in words."""
        return f"{self.num_train} videos to pretrain on, without their labels"


def make_grad_fn(config: Config, pretraining: masked.Pretraining) -> GradFn:
    """Returns a pure function: (state, batch, part=None) -> (gradients of the mean loss, aux).

    aux has the loss [B], the mean over a video's clips. As in training, what is drawn for a video depends
    only on the seed, the step and its index.
    """

    def grad_fn(
        state: TrainState, batch: Batch, part: jax.Array | None = None
    ) -> tuple[Any, dict[str, Any]]:
        rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
        rng_augment, rng_clips, rng_masks, rng_drop = jax.random.split(rng, 4)
        if part is not None:
            rng_drop = jax.random.fold_in(rng_drop, part)

        def keys(rng: jax.Array) -> jax.Array:
            return steps.video_keys(rng, batch.index)

        clips_BKT = resampling.train_clips(
            keys(rng_clips), config.clips, config.data.frames, config.data.snippet
        )
        # In float32: targets are differences of pixels within a patch.
        frames, own = augment.train_frames(
            batch.frames, clips_BKT, keys(rng_augment), config.augment, jnp.float32
        )
        own = augment.pick_frames(frames, clips_BKT) if own is None else own
        clips_NTHWC = own.reshape(-1, *own.shape[2:])
        keys_BK = jax.vmap(lambda key: jax.random.split(key, own.shape[1]))(keys(rng_masks))

        def loss_fn(params: Any) -> tuple[jax.Array, dict[str, Any]]:
            loss_N = pretraining.loss(params, clips_NTHWC, keys_BK.reshape(-1), rng_drop)
            loss_B = jnp.mean(loss_N.reshape(keys_BK.shape), axis=1)
            return jnp.mean(loss_B), {"loss": loss_B, "batch_stats": {}, "memory": None}

        return jax.grad(loss_fn, has_aux=True)(state.params)

    return grad_fn


def _metrics(batch: Batch, aux: dict[str, Any], grad_norm: jax.Array) -> StepMetrics:
    return StepMetrics.of_step(loss=aux["loss"], grad_norm=grad_norm, mask=batch.mask)
