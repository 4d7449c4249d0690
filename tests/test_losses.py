"""The losses against NumPy and scikit-learn, and what must hold for any batch."""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from rdfer_jax import agreement, losses
from rdfer_jax import config as config_lib
from rdfer_jax.agreement import Mask, Verdict
from rdfer_jax.types import Outputs

B, K, INSTANTS, N = 6, 3, 4, 5
KINDS = ("clean", "noisy", "hard")
SETTINGS = config_lib.Loss(
    label_smoothing=0.2, clips=0.3, long=0.5, instants=0.7, hard=2.0, noisy_weight=0.4,
    noisy_target=0.75,
)  # fmt: skip


def make_mask(kinds):
    return Mask(**{kind: np.array([k == kind for k in kinds]) for kind in KINDS})


def make_verdict(seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(N), B).astype(np.float32)
    value = rng.random(B).astype(np.float32)
    return Verdict(
        agreement=value, consensus=probs.argmax(-1), probs=probs, margin=value, support=value
    )


def make_outputs(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    instants = np.sort(rng.permuted(np.tile(np.arange(10), (B, 1)), axis=1)[:, :INSTANTS]).astype(
        np.int32
    )
    return Outputs(
        video_logits=normal(B, N),
        clip_logits=normal(B, K, N),
        long_logits=normal(B, N),
        instant_logits=normal(B, INSTANTS, N),
        instants=instants,
        key_instants=instants[:, [2, 0]],
        key_logits=normal(B, N),
    )


LABEL = np.array([0, 1, 2, 3, 4, 0], np.int32)
MIXED = make_mask(["clean", "noisy", "hard", "noisy", "hard", "clean"])


def slow_cross_entropy(logits, targets):
    logits = logits.astype(np.float64)
    log_probs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    return -(targets * log_probs).sum()


def slow_hierarchical(outputs, targets, settings, video):
    def loss(logits):
        return slow_cross_entropy(logits, targets)

    key = [i for i in range(INSTANTS) if outputs.instants[video, i] in outputs.key_instants[video]]
    return (
        loss(outputs.video_logits[video])
        + settings.clips * np.mean([loss(clip) for clip in outputs.clip_logits[video]])
        + settings.long * loss(outputs.long_logits[video])
        + settings.instants * np.mean([loss(outputs.instant_logits[video, i]) for i in key])
    )


def test_cross_entropy_is_that_of_scikit_learn():
    logits = make_outputs().video_logits
    found = losses.cross_entropy(logits, np.eye(N)[LABEL])
    probs = np.exp(logits.astype(np.float64))
    probs /= probs.sum(-1, keepdims=True)
    for video in range(B):
        expected = sklearn_metrics.log_loss(
            LABEL[[video]], probs[[video]], labels=np.arange(N), normalize=False
        )
        np.testing.assert_allclose(found[video], expected, rtol=1e-5)


def test_cross_entropy_with_soft_targets_is_the_formula():
    logits, targets = make_outputs().video_logits, make_verdict().probs
    expected = [slow_cross_entropy(x, t) for x, t in zip(logits, targets, strict=True)]
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_labels_sum_to_one_and_keep_the_rest_on_the_label(smoothing):
    found = np.asarray(losses.smooth_labels(LABEL, N, smoothing))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    for video in range(B):
        for n in range(N):
            expected = smoothing / N + (1 - smoothing) * (n == LABEL[video])
            np.testing.assert_allclose(found[video, n], expected, rtol=1e-6)


def test_weights_of_the_three_kinds():
    verdict = make_verdict()
    a = verdict.agreement
    found = losses.robust_weights(verdict, MIXED, SETTINGS)
    expected = [1, 0.4, 1 + 2 * (1 - a[2]), 0.4, 1 + 2 * (1 - a[4]), 1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_targets_of_the_three_kinds():
    verdict = make_verdict()
    found = np.asarray(losses.robust_targets(LABEL, verdict, MIXED, SETTINGS))
    smooth = 0.8 * np.eye(N)[LABEL] + 0.2 / N
    for video in range(B):
        blend = 0.25 * smooth[video] + 0.75 * verdict.probs[video]
        expected = blend if MIXED.noisy[video] else smooth[video]
        np.testing.assert_allclose(found[video], expected, rtol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)


def test_no_gradient_flows_into_the_targets():
    def total(probs):
        verdict = dataclasses.replace(make_verdict(), probs=probs)
        return losses.robust_targets(LABEL, verdict, MIXED, SETTINGS)[:, 0].sum()

    assert not np.any(jax.grad(total)(make_verdict().probs))


def test_the_robust_loss_is_the_formula():
    outputs, verdict = make_outputs(), make_verdict()
    found = losses.robust_loss(outputs, LABEL, verdict, MIXED, SETTINGS)
    assert found.shape == (B,)
    targets = np.asarray(losses.robust_targets(LABEL, verdict, MIXED, SETTINGS))
    weights = np.asarray(losses.robust_weights(verdict, MIXED, SETTINGS))
    for video in range(B):
        expected = weights[video] * slow_hierarchical(outputs, targets[video], SETTINGS, video)
        np.testing.assert_allclose(found[video], expected, rtol=1e-5)


@pytest.mark.parametrize("term", ["clips", "long", "instants"])
def test_a_term_of_weight_zero_is_off(term):
    outputs = make_outputs()
    field = {"clips": "clip_logits", "long": "long_logits", "instants": "instant_logits"}[term]
    other = dataclasses.replace(outputs, **{field: getattr(outputs, field) + np.arange(N)})
    targets = np.eye(N, dtype=np.float32)[LABEL]
    off = dataclasses.replace(SETTINGS, **{term: 0.0})
    one, two = (losses.hierarchical_loss(o, targets, off) for o in (outputs, other))
    np.testing.assert_array_equal(one, two)
    assert np.all(losses.hierarchical_loss(outputs, targets, SETTINGS) != one)


def test_only_the_key_instants_count():
    outputs, targets = make_outputs(), np.eye(N, dtype=np.float32)[LABEL]
    before = losses.hierarchical_loss(outputs, targets, SETTINGS)
    for instant in range(INSTANTS):
        logits = outputs.instant_logits.copy()
        logits[:, instant] += np.arange(N)
        other = dataclasses.replace(outputs, instant_logits=logits)
        after = losses.hierarchical_loss(other, targets, SETTINGS)
        assert np.all((after != before) == (instant in (0, 2)))


def test_a_key_instant_that_was_picked_twice_counts_once():
    outputs, targets = make_outputs(), np.eye(N, dtype=np.float32)[LABEL]
    once = dataclasses.replace(outputs, key_instants=outputs.instants[:, [1]])
    twice = dataclasses.replace(outputs, key_instants=outputs.instants[:, [1, 1, 1]])
    np.testing.assert_array_equal(
        losses.hierarchical_loss(once, targets, SETTINGS),
        losses.hierarchical_loss(twice, targets, SETTINGS),
    )


def test_the_loss_of_a_video_depends_on_that_video_alone():
    outputs, verdict = make_outputs(), make_verdict()
    whole = losses.robust_loss(outputs, LABEL, verdict, MIXED, SETTINGS)
    for video in range(B):
        one = jax.tree.map(lambda x, at=video: x[at : at + 1], (outputs, LABEL, verdict, MIXED))
        np.testing.assert_allclose(
            losses.robust_loss(*one, SETTINGS), whole[video : video + 1], rtol=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_loss_and_gradient_stay_finite(kind, scale):
    outputs, mask = make_outputs(scale=scale), make_mask([kind] * B)

    @jax.jit
    @jax.value_and_grad
    def total(logits):
        changed = dataclasses.replace(outputs, video_logits=logits, clip_logits=logits[:, None])
        verdict = agreement.judge(changed.clip_logits, LABEL, "soft")
        return losses.robust_loss(changed, LABEL, verdict, mask, SETTINGS).sum()

    value, gradient = total(outputs.video_logits)
    assert np.isfinite(value) and np.isfinite(gradient).all()
