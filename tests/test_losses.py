"""The losses against NumPy and scikit-learn, and what must hold for any batch.

The references are the papers' formulas, video by video, in float64.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from rdfer_jax import agreement, losses
from rdfer_jax import config as config_lib
from rdfer_jax.agreement import Partition, Verdict
from rdfer_jax.labels import noise_matrix
from rdfer_jax.losses import Evidence, baselines, criteria, forward, limit, neighbors, robust
from rdfer_jax.memory import Memory, remembered
from rdfer_jax.types import Outputs

B, K, INSTANTS, N = 6, 3, 4, 5
KINDS = ("clean", "noisy", "hard")
SETTINGS = config_lib.Loss(
    hard_scale="agreement",
    hard_elsewhere=True,
    label_smoothing=0.2,
    clips=0.3,
    long=0.5,
    instants=0.7,
    hard=2.0,
    noisy_weight=0.4,
    noisy_target=0.75,
    focal_gamma=1.5,
    gce_q=0.6,
    sce_alpha=0.3,
    sce_beta=0.8,
    elr_weight=2.0,
    forget_rate=0.4,
    scn_margin=0.1,
    scn_share=0.4,
    ssr_neighbors=6,
    ssr_clean=0.9,
    ssr_relabel=0.75,
)
METHODS = tuple(losses.METHODS)
#: Those that treat the kinds of the partition differently.
BY_KIND = ("agreement", "self_calibrated")
#: Those in which what becomes of a video depends on the others of its batch.
SELECTING = ("small_loss", "scn", "ssr", "oracle")


def make_partition(kinds):
    return Partition(**{kind: np.array([k == kind for k in kinds]) for kind in KINDS})


def make_verdict(seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(N), B).astype(np.float32)
    value = rng.random(B).astype(np.float32)
    return Verdict(agreement=value, consensus=probs.argmax(-1), probs=probs, noise_score=value)


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
MIXED = make_partition(["clean", "noisy", "hard", "noisy", "hard", "clean"])
FLIPPED = np.array([False, True, False, False, True, True])
#: Ten votes for each video but the second, which has none.
VOTES = np.random.default_rng(3).multinomial(10, np.full(N, 1 / N), B).astype(np.float32)
VOTES[1] = 0


#: Rows of the training videos in the memory, of which the last was never visited.
ROWS = 30


def make_memory():
    rng = np.random.default_rng(8)
    true = rng.integers(0, N, ROWS)
    label = np.where(rng.random(ROWS) < 0.3, (true + 1) % N, true).astype(np.int32)
    probs = (0.6 * np.eye(N)[true] + 0.4 * rng.dirichlet(np.ones(N), ROWS)) * rng.random((ROWS, 1))
    label[-1], probs[-1] = -1, 0
    values = rng.random((2, ROWS)).astype(np.float32)
    return Memory(
        probs=probs.astype(np.float32),
        label=label,
        agreement=values[0],
        threshold=values[1],
        visits=(label >= 0).astype(np.int32),
        features=make_features(true),
    )


def make_features(true):
    """Vectors of length 1, nearer to each other within a class; that of the last video is zero."""
    rng = np.random.default_rng(9)
    features = 0.5 * rng.standard_normal((ROWS, 7)) + np.eye(N, 7)[true]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    features[-1] = 0
    return features.astype(np.float32)


def make_evidence(**changes):
    evidence = Evidence(
        label=LABEL,
        verdict=make_verdict(),
        partition=MIXED,
        progress=np.float32(1),
        memory=make_memory(),
        index=np.arange(B, dtype=np.int32),
        flipped=FLIPPED,
        votes=VOTES,
    )
    return dataclasses.replace(evidence, **changes)


def of(method, **changes):
    return dataclasses.replace(SETTINGS, method=method, **changes)


@functools.partial(jax.jit, static_argnums=2)
def per_video(outputs, evidence, settings):
    return losses.per_video(outputs, evidence, settings)


@functools.partial(jax.jit, static_argnums=2)
def gradient(outputs, evidence, settings):
    """Of the mean loss, as the train step takes it, by each kind of logits."""
    logits = {name: getattr(outputs, name) for name in HEADS}

    def total(logits):
        return losses.per_video(dataclasses.replace(outputs, **logits), evidence, settings).mean()

    return jax.grad(total)(logits)


HEADS = ("video_logits", "clip_logits", "long_logits", "instant_logits")


def slow_probs(logits):
    exp = np.exp(np.float64(logits) - np.float64(logits).max())
    return exp / exp.sum()


def slow_targets(label, smoothing):
    return [smoothing / N + (1 - smoothing) * (n == label) for n in range(N)]


def slow_cross_entropy(logits, targets):
    logits = logits.astype(np.float64)
    log_probs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    return -(targets * log_probs).sum()


def slow_focal(logits, targets, gamma):
    probs = slow_probs(logits)
    return sum(t * -((1 - p) ** gamma) * math.log(p) for p, t in zip(probs, targets, strict=True))


def slow_gce(logits, targets, q):
    return sum(t * (1 - p**q) / q for p, t in zip(slow_probs(logits), targets, strict=True))


def slow_sce(logits, targets, alpha, beta):
    forward = slow_cross_entropy(logits, np.array(targets))
    logs = [math.log(t) if t else -4.0 for t in targets]
    return alpha * forward - beta * sum(slow_probs(logits) * logs)


#: What each method puts in the place of the cross-entropy.
SLOW = {
    "focal": lambda x, t: slow_focal(x, t, SETTINGS.focal_gamma),
    "gce": lambda x, t: slow_gce(x, t, SETTINGS.gce_q),
    "sce": lambda x, t: slow_sce(x, t, SETTINGS.sce_alpha, SETTINGS.sce_beta),
}


def slow_hierarchical(outputs, targets, settings, video, criterion=slow_cross_entropy):
    def loss(logits):
        return criterion(logits, np.array(targets))

    key = [i for i in range(INSTANTS) if outputs.instants[video, i] in outputs.key_instants[video]]
    return (
        loss(outputs.video_logits[video])
        + settings.clips * np.mean([loss(clip) for clip in outputs.clip_logits[video]])
        + settings.long * loss(outputs.long_logits[video])
        + settings.instants * np.mean([loss(outputs.instant_logits[video, i]) for i in key])
    )


def test_cross_entropy_is_that_of_scikit_learn():
    logits = make_outputs().video_logits
    found = criteria.cross_entropy(logits, np.eye(N)[LABEL])
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
    np.testing.assert_allclose(criteria.cross_entropy(logits, targets), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_labels_sum_to_one_and_keep_the_rest_on_the_label(smoothing):
    found = np.asarray(criteria.smooth_labels(LABEL, N, smoothing))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    for video in range(B):
        for n in range(N):
            expected = smoothing / N + (1 - smoothing) * (n == LABEL[video])
            np.testing.assert_allclose(found[video, n], expected, rtol=1e-6)


def test_weights_of_the_three_kinds():
    verdict = make_verdict()
    a = verdict.agreement
    found = robust.robust_weights(LABEL, verdict, MIXED, SETTINGS)
    expected = [1, 0.4, 1 + 2 * (1 - a[2]), 0.4, 1 + 2 * (1 - a[4]), 1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_hard_videos_can_be_reinforced_by_the_rank_of_their_agreement():
    verdict = dataclasses.replace(make_verdict(), rank=np.linspace(0, 1, B, dtype=np.float32))
    by_rank = dataclasses.replace(SETTINGS, hard_scale="rank")
    found = robust.robust_weights(LABEL, verdict, MIXED, by_rank)
    np.testing.assert_allclose(found, [1, 0.4, 1 + 2 * 0.6, 0.4, 1 + 2 * 0.2, 1], rtol=1e-6)


def test_hard_videos_whose_consensus_is_elsewhere_can_be_left_as_they_are():
    verdict = dataclasses.replace(make_verdict(), consensus=(LABEL + np.arange(B) // 3) % N)
    a, here = verdict.agreement, dataclasses.replace(SETTINGS, hard_elsewhere=False)
    found = robust.robust_weights(LABEL, verdict, MIXED, here)
    np.testing.assert_allclose(found, [1, 0.4, 1 + 2 * (1 - a[2]), 0.4, 1, 1], rtol=1e-6)


def test_targets_of_the_three_kinds():
    verdict = make_verdict()
    found = np.asarray(robust.robust_targets(LABEL, verdict, MIXED, SETTINGS))
    smooth = 0.8 * np.eye(N)[LABEL] + 0.2 / N
    for video in range(B):
        blend = 0.25 * smooth[video] + 0.75 * verdict.probs[video]
        expected = blend if MIXED.noisy[video] else smooth[video]
        np.testing.assert_allclose(found[video], expected, rtol=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)


def test_all_targets_can_be_blended_by_the_square_of_the_noise_score():
    verdict, every = make_verdict(), dataclasses.replace(SETTINGS, refurbish="all")
    found = np.asarray(robust.robust_targets(LABEL, verdict, MIXED, every))
    smooth = 0.8 * np.eye(N)[LABEL] + 0.2 / N
    for video in range(B):
        share = 0.75 * verdict.noise_score[video] ** 2
        expected = (1 - share) * smooth[video] + share * verdict.probs[video]
        np.testing.assert_allclose(found[video], expected, rtol=1e-6)
    before = robust.robust_targets(LABEL, verdict, MIXED, every, np.bool_(False))
    np.testing.assert_allclose(before, smooth, rtol=1e-6)


@pytest.mark.parametrize("done", [0.5, 1.0])
def test_the_loss_blends_all_targets_only_once_the_method_acts(done):
    outputs = make_outputs()
    evidence = dataclasses.replace(make_evidence(), progress=np.float32(done))
    every = dataclasses.replace(of("agreement"), refurbish="all")
    targets = robust.robust_targets(LABEL, evidence.verdict, MIXED, every, np.bool_(done == 1))
    weights = robust.robust_weights(LABEL, evidence.verdict, MIXED, every)
    expected = weights * criteria.hierarchical_loss(outputs, targets, every)
    np.testing.assert_allclose(losses.per_video(outputs, evidence, every), expected, rtol=1e-6)


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_targets_can_be_the_posterior_of_the_true_class(sharpness):
    memory, index = make_memory(), np.array([5, 3, 0, 9, 14, 7])
    labels, past = memory.label[index], np.asarray(remembered(memory), np.float64)
    known = memory.label >= 0
    joint = noise_matrix.noise_matrix(memory.label[known], past[known]).joint * known.sum()
    given = joint.T + 10 * np.eye(N)  # given class, for each true class
    given /= given.sum(axis=1, keepdims=True)
    settings = of("agreement", refurbish="posterior", sharpness=sharpness)
    found = robust.posterior_targets(labels, memory, index, settings)
    for video, (row, label) in enumerate(zip(index, labels, strict=True)):
        weights = [past[row, c] ** sharpness * given[c, label] for c in range(N)]
        expected = 0.8 * np.array(weights) / sum(weights) + 0.2 / N
        np.testing.assert_allclose(found[video], expected, rtol=1e-4)


def test_the_posterior_takes_over_once_the_method_acts():
    outputs, evidence = make_outputs(), make_evidence()
    settings = of("agreement", refurbish="posterior")
    targets = robust.posterior_targets(LABEL, evidence.memory, evidence.index, settings)
    weights = robust.robust_weights(LABEL, evidence.verdict, MIXED, settings)
    expected = weights * criteria.hierarchical_loss(outputs, targets, settings)
    np.testing.assert_allclose(per_video(outputs, evidence, settings), expected, rtol=1e-5)
    early = make_evidence(
        partition=make_partition(["clean"] * B), progress=np.float32(0.5), memory=make_memory()
    )
    expected = per_video(outputs, early, of("agreement"))
    np.testing.assert_allclose(per_video(outputs, early, settings), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="memory_decay above 0"):
        losses.per_video(outputs, make_evidence(memory=None), settings)


@pytest.mark.parametrize("refurbish", ["noisy", "all"])
def test_no_gradient_flows_into_the_targets(refurbish):
    def total(probs, noise):
        verdict = dataclasses.replace(make_verdict(), probs=probs, noise_score=noise)
        settings = dataclasses.replace(SETTINGS, refurbish=refurbish)
        return robust.robust_targets(LABEL, verdict, MIXED, settings)[:, 0].sum()

    verdict = make_verdict()
    for found in jax.grad(total, argnums=(0, 1))(verdict.probs, verdict.noise_score):
        assert not np.any(found)


def test_the_loss_by_agreement_is_the_formula():
    outputs, evidence = make_outputs(), make_evidence()
    found = losses.per_video(outputs, evidence, of("agreement"))
    assert found.shape == (B,)
    verdict = evidence.verdict
    targets = np.asarray(robust.robust_targets(LABEL, verdict, MIXED, SETTINGS))
    weights = np.asarray(robust.robust_weights(LABEL, verdict, MIXED, SETTINGS))
    for video in range(B):
        expected = weights[video] * slow_hierarchical(outputs, targets[video], SETTINGS, video)
        np.testing.assert_allclose(found[video], expected, rtol=1e-5)


def test_there_is_a_loss_for_each_method_of_the_settings():
    (field,) = (f for f in dataclasses.fields(config_lib.Loss) if f.name == "method")
    assert set(METHODS) == set(config_lib.choices(field))


@pytest.mark.parametrize("term", ["clips", "long", "instants"])
def test_a_term_of_weight_zero_is_off(term):
    outputs = make_outputs()
    field = {"clips": "clip_logits", "long": "long_logits", "instants": "instant_logits"}[term]
    other = dataclasses.replace(outputs, **{field: getattr(outputs, field) + np.arange(N)})
    targets = np.eye(N, dtype=np.float32)[LABEL]
    off = dataclasses.replace(SETTINGS, **{term: 0.0})
    one, two = (criteria.hierarchical_loss(o, targets, off) for o in (outputs, other))
    np.testing.assert_array_equal(one, two)
    assert np.all(criteria.hierarchical_loss(outputs, targets, SETTINGS) != one)


@pytest.mark.parametrize("method", ["agreement", "cross_entropy", "gce"])
def test_instants_can_count_only_where_they_were_chosen_for_the_class_of_the_target(method):
    outputs, evidence = make_outputs(), make_evidence()
    chosen = (LABEL + np.arange(B) % 2) % N
    found = per_video(dataclasses.replace(outputs, key_class=chosen), evidence, of(method))
    whole = np.asarray(per_video(outputs, evidence, of(method)))
    without = np.asarray(per_video(outputs, evidence, of(method, instants=0.0)))
    target = LABEL.copy()
    if method == "agreement":
        blends = robust.robust_targets(LABEL, evidence.verdict, MIXED, SETTINGS)
        target = np.asarray(blends).argmax(-1)
    expected = np.where(target == chosen, whole, without)
    assert np.any(expected == whole) and np.any(expected != whole)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_only_the_key_instants_count():
    outputs, targets = make_outputs(), np.eye(N, dtype=np.float32)[LABEL]
    before = criteria.hierarchical_loss(outputs, targets, SETTINGS)
    for instant in range(INSTANTS):
        logits = outputs.instant_logits.copy()
        logits[:, instant] += np.arange(N)
        other = dataclasses.replace(outputs, instant_logits=logits)
        after = criteria.hierarchical_loss(other, targets, SETTINGS)
        assert np.all((after != before) == (instant in (0, 2)))


def test_a_key_instant_that_was_picked_twice_counts_once():
    outputs, targets = make_outputs(), np.eye(N, dtype=np.float32)[LABEL]
    once = dataclasses.replace(outputs, key_instants=outputs.instants[:, [1]])
    twice = dataclasses.replace(outputs, key_instants=outputs.instants[:, [1, 1, 1]])
    np.testing.assert_array_equal(
        criteria.hierarchical_loss(once, targets, SETTINGS),
        criteria.hierarchical_loss(twice, targets, SETTINGS),
    )


@pytest.mark.parametrize("method", ["cross_entropy", "focal", "gce", "sce"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_criterion_goes_through_all_heads(method, smoothing):
    outputs = make_outputs()
    found = per_video(outputs, make_evidence(), of(method, label_smoothing=smoothing))
    criterion = SLOW.get(method, slow_cross_entropy)
    for video in range(B):
        targets = slow_targets(LABEL[video], smoothing)
        expected = slow_hierarchical(outputs, targets, SETTINGS, video, criterion)
        np.testing.assert_allclose(found[video], expected, rtol=2e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_of_a_label_is_equation_4(gamma):
    logits = make_outputs(scale=3.0).video_logits
    found = criteria.focal(logits, np.eye(N, dtype=np.float32)[LABEL], gamma)
    for video in range(B):
        p = slow_probs(logits[video])[LABEL[video]]
        np.testing.assert_allclose(found[video], -((1 - p) ** gamma) * math.log(p), rtol=1e-4)


@pytest.mark.parametrize("q", [0.01, 0.3, 0.7])
def test_generalized_cross_entropy_of_a_label_is_equation_6(q):
    logits = make_outputs(scale=3.0).video_logits
    found = criteria.generalized_cross_entropy(logits, np.eye(N, dtype=np.float32)[LABEL], q)
    for video in range(B):
        p = slow_probs(logits[video])[LABEL[video]]
        np.testing.assert_allclose(found[video], (1 - p**q) / q, rtol=1e-4)


def test_generalized_cross_entropy_lies_between_cross_entropy_and_mean_absolute_error():
    logits, targets = make_outputs(scale=3.0).video_logits, np.eye(N, dtype=np.float32)[LABEL]
    almost_zero = criteria.generalized_cross_entropy(logits, targets, 1e-6)
    np.testing.assert_allclose(almost_zero, criteria.cross_entropy(logits, targets), rtol=1e-4)
    one = criteria.generalized_cross_entropy(logits, targets, 1.0)
    miss = [1 - slow_probs(x)[y] for x, y in zip(logits, LABEL, strict=True)]
    np.testing.assert_allclose(one, miss, rtol=1e-5)


def test_symmetric_cross_entropy_of_a_label_counts_what_is_missing_from_it():
    logits = make_outputs(scale=3.0).video_logits
    found = criteria.symmetric_cross_entropy(logits, np.eye(N, dtype=np.float32)[LABEL], 0.1, 1.5)
    for video in range(B):
        p = slow_probs(logits[video])[LABEL[video]]
        expected = 0.1 * -math.log(p) - 1.5 * -4 * (1 - p)
        np.testing.assert_allclose(found[video], expected, rtol=1e-5)


def test_elr_adds_its_penalty_to_the_cross_entropy():
    outputs, evidence = make_outputs(), make_evidence()
    found = per_video(outputs, evidence, of("elr"))
    for video in range(B):
        targets = slow_targets(LABEL[video], SETTINGS.label_smoothing)
        overlap = sum(slow_probs(outputs.video_logits[video]) * evidence.memory.probs[video])
        expected = slow_hierarchical(outputs, targets, SETTINGS, video)
        expected += SETTINGS.elr_weight * math.log(1 - overlap)
        np.testing.assert_allclose(found[video], expected, rtol=1e-4)


def test_elr_pulls_towards_what_was_believed_and_no_gradient_flows_into_the_past():
    logits = np.zeros((1, N), np.float32)
    past = np.eye(N, dtype=np.float32)[[3]]
    by_logits, by_past = jax.grad(
        lambda *inputs: baselines.early_learning_penalty(*inputs).sum(), argnums=(0, 1)
    )(logits, past)
    assert np.argmin(by_logits[0]) == 3 and by_logits[0, 3] < 0
    assert not np.any(by_past)
    # By lemma 2 of the paper: p_n (<past, p> - past_n) / (1 - <past, p>).
    expected = [0.2 * (0.2 - (n == 3)) / 0.8 for n in range(N)]
    np.testing.assert_allclose(by_logits[0], expected, atol=1e-6)


def slow_forward(noise):
    """Theorem 2: the cross-entropy of the given label's probability."""

    def criterion(logits, targets):
        probs = slow_probs(logits)
        chance = [sum(probs[c] * noise[c, n] for c in range(N)) for n in range(N)]
        return -sum(t * math.log(chance[n]) for n, t in enumerate(targets))

    return criterion


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("progress", [0.99, 1.0])
def test_forward_correction_leads_the_prediction_to_the_given_label(progress, smoothing):
    outputs, evidence = make_outputs(), make_evidence(progress=np.float32(progress))
    visited = evidence.memory.label >= 0
    label, probs = evidence.memory.label[visited], evidence.memory.probs[visited]
    found = noise_matrix.noise_matrix(label, probs / probs.sum(axis=1, keepdims=True))
    counts = found.joint.T * len(label) + 10 * np.eye(N)
    noise = counts / counts.sum(axis=1, keepdims=True)
    assert np.trace(noise) < N - 0.4
    criterion = slow_forward(noise if progress == 1 else np.eye(N))
    loss = per_video(outputs, evidence, of("forward", label_smoothing=smoothing))
    for video in range(B):
        targets = slow_targets(LABEL[video], smoothing)
        expected = slow_hierarchical(outputs, targets, SETTINGS, video, criterion)
        np.testing.assert_allclose(loss[video], expected, rtol=2e-5)


