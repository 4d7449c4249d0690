"""Class priors: how frequent the classes are, and what follows for rare ones. Pure functions.

N classes, B videos of a batch, M videos of the training split.
"""

import jax
import jax.numpy as jnp
import numpy as np


def shares(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the share of each class among the labels, float32 [N]; rows sum to 1.

    A class without a label counts as one with a single label, so that its logarithm is finite.
    """
    counts_N = np.maximum(np.bincount(labels, minlength=num_classes), 1)
    return (counts_N / counts_N.sum()).astype(np.float32)


def class_mean(probs_MN: jax.Array, visited_M: jax.Array) -> jax.Array:
    """Returns the mean distribution of the visited videos, float32 [N]; uniform if there are none."""
    count = jnp.sum(visited_M)
    mean_N = jnp.sum(probs_MN * visited_M[:, None], axis=0) / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean_N, 1 / probs_MN.shape[-1])


def divided(probs_BN: jax.Array, prior_N: jax.Array, strength: float) -> jax.Array:
    """Returns p_n / prior_n^strength, divided by its sum, float32 [B, N].

    At strength 1 the distribution that would hold if all classes were equally frequent, by Bayes' rule:
    Saerens et al. (2002), "Adjusting the outputs of a classifier to new a priori probabilities",
    equation 2.4.
    """
    ratio_BN = probs_BN / jnp.maximum(prior_N, 1e-6) ** strength
    return ratio_BN / jnp.maximum(jnp.sum(ratio_BN, axis=-1, keepdims=True), 1e-30)


def shifted(probs_BN: jax.Array, shift_N: jax.Array) -> jax.Array:
    """Returns softmax(log p + shift), float32 [B, N]: a prediction in the terms of adjusted logits."""
    return jax.nn.softmax(jnp.log(jnp.maximum(probs_BN, 1e-30)) + shift_N)
