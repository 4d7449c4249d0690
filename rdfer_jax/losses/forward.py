"""Forward correction: the prediction is that of the true class, and a noise matrix leads to the given one.

Patrini et al. (2017), "Making deep neural networks robust to label noise: a loss correction approach",
theorem 2. The matrix is not given but estimated from the memory by confident learning, anew in each step.
"""

import functools

import jax
import jax.numpy as jnp

from rdfer_jax import confident, config
from rdfer_jax.losses.criteria import log_probs, supervised
from rdfer_jax.losses.evidence import Evidence, required
from rdfer_jax.memory import remembered
from rdfer_jax.types import Outputs


def corrected_cross_entropy(
    logits_N: jax.Array, targets_N: jax.Array, noise_NN: jax.Array
) -> jax.Array:
    """Returns -sum_n t_n log (p^T T)_n, T = P(given = column | true = row): cross-entropy for T = 1."""
    mixed_NN = log_probs(logits_N)[..., :, None] + jnp.log(noise_NN)
    log_given_N = jax.nn.logsumexp(mixed_NN, axis=-2)
    # A target of zero asks for nothing, also of a class that is never given.
    return -jnp.sum(jnp.where(targets_N > 0, targets_N * log_given_N, 0.0), axis=-1)


def forward(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Corrected cross-entropy of all heads; plain cross-entropy before settings.robust_from."""
    memory = required(evidence.memory, settings, "config.agreement.memory_decay above 0")
    num_classes = outputs.video_logits.shape[-1]
    noise_NN = confident.noise_matrix(memory.label, remembered(memory))
    noise_NN = jnp.where(evidence.progress >= 1, noise_NN, jnp.eye(num_classes))
    noise_NN = jax.lax.stop_gradient(noise_NN)

    criterion = functools.partial(corrected_cross_entropy, noise_NN=noise_NN)
    return supervised(outputs, evidence.label, settings, criterion)