def test_forward_correction_by_right_labels_is_cross_entropy():
    logits, targets = make_outputs(scale=1e4).video_logits, np.eye(N, dtype=np.float32)[LABEL]

    def corrected(logits):
        return forward.corrected_cross_entropy(logits, targets, np.eye(N, dtype=np.float32)).sum()

    value, slope = jax.value_and_grad(corrected)(logits)
    plain = jax.value_and_grad(lambda x: criteria.cross_entropy(x, targets).sum())(logits)
    np.testing.assert_allclose(value, plain[0], rtol=1e-6)
    np.testing.assert_allclose(slope, plain[1], atol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
def test_self_calibration_has_a_loss_for_each_kind(margin):
    outputs, evidence = make_outputs(), make_evidence()
    found = per_video(outputs, evidence, of("self_calibrated", correct_margin=margin))
    gains = set()
    for video in range(B):
        kind = next(kind for kind in KINDS if getattr(MIXED, kind)[video])
        peak = evidence.verdict.probs[video].max()
        tau = evidence.memory.threshold[evidence.index[video]]
        corrects = kind == "noisy" and peak > min(0.99, tau + margin)
        label = evidence.verdict.consensus[video] if corrects else LABEL[video]
        targets, criterion, weight = slow_targets(label, 0.2), SLOW["gce"], 1.0
        if kind == "clean" or corrects:
            criterion = slow_cross_entropy
        elif kind == "noisy":
            weight = SETTINGS.noisy_weight
        expected = weight * slow_hierarchical(outputs, targets, SETTINGS, video, criterion)
        np.testing.assert_allclose(found[video], expected, rtol=2e-5)
        gains.add((kind, corrects))
    assert ("noisy", margin < 1) in gains


def slow_votes(memory, labels, video, number):
    """The neighbors' similarities, by class, divided by the share of the class."""
    visited = [row for row in range(ROWS) if labels[row] >= 0]
    similar = {row: float(memory.features[row] @ memory.features[video]) for row in visited}
    nearest = sorted(set(visited) - {video}, key=lambda row: -similar[row])[:number]
    votes = np.zeros(N)
    for row in nearest:
        votes[labels[row]] += max(similar[row], 0)
    share = np.array([sum(labels[row] == c for row in visited) / len(visited) for c in range(N)])
    votes /= np.maximum(share, 1e-6)
    return votes / votes.max()


def slow_relabeled(memory):
    labels = []
    for row, label in zip(memory.probs, memory.label, strict=True):
        believed = row / row.sum() if label >= 0 else row
        labels.append(believed.argmax() if believed.max() > SETTINGS.ssr_relabel else label)
    return labels


@pytest.mark.parametrize("number", [1, 6, 100])
def test_neighbors_vote_by_their_similarity(number):
    memory = make_memory()
    labels = np.int32(slow_relabeled(memory))
    index = np.array([0, 7, 11], np.int32)
    found = neighbors.neighbor_votes(memory.features, labels, index, number, N)
    for row, video in enumerate(index):
        expected = slow_votes(memory, labels, video, number)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=1e-6)


