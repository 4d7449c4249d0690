"""Every kind of threshold acts: over its useful range it changes whom a step calls hard, and the loss.

The clips are planted, and agree as those of real runs do: between 0.85 and 1, mostly above 0.95.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rdfer_jax import agreement, models, steps
from rdfer_jax import memory as memory_lib
from rdfer_jax import state as state_lib
from rdfer_jax.types import Batch, Outputs

B, K, N, ROWS = 64, 5, 3, 140


def planted_logits():
    """Clips [B, K, N] that all lean to class 0, each video as surely and as evenly as it happens to."""
    rng = np.random.default_rng(0)
    sure, spread = rng.uniform(0, 3.5, B), rng.uniform(0.1, 1, B)
    logits = spread[:, None, None] * rng.standard_normal((B, K, N))
    logits[:, :, 0] += sure[:, None]
    return logits.astype(np.float32)


LOGITS = planted_logits()
#: Every other label is of another class.
LABEL = (np.arange(B) % 2).astype(np.int32)


def planted_memory(decay=0.6):
    """Three earlier visits of the batch's rows and of as many others, much like the present one."""
    memory = memory_lib.create(ROWS, N)
    rng = np.random.default_rng(1)
    for _ in range(3):
        logits = LOGITS + 0.3 * rng.standard_normal(LOGITS.shape).astype(np.float32)
        for first in (0, 70):
            memory = memory_lib.update(
                memory,
                first + np.arange(B),
                LABEL,
                agreement.mean_probs(logits),
                agreement.soft_agreement(logits),
                decay=decay,
                agreement_decay=0.6,
                threshold_decay=0.6,
            )
    return memory


def network():
    """Predicts its parameters, the logits of each clip."""

    def read_clips(variables, frames, clips_BKT, train, rng=None, clip_frames=None):
        logits = variables["params"]["logits"]
        return models.Forward(Outputs(logits.mean(axis=1), logits), {})

    return models.Network(lambda rng: {"params": {}}, read_clips, None, jnp.dtype("float32"))


def outcome(**settings):
    """Returns the kind of each video (0 clean, 1 noisy, 2 hard), the losses and the gradients of a step."""
    settings = {"remember": 0.6, "temperature": 1.0} | settings
    config = tiny.config(agreement=settings, loss={"robust_from": "0 steps"})
    state = state_lib.TrainState(
        seed=jnp.uint32(0),
        step=jnp.int32(9),
        params={"logits": jnp.asarray(LOGITS)},
        batch_stats={},
        opt_state=(),
        teacher=None,
        memory=planted_memory(),
    )
    side = config.data.image_size
    batch = Batch(
        frames=np.zeros((B, config.data.frames, side, side, 3), np.uint8),
        label=LABEL,
        index=np.arange(B, dtype=np.int32),
        mask=np.ones(B, bool),
    )
    grad_fn = steps.make_grad_fn(config, network(), total_steps=10, steps_per_epoch=5)
    grads, aux = jax.jit(grad_fn)(state, batch)
    parts = aux["partition"]
    kinds = np.stack([parts.clean, parts.noisy, parts.hard])
    np.testing.assert_array_equal(kinds.sum(axis=0), 1)
    return kinds.argmax(axis=0), np.asarray(aux["loss"]), np.asarray(grads["logits"])


def test_the_planted_clips_agree_as_those_of_real_runs():
    value = np.asarray(agreement.soft_agreement(LOGITS))
    assert 0.6 < value.min() < 0.9 and np.median(value) > 0.95


#: Settings that differ in one threshold, from the lowest to the highest of its useful range.
RANGES = [
    *[("threshold", kind, values) for kind, values in {
        "fixed": (0.86, 0.95, 0.99),
        "quantile": (0.1, 0.3, 0.6),
        "mixture": (0.05, 0.5, 0.95),
        "running": (0.86, 0.97, 0.995),
    }.items()],
    ("noise_threshold", "fixed", (0.7, 0.8, 0.9)),
    ("noise_threshold", "quantile", (0.7, 0.8, 0.9)),
    ("noise_threshold", "mixture", (0.1, 0.9, 0.999)),
    ("running_decay", "running", (0.99, 0.6, 0.0)),
    ("temperature", "fixed", (2.0, 1.0, 0.5)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "values"), RANGES)
def test_a_threshold_changes_whom_a_step_calls_hard_and_what_it_learns(name, kind, values):
    fixed = {} if name == "threshold" else {"threshold": 0.95 if kind == "fixed" else 0.2}
    if name == "temperature":
        fixed["remember"] = 0.0  # what is remembered was measured before
    found = [outcome(threshold_kind=kind, **fixed, **{name: value}) for value in values]
    hard = [int(np.sum(kinds == 2)) for kinds, *_ in found]
    assert hard == sorted(hard) and hard[0] <= hard[-1] - 3, hard
    (kinds, losses, slopes), *_, (kinds2, losses2, slopes2) = found
    other = kinds != kinds2
    assert np.any(np.abs(losses - losses2)[other] > 1e-3)
    # A video's share of the mean's gradient is at most 1 / B.
    assert np.any(np.abs(slopes - slopes2)[other] > 1e-4 / B)
