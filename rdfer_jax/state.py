"""The train state: what a step updates and a checkpoint stores."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rdfer_jax import config as config_lib
from rdfer_jax import memory as memory_lib
from rdfer_jax import optim
from rdfer_jax.config import Config
from rdfer_jax.memory import Memory
from rdfer_jax.models import Network


@struct.dataclass
class TrainState:
    """The state of training. All random numbers of a step follow from the seed and the step number.

    Attributes:
      seed: uint32, config.seed. It is not a constant of the compiled step, so runs that differ only in
        their seed share the compiled program.
      step: int32, number of training steps done.
      params: parameters of the network, float32.
      batch_stats: running means and variances of the batch normalization.
      opt_state: state of the optimizer.
      teacher: params and batch_stats, averaged over the steps; None without a teacher.
      memory: what the clips of each training video predicted over the epochs; None without a memory.
      average: params and batch_stats, their mean over the last steps, see `update_average`; None if it is
        not what is evaluated.
      class_prior: float32 [N], the share of each class among the training labels, which is not a constant
        of the compiled step, as with the seed; None if no setting needs it.
      clip_memory: float32 [M, K, N], memory of each clip by itself, see `memory.update_clips`; None unless
        asked for.
    """

    seed: jax.Array
    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    teacher: Any
    memory: Memory | None
    average: Any = None
    class_prior: jax.Array | None = None
    clip_memory: jax.Array | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables that the network's apply takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(
    config: Config,
    network: Network,
    optimizer: optax.GradientTransformation | None = None,
    *,
    num_classes: int,
    num_train: int,
    seed: jax.Array | None = None,
    class_prior: jax.Array | None = None,
) -> TrainState:
    """Returns the state before the first step. Pure, so that it can be jitted onto a mesh.

    Args:
      config: all settings.
      network: initializes the variables.
      optimizer: initializes its state; the configured one if None.
      num_classes: N.
      num_train: M, videos of the training split.
      seed: uint32; config.seed if None.
      class_prior: float32 [N], see `priors.shares`; uniform if None. Kept if a setting needs it.
    """
    if optimizer is None:  # its state is the same for every learning rate
        optimizer = optim.create(config.optim, lambda step: 0.0, config.model)
    seed = jnp.uint32(config.seed) if seed is None else seed
    variables = network.init(jax.random.key(seed))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    teacher = None
    if config.agreement.teacher_decay:
        teacher = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    average = None
    if config.optim.evaluate == "average":
        average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    memory = clip_memory = None
    if config.agreement.remember_clips:
        clip_memory = jnp.zeros((num_train, config.clips.number, num_classes), jnp.float32)
    if config.agreement.memory_decay:
        num_features = _num_features(config, network, variables) if needs_features(config) else 0
        memory = memory_lib.create(num_train, num_classes, num_features)
    if not config_lib.uses_class_prior(config):
        class_prior = None
    elif class_prior is None:
        class_prior = jnp.full(num_classes, 1 / num_classes, jnp.float32)
    return TrainState(
        seed=seed,
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        teacher=teacher,
        memory=memory,
        average=average,
        class_prior=class_prior,
        clip_memory=clip_memory,
    )


def needs_features(config: Config) -> bool:
    """Whether the method compares the features of the training videos."""
    return config.loss.method == "ssr"


def _num_features(config: Config, network: Network, variables: Any) -> int:
    """Returns D, see types.Outputs, without computing anything."""
    size, clips = config.augment.size, config.clips
    frames = jax.ShapeDtypeStruct((1, config.data.frames, size, size, 3), network.dtype)
    clips_BKT = jax.ShapeDtypeStruct((1, clips.number, clips.frames), jnp.int32)
    read = functools.partial(network.read_clips, train=False)
    features = jax.eval_shape(read, variables, frames, clips_BKT).outputs.features
    assert features is not None
    return features.shape[-1]


def abstract(state: Any, layout: Any) -> Any:
    """Returns the shapes and types of a state or its parts, with one sharding or a tree of them."""
    if isinstance(layout, jax.sharding.Sharding):
        layout = jax.tree.map(lambda _: layout, state)
    return jax.tree.map(
        lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own), state, layout
    )


def update_teacher(state: TrainState, decay: float) -> Any:
    """Returns the teacher moved towards the student (Tarvainen and Valpola 2017, mean teacher).

    Early in training the average spans only the steps done: decay is at most (1 + t) / (10 + t).
    """
    if state.teacher is None:
        return None
    keep = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    return jax.tree.map(lambda t, s: keep * t + (1 - keep) * s, state.teacher, state.variables)


def update_average(state: TrainState, start: int) -> Any:
    """Returns the mean of the variables after each step from step `start` on, or the newest before.

    Izmailov et al. (2018), "Averaging weights leads to wider optima and better generalization"; the running
    statistics are averaged, too, in place of another pass over the data.
    """
    if state.average is None:
        return None
    share = 1 / jnp.maximum(state.step - start, 1)
    return jax.tree.map(lambda a, v: (1 - share) * a + share * v, state.average, state.variables)


def evaluated(state: TrainState, settings: config_lib.Optim) -> Any:
    """Returns the variables that are evaluated and predict, see settings.evaluate."""
    choices = {"last": state.variables, "average": state.average, "teacher": state.teacher}
    return choices[settings.evaluate]