def test_ssr_learns_new_labels_that_the_neighbors_share():
    outputs, evidence = make_outputs(), make_evidence()
    memory = evidence.memory
    labels = slow_relabeled(memory)
    assert np.sum(labels != memory.label) >= 2
    votes = [slow_votes(memory, labels, video, SETTINGS.ssr_neighbors) for video in range(B)]
    clean = [votes[video][labels[video]] >= SETTINGS.ssr_clean for video in range(B)]
    assert 0 < sum(clean) < B
    loss = [
        slow_hierarchical(outputs, slow_targets(labels[video], 0.2), SETTINGS, video)
        for video in range(B)
    ]
    found = np.asarray(per_video(outputs, evidence, of("ssr")))
    np.testing.assert_allclose(found, np.where(clean, loss, 0) * B / sum(clean), rtol=1e-4)
    before = make_evidence(progress=np.float32(0.9))
    plain = per_video(outputs, before, of("cross_entropy"))
    np.testing.assert_allclose(per_video(outputs, before, of("ssr")), plain, rtol=1e-6)


def slow_allowed(memory, share):
    """The rows with the highest odds, as many as there are wrong labels."""
    odds = []
    for row, label in zip(memory.probs, memory.label, strict=True):
        if label >= 0:
            other = max(p for c, p in enumerate(row) if c != label)
            odds.append(other / (other + row[label]))
    return set(np.argsort(odds)[len(odds) - int(share * len(odds)) :].tolist())


