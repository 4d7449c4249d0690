"""Random train states, and how to compare two of them."""

import jax
import jax.numpy as jnp
import numpy as np

from rdfer_jax import config as config_lib
from rdfer_jax import optim, sharding
from rdfer_jax.memory import Memory
from rdfer_jax.state import TrainState, abstract


def make_state(step, mesh=None):
    """A state with every kind of part, random."""
    rng = np.random.default_rng(step)
    params = {"layer": {"kernel": rng.standard_normal((3, 4)), "bias": rng.standard_normal(4)}}
    params = jax.tree.map(jnp.float32, params)
    optimizer = optim.create(config_lib.Optim(), lambda step: 0.1)
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    stats = {"mean": jnp.float32(rng.standard_normal(4))}
    state = TrainState(
        seed=jnp.uint32(7),
        step=jnp.int32(step),
        params=params,
        batch_stats=stats,
        opt_state=opt_state,
        teacher={"params": params, "batch_stats": stats},
        memory=Memory(
            probs=jnp.float32(rng.random((8, 3))),
            label=jnp.int32(rng.integers(-1, 3, 8)),
            agreement=jnp.float32(rng.random(8)),
            threshold=jnp.float32(rng.random(8)),
            visits=jnp.int32(rng.integers(0, 9, 8)),
        ),
    )
    return jax.device_put(state, sharding.replicated(mesh or one_device()))


def one_device():
    return sharding.make_mesh(jax.devices()[:1])


def shapes(state, mesh=None):
    return abstract(state, sharding.replicated(mesh or one_device()))


def assert_equal(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
