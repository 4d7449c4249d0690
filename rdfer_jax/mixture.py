"""A mixture of two normal distributions of one variable, fitted in graph. Pure functions, to be jitted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

#: Steps of expectation maximization. They are few and cheap: two numbers for each value.
STEPS = 30
#: Smallest variance of a component, so that none collapses onto equal values.
FLOOR = 1e-4


class Mixture(NamedTuple):
    """Two components, that with the lower mean first; each float32 [2]."""

    mean: jax.Array
    variance: jax.Array
    weight: jax.Array


def fit(values_M: jax.Array, chosen_M: jax.Array) -> Mixture:
    """Fits two normal distributions to the chosen values by expectation maximization.

    The components begin one standard deviation below and above the mean, with the variance of all values.

    Args:
      values_M: float [M].
      chosen_M: bool [M], at least one of them True.
    """
    values_M1, chosen_M1 = values_M[:, None], chosen_M[:, None].astype(jnp.float32)
    total = jnp.maximum(jnp.sum(chosen_M1), 1)
    mean = jnp.sum(values_M1 * chosen_M1) / total
    variance = jnp.sum((values_M1 - mean) ** 2 * chosen_M1) / total + FLOOR

    def step(_: int, mixture: Mixture) -> Mixture:
        share_M2 = jax.nn.softmax(_log_density(mixture, values_M1)) * chosen_M1
        count_2 = jnp.maximum(jnp.sum(share_M2, axis=0), 1e-6)
        mean_2 = jnp.sum(share_M2 * values_M1, axis=0) / count_2
        spread_2 = jnp.sum(share_M2 * (values_M1 - mean_2) ** 2, axis=0) / count_2
        return Mixture(mean_2, spread_2 + FLOOR, count_2 / jnp.sum(count_2))

    apart = jnp.sqrt(variance) * jnp.array([-1.0, 1.0])
    start = Mixture(mean + apart, jnp.full(2, variance), jnp.full(2, 0.5))
    mixture = jax.lax.fori_loop(0, STEPS, step, start)
    order = jnp.argsort(mixture.mean)
    return jax.tree.map(lambda value_2: value_2[order], mixture)


def above(mixture: Mixture, values_B: jax.Array) -> jax.Array:
    """Returns the probability that a value is of the component with the higher mean, float32 [B].

    Values beyond a mean count as that mean. Without this, the wider component would win again far out
    on the other side; so the probability never falls as the value grows.
    """
    inside_B = jnp.clip(values_B, mixture.mean[0], mixture.mean[1])
    return jax.nn.softmax(_log_density(mixture, inside_B[:, None]))[:, 1]


def _log_density(mixture: Mixture, values_M1: jax.Array) -> jax.Array:
    """Returns log(weight x density) but for a constant, float32 [M, 2]."""
    distance_M2 = (values_M1 - mixture.mean) ** 2 / mixture.variance
    return jnp.log(mixture.weight) - (jnp.log(mixture.variance) + distance_M2) / 2