@pytest.mark.parametrize("kind", ["confident_learning", "sure_half"])
def test_no_more_videos_are_noisy_than_there_are_wrong_labels(kind):
    memory, rows = make_memory(), np.arange(ROWS - 1)
    settings = of("agreement", limit_share=kind)
    share = float(limit._ESTIMATES[kind](memory.label, np.asarray(remembered(memory))))
    assert 0.1 < share < 0.6
    found = np.asarray(limit.allowed(memory, rows, settings))
    allowed = set(np.flatnonzero(found).tolist())
    assert slow_allowed(memory, share) <= allowed and len(allowed) <= math.ceil(share * len(rows))
    right = dataclasses.replace(memory, label=memory.probs.argmax(axis=1).astype(np.int32))
    assert not np.any(limit.allowed(right, rows, settings))
    noisy = make_partition(["noisy"] * len(rows))
    part = limit.limited(noisy, found)
    np.testing.assert_array_equal(part.noisy, found)
    np.testing.assert_array_equal(part.hard, ~found)
    assert not np.any(part.clean)


@pytest.mark.parametrize("refurbish", ["noisy", "posterior"])
def test_a_memory_that_contradicts_most_labels_overrules_none(refurbish):
    outputs, evidence = make_outputs(), make_evidence()
    memory = evidence.memory
    visited = memory.visits > 0
    share = float((memory.probs.argmax(axis=1) != memory.label)[visited].mean())
    assert 0.05 < share < 0.95
    below, above = (
        of("agreement", refurbish=refurbish, max_contradicted=share + change)
        for change in (-0.01, 0.01)
    )
    assert not limit.knows_enough(memory, below) and limit.knows_enough(memory, above)
    assert limit.knows_enough(None, below)
    clean = dataclasses.replace(evidence, partition=make_partition(["clean"] * B))
    plain = per_video(outputs, dataclasses.replace(clean, progress=np.float32(0.5)), above)
    if refurbish == "posterior":
        np.testing.assert_allclose(per_video(outputs, clean, below), plain, rtol=1e-6)
    assert not np.allclose(per_video(outputs, evidence, above), plain, rtol=1e-3)


