"""Per-video losses: ours, and noise-robust losses from the literature.

All methods share one interface: (outputs, evidence, settings) -> float32 [B], one loss for each video, not
reduced over the batch. A method differs from plain cross-entropy in its criterion (the distance between
logits and target), its targets, its weights, or an additional penalty:

    loss = weight * (criterion(video) + l_clips mean_k criterion(clip k) + l_long criterion(long)
                     + l_instants mean criterion(key instants)) + penalty

`agreement` is ours, our interpretation of "reinforce the hard, mitigate the noisy", see
docs/explanation/method.md.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rdfer_jax import config
from rdfer_jax.losses import baselines, forward, neighbors, robust, self_calibrated
from rdfer_jax.losses.evidence import Evidence, required
from rdfer_jax.types import Outputs

__all__ = ["METHODS", "Evidence", "Method", "per_video"]

Method = Callable[[Outputs, Evidence, config.Loss], jax.Array]

METHODS: dict[str, Method] = {
    "agreement": robust.agreement,
    "cross_entropy": baselines.cross_entropy,
    "focal": baselines.focal,
    "gce": baselines.gce,
    "sce": baselines.sce,
    "elr": baselines.elr,
    "small_loss": baselines.small_loss,
    "scn": baselines.scn,
    "forward": forward.forward,
    "self_calibrated": self_calibrated.self_calibrated,
    "ssr": neighbors.ssr,
    "votes": baselines.votes,
    "oracle": baselines.oracle,
}


def per_video(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Returns the loss of each video by the configured method, float32 [B].

    With settings.logit_adjustment = tau, all criteria take logits + tau log prior; what a method reads off
    the logits otherwise, such as ELR's penalty and SCN's relabeling, takes the logits themselves.

    Raises:
      ValueError: the method needs a memory, votes, known wrong labels or a class prior, and there is none.
    """
    if settings.logit_adjustment:
        prior_N = required(evidence.prior, settings, "the class prior for logit_adjustment")
        shift_N = settings.logit_adjustment * jnp.log(prior_N)
        outputs = dataclasses.replace(outputs, logit_shift=shift_N)
    return METHODS[settings.method](outputs, evidence, settings)
