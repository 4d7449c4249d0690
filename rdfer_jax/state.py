"""What training carries from step to step, and checkpoints keep."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from rdfer_jax.config import Config
from rdfer_jax.models import Network


@struct.dataclass
class TrainState:
    """The state of training. Random numbers come from the seed and the step.

    Attributes:
      seed: uint32, config.seed. Not a constant of the compiled step, so that runs which differ in
        nothing else share the step.
      step: int32, training steps done.
      params: of the network, float32.
      batch_stats: running means and variances of the batch normalisation.
      opt_state: of the optimiser.
      teacher: params and batch_stats, averaged over the steps; None without a teacher.
      memory: float32 [M, N], what the clips of each training video predicted over the epochs; None
        without a memory.
    """

    seed: jax.Array
    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    teacher: Any
    memory: jax.Array | None

    @property
    def variables(self) -> dict[str, Any]:
        """What the network's apply takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(
    config: Config,
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    num_train: int,
    seed: jax.Array | None = None,
) -> TrainState:
    """Returns the state before the first step. Pure, so that it can be jitted onto a mesh.

    Args:
      config: all settings.
      network: whose variables it holds.
      optimizer: whose state it holds.
      num_classes: N.
      num_train: M, videos of the training split.
      seed: uint32; config.seed if None.
    """
    seed = jnp.uint32(config.seed) if seed is None else seed
    variables = network.init(jax.random.key(seed))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    teacher = None
    if config.agreement.teacher_decay:
        teacher = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    memory = None
    if config.agreement.memory_decay:
        memory = jnp.zeros((num_train, num_classes), jnp.float32)
    return TrainState(
        seed=seed,
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        teacher=teacher,
        memory=memory,
    )


def update_teacher(state: TrainState, decay: float) -> Any:
    """Returns the teacher moved towards the student (Tarvainen and Valpola 2017, mean teacher).

    Early in training the average spans only the steps done: decay is at most (1 + t) / (10 + t).
    """
    if state.teacher is None:
        return None
    keep = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    return jax.tree.map(lambda t, s: keep * t + (1 - keep) * s, state.teacher, state.variables)