def test_the_limit_also_holds_where_all_targets_are_blended():
    outputs, evidence = make_outputs(), make_evidence()
    settings = of("agreement", limit_share="sure_half", refurbish="all")
    allowed = np.asarray(limit.allowed(evidence.memory, evidence.index, settings))
    assert 0 < allowed.sum() < B
    free = per_video(outputs, evidence, of("agreement", refurbish="all"))
    none = per_video(outputs, evidence, of("agreement", refurbish="all", noisy_target=0.0))
    found = per_video(outputs, evidence, settings)
    np.testing.assert_allclose(found, np.where(allowed, free, none), rtol=1e-6)
    with pytest.raises(ValueError, match=r"'sure_half' needs config.agreement.memory"):
        losses.per_video(outputs, make_evidence(memory=None), settings)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 1.0])
def test_small_loss_is_the_mean_over_the_smallest(progress):
    outputs = make_outputs()
    evidence = make_evidence(progress=np.float32(progress))
    found = np.asarray(per_video(outputs, evidence, of("small_loss")))
    loss = np.array(
        [
            slow_hierarchical(outputs, slow_targets(LABEL[video], 0.2), SETTINGS, video)
            for video in range(B)
        ]
    )
    remember_rate = 1 - SETTINGS.forget_rate * min(progress / 1, 1)
    kept = np.argsort(loss)[: math.floor(remember_rate * B)]
    assert len(kept) == {0.0: 6, 0.3: 5, 0.5: 4, 1.0: 3}[progress]
    np.testing.assert_allclose(found.mean(), loss[kept].mean(), rtol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(found), np.sort(kept))
    slopes = gradient(outputs, evidence, of("small_loss"))
    for name in HEADS:
        moved = np.any(np.asarray(slopes[name]).reshape(B, -1), axis=1)
        np.testing.assert_array_equal(np.flatnonzero(moved), np.sort(kept), err_msg=name)


CHOOSE = jax.jit(baselines.small_loss_choice)


@given(st.sampled_from([1, 20, 32]), st.integers(0, 10**6))
def test_small_loss_leaves_out_exactly_the_share_it_is_told(size, seed):
    loss = np.random.default_rng(seed).integers(0, 5, size).astype(np.float32)  # many ties
    for twentieths in range(19):
        keep = np.float32(1) - np.float32(twentieths / 20)
        chosen = np.asarray(CHOOSE(loss, keep))
        assert chosen.sum() == size * (20 - twentieths) // 20  # in whole numbers
        assert loss[chosen].max(initial=0) <= loss[~chosen].min(initial=5)


def slow_relabel(logits, label, margin):
    probs = slow_probs(logits)
    best = int(np.argmax(probs))
    return best if probs[best] - probs[label] > margin else label


@pytest.mark.parametrize("progress", [0.0, 0.999, 1.0])
def test_scn_gives_new_labels_once_it_acts(progress):
    outputs = make_outputs()
    evidence = make_evidence(progress=np.float32(progress))
    labels = LABEL
    if progress == 1:
        pairs = list(zip(outputs.video_logits, LABEL, strict=True))
        everywhere = [slow_relabel(x, y, SETTINGS.scn_margin) for x, y in pairs]
        # Of six videos three keep their label (0.6 of them are 3.6), those of the most probable ones.
        low = np.argsort([slow_probs(x)[y] for x, y in pairs])[:3]
        labels = [new if i in low else LABEL[i] for i, new in enumerate(everywhere)]
        assert 0 < np.sum(np.not_equal(labels, LABEL)) < np.sum(np.not_equal(everywhere, LABEL))
    found = per_video(outputs, evidence, of("scn"))
    for video in range(B):
        expected = slow_hierarchical(outputs, slow_targets(labels[video], 0.2), SETTINGS, video)
        np.testing.assert_allclose(found[video], expected, rtol=1e-5)
    relabeled = make_evidence(label=np.int32(labels))
    expected = gradient(outputs, relabeled, of("cross_entropy"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradient(outputs, evidence, of("scn")),
        expected,
    )


RELABEL = jax.jit(baselines.relabel)


@given(st.integers(0, 10**6), st.floats(0, 1, width=32))
def test_relabelling_is_equation_5(seed, margin):
    rng = np.random.default_rng(seed)
    logits = (2 * rng.standard_normal((B, N))).astype(np.float32)
    found = RELABEL(logits, LABEL, margin)
    for video in range(B):
        probs = slow_probs(logits[video])
        if abs(probs.max() - probs[LABEL[video]] - margin) > 1e-6:
            assert found[video] == slow_relabel(logits[video], LABEL[video], margin)


def test_the_oracle_learns_from_true_labels_alone():
    outputs, evidence = make_outputs(), make_evidence()
    found = np.asarray(per_video(outputs, evidence, of("oracle")))
    loss = [
        slow_hierarchical(outputs, slow_targets(LABEL[video], 0.2), SETTINGS, video)
        for video in np.flatnonzero(~FLIPPED)
    ]
    np.testing.assert_allclose(found.mean(), np.mean(loss), rtol=1e-5)
    slopes = gradient(outputs, evidence, of("oracle"))
    for name in HEADS:
        slope = np.asarray(slopes[name]).reshape(B, -1)
        assert not np.any(slope[FLIPPED]) and np.all(np.any(slope[~FLIPPED], axis=1))


def test_votes_are_the_targets_where_there_are_any():
    outputs = make_outputs()
    found = np.asarray(per_video(outputs, make_evidence(), of("votes")))
    for video in range(B):
        targets = [vote / 10 for vote in VOTES[video].tolist()]
        if video == 1:
            targets = slow_targets(LABEL[1], SETTINGS.label_smoothing)
        expected = slow_hierarchical(outputs, targets, SETTINGS, video)
        np.testing.assert_allclose(found[video], expected, rtol=1e-5)


def test_nothing_is_learned_where_all_labels_are_wrong():
    evidence = make_evidence(flipped=np.ones(B, bool))
    assert not np.any(per_video(make_outputs(), evidence, of("oracle")))
    slopes = gradient(make_outputs(), evidence, of("oracle"))
    assert not any(np.any(slope) for slope in slopes.values())


@pytest.mark.parametrize(
    ("method", "missing", "message"),
    [
        ("elr", "memory", "'elr' needs .*memory_decay"),
        ("forward", "memory", "'forward' needs .*memory_decay"),
        ("self_calibrated", "memory", "'self_calibrated' needs .*memory_decay"),
        ("ssr", "memory", "'ssr' needs .*memory_decay"),
        ("oracle", "flipped", "'oracle' needs .*wrong"),
        ("votes", "votes", "'votes' needs the annotators' votes"),
    ],
)
def test_a_method_without_what_it_needs_is_an_error(method, missing, message):
    evidence = make_evidence(**{missing: None})
    with pytest.raises(ValueError, match=message):
        losses.per_video(make_outputs(), evidence, of(method))
    for other in set(METHODS) - {"elr", "forward", "self_calibrated", "ssr", "oracle", "votes"}:
        assert per_video(make_outputs(), evidence, of(other)).shape == (B,)


def of_batch(function, outputs, evidence):
    """Applies a function to all that has a row for each video of the batch."""
    whole = {"progress": evidence.progress, "memory": evidence.memory}
    part = dataclasses.replace(evidence, **dict.fromkeys(whole))
    outputs, part = jax.tree.map(function, (outputs, part))
    return outputs, dataclasses.replace(part, **whole)


@pytest.mark.slow
def test_what_a_network_does_not_have_is_left_out():
    whole = make_outputs()
    names = [f.name for f in dataclasses.fields(Outputs) if f.default is None]
    assert set(names) == set(vars(whole)) - {"video_logits", "clip_logits"}
    part = dataclasses.replace(whole, **dict.fromkeys(names))
    for method in METHODS:
        found = per_video(part, make_evidence(), of(method))
        expected = per_video(whole, make_evidence(), of(method, long=0.0, instants=0.0))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(SELECTING)))
def test_the_loss_of_a_video_depends_on_that_video_alone(method):
    outputs, evidence = make_outputs(), make_evidence()
    whole = per_video(outputs, evidence, of(method))
    for video in range(B):
        one, known = of_batch(lambda x, at=video: x[at : at + 1], outputs, evidence)
        np.testing.assert_allclose(
            per_video(one, known, of(method)), whole[video : video + 1], rtol=1e-5
        )


@pytest.mark.parametrize("method", METHODS)
def test_neither_names_of_classes_nor_order_of_videos_matter(method):
    outputs, evidence = make_outputs(), make_evidence()
    rng = np.random.default_rng(3)
    new_name, order = rng.permutation(N), rng.permutation(B)
    where = np.argsort(new_name)

    def rename(logits):
        return logits[order][..., where]

    other_outputs, other = of_batch(lambda x: x[order], outputs, evidence)
    other_outputs = dataclasses.replace(
        other_outputs, **{name: rename(getattr(outputs, name)) for name in HEADS}
    )
    memory = dataclasses.replace(
        evidence.memory,
        probs=evidence.memory.probs[:, where],
        label=np.append(new_name, -1)[evidence.memory.label],
    )
    verdict = dataclasses.replace(
        other.verdict,
        probs=rename(evidence.verdict.probs),
        consensus=new_name[other.verdict.consensus],
    )
    other = dataclasses.replace(
        other,
        label=new_name[other.label],
        votes=rename(evidence.votes),
        verdict=verdict,
        memory=memory,
    )
    np.testing.assert_allclose(
        per_video(other_outputs, other, of(method)),
        per_video(outputs, evidence, of(method))[order],
        rtol=1e-5,
        atol=1e-6,
    )


@functools.partial(jax.jit, static_argnames=("settings", "flows"))
def judged_value_and_gradient(outputs, evidence, settings, flows):
    """Of the losses' sum; flows: through the agreement, too."""

    def total(logits):
        changed = dataclasses.replace(outputs, **logits)
        how = config_lib.Agreement(gradient=flows)
        verdict = agreement.stop(agreement.judge(changed.clip_logits, LABEL, how), how)
        judged = dataclasses.replace(evidence, verdict=verdict)
        return losses.per_video(changed, judged, settings).sum()

    return jax.value_and_grad(total)({name: getattr(outputs, name) for name in HEADS})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kind"),
    [(m, kind) for m in METHODS for kind in KINDS if kind == "clean" or m in BY_KIND],
)
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_loss_and_gradient_stay_finite(method, kind, scale):
    outputs = make_outputs(scale=scale)
    # A memory that is as certain as the prediction, rightly or wrongly.
    past = np.eye(N, dtype=np.float32)[outputs.video_logits.argmax(-1) - np.arange(B) % 2]
    memory = make_memory()
    probs = np.concatenate([past, memory.probs[B:]])
    memory = dataclasses.replace(memory, probs=probs)
    evidence = make_evidence(partition=make_partition([kind] * B), memory=memory)
    settings = of(method, focal_gamma=0.5)
    # Through the agreement flows the product of two logits, which float32 must be able to hold.
    flows = method == "agreement" and scale < 1e19
    value, slopes = judged_value_and_gradient(outputs, evidence, settings, flows)
    assert np.isfinite(value)
    assert all(np.isfinite(slope).all() for slope in slopes.values())
