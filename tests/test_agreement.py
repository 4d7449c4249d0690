"""Agreement, verdict and partition against slow references, and what must hold for any input."""

import functools
import math

import jax
import jax.numpy as jnp
import normals
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdfer_jax import agreement
from rdfer_jax import config as config_lib
from rdfer_jax.agreement import Verdict
from rdfer_jax.memory import Memory

MEASURES = ("soft", "vote")
SCORES = ("odds", "support")
KINDS = ("fixed", "quantile", "mixture", "running")
VIDEOS = 4


@st.composite
def clip_logits(draw):
    """Logits [B, K, N] of few shapes (each compiles), from faint to certain, ties among them."""
    clips, classes = draw(st.sampled_from([(1, 3), (2, 7), (5, 2), (5, 7)]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.standard_normal((VIDEOS, clips, classes))
    if draw(st.booleans()):
        logits = np.round(logits)
    return (logits * draw(st.sampled_from([0.0, 0.1, 1.0, 10.0, 1000.0]))).astype(np.float32)


def softmax(logits):
    exp = [math.exp(float(x) - float(max(logits))) for x in logits]
    return [e / sum(exp) for e in exp]


def entropy(probs):
    return -sum(p * math.log(p) for p in probs if p > 0)


def slow_mean(logits_KN):
    probs = [softmax(logits) for logits in logits_KN]
    return [sum(p[n] for p in probs) / len(probs) for n in range(len(probs[0]))]


def slow_soft(logits_KN):
    probs = [softmax(logits) for logits in logits_KN]
    most = math.log(min(len(probs), len(probs[0])))
    if most == 0:
        return 1.0
    divergence = entropy(slow_mean(logits_KN)) - sum(map(entropy, probs)) / len(probs)
    return 1 - divergence / most


def slow_vote(logits_KN):
    votes = [list(logits).index(max(logits)) for logits in logits_KN]
    return max(votes.count(c) for c in range(len(logits_KN[0]))) / len(votes)


SLOW = {"soft": slow_soft, "vote": slow_vote}
FAST = {"soft": jax.jit(agreement.soft_agreement), "vote": jax.jit(agreement.vote_agreement)}


def slow_odds(probs, label):
    other = max(p for n, p in enumerate(probs) if n != label)
    return other / (other + probs[label])


def slow_no_support(logits_KN, label):
    return min(1 - softmax(logits)[label] for logits in logits_KN)


@functools.partial(jax.jit, static_argnames=("measure", "score", "remember", "temperature"))
def judge(logits, label, measure, score="odds", past=None, remember=0.0, temperature=1.0):
    settings = config_lib.Agreement(
        measure=measure, score=score, remember=remember, temperature=temperature
    )
    return agreement.judge(logits, label, settings, past)


def make_memory(rng, classes, videos=VIDEOS):
    """Rows of videos that were visited up to four times."""
    visits = rng.integers(1, 5, videos)
    return Memory(
        probs=(rng.dirichlet(np.ones(classes), videos) * 0.8).astype(np.float32),
        label=rng.integers(0, classes, videos).astype(np.int32),
        agreement=(rng.random(videos) * (1 - 0.5**visits)).astype(np.float32),
        threshold=rng.random(videos).astype(np.float32),
        visits=visits.astype(np.int32),
    )


@pytest.mark.parametrize("measure", MEASURES)
@given(clip_logits())
def test_agreement_is_the_formula(measure, logits):
    expected = [SLOW[measure](video) for video in logits]
    np.testing.assert_allclose(FAST[measure](logits), expected, atol=2e-6)


@pytest.mark.parametrize("measure", MEASURES)
@given(clip_logits(), st.randoms(use_true_random=False))
def test_the_order_of_the_clips_does_not_matter(measure, logits, random):
    order = random.sample(range(logits.shape[1]), logits.shape[1])
    np.testing.assert_allclose(
        FAST[measure](logits[:, order]), FAST[measure](logits), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("measure", MEASURES)
@given(clip_logits())
def test_agreement_lies_in_its_range(measure, logits):
    found = np.asarray(FAST[measure](logits))
    least = 1 / logits.shape[1] if measure == "vote" else 0
    assert (found >= np.float32(least)).all() and (found <= 1).all()


@pytest.mark.parametrize("measure", MEASURES)
@given(clip_logits())
def test_clips_that_say_the_same_agree_fully(measure, logits):
    same = np.repeat(logits[:, :1], logits.shape[1], axis=1)
    np.testing.assert_allclose(FAST[measure](same), 1, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@given(clip_logits())
def test_one_clip_agrees_with_itself_exactly(measure, logits):
    np.testing.assert_array_equal(FAST[measure](logits[:, :1]), 1)


@pytest.mark.parametrize(("clips", "classes"), [(4, 4), (3, 7), (2, 2), (6, 3)])
def test_certain_clips_spread_over_all_classes_disagree_fully(clips, classes):
    logits = 1000.0 * np.eye(classes, dtype=np.float32)[np.arange(clips) % classes][None]
    np.testing.assert_allclose(agreement.soft_agreement(logits), 0, atol=1e-6)
    np.testing.assert_allclose(agreement.vote_agreement(logits), -(-clips // classes) / clips)


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_agreement_and_its_gradient_stay_finite_for_extreme_logits(scale):
    logits = scale * jax.random.normal(jax.random.key(0), (8, 3, 5))
    total = jax.jit(jax.value_and_grad(lambda x: agreement.soft_agreement(x).sum()))
    value, gradient = total(logits)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_mean_probs_is_the_mean_of_the_softmaxes():
    logits = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    expected = [slow_mean(video) for video in logits]
    np.testing.assert_allclose(agreement.mean_probs(logits), expected, atol=1e-6)


ODDS = jax.jit(agreement.odds_against)
NO_SUPPORT = jax.jit(agreement.no_support)


@given(clip_logits(), st.integers(0, 10**6))
def test_the_noise_scores_are_their_formulas(logits, seed):
    label = np.random.default_rng(seed).integers(0, logits.shape[-1], VIDEOS)
    probs = np.array([slow_mean(video) for video in logits])
    odds, missing = ODDS(probs.astype(np.float32), label), NO_SUPPORT(logits, label)
    for video in range(VIDEOS):
        expected = slow_odds(probs[video], label[video])
        np.testing.assert_allclose(odds[video], expected, atol=2e-6)
        expected = slow_no_support(logits[video], label[video])
        np.testing.assert_allclose(missing[video], expected, atol=2e-6)


@given(st.integers(0, 10**6), st.sampled_from([0.01, 1.0, 100.0]))
def test_the_odds_are_even_where_the_label_is_as_likely_as_the_next(seed, spread):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(5, spread), VIDEOS).astype(np.float32)
    label = rng.integers(0, 5, VIDEOS)
    odds = np.asarray(ODDS(probs, label))
    assert (odds >= 0).all() and (odds <= 1).all()
    best = probs.max(axis=1)
    at_label = probs[np.arange(VIDEOS), label]
    assert (odds[at_label < 0.999 * best] > 0.5).all()
    assert (odds[at_label == best] <= 0.5).all()


def test_the_odds_of_known_cases():
    probs = np.array([[0.3, 0.1, 0.2, 0.4], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    # A weak consensus counts as much as a strong one; the first is weak, and its odds are 4 to 1.
    np.testing.assert_allclose(ODDS(probs, np.array([1, 0, 2])), [0.8, 1, 0], atol=1e-6)
    np.testing.assert_allclose(ODDS(probs, np.array([3, 1, 0])), [3 / 7, 0, 0], atol=1e-6)


@given(
    clip_logits(),
    st.integers(0, 10**6),
    st.sampled_from([("soft", "odds"), ("vote", "odds"), ("soft", "support")]),
    st.sampled_from([None, 0.0, 0.5]),
    st.sampled_from([1.0, 0.5]),
)
def test_judge_is_the_formula(logits, seed, kind, remember, temperature):
    measure, score = kind
    rng = np.random.default_rng(seed)
    classes = logits.shape[-1]
    label = rng.integers(0, classes, VIDEOS)
    memory = None if remember is None else make_memory(rng, classes)
    found = judge(logits, label, measure, score, memory, remember or 0.0, temperature)
    assert (found.support is None) == (memory is None)
    for video in range(VIDEOS):
        probs, agreed = slow_mean(logits[video]), SLOW[measure](logits[video] / temperature)
        if memory is not None:
            probs = (memory.probs[video] / memory.probs[video].sum()).tolist()
            at_label = [softmax(clip)[label[video]] for clip in logits[video]]
            if min(abs(p - memory.threshold[video]) for p in at_label) > 1e-5:
                support = np.mean([p > memory.threshold[video] for p in at_label])
                np.testing.assert_allclose(found.support[video], support, rtol=1e-6)
        if remember:
            agreed = memory.agreement[video] / (1 - remember ** memory.visits[video])
        y = label[video]
        np.testing.assert_allclose(found.probs[video], probs, atol=1e-6)
        consensus = int(found.consensus[video])
        assert max(probs) - probs[consensus] < 1e-6  # of several equals, any
        # The label's support is that of its clips of now, whatever is remembered.
        noise = slow_odds(probs, y) if score == "odds" else slow_no_support(logits[video], y)
        np.testing.assert_allclose(found.noise_score[video], noise, atol=2e-6)
        np.testing.assert_allclose(found.agreement[video], agreed, atol=2e-6)


def test_the_consensus_is_the_class_of_the_mean_distribution():
    # Class 0 has the highest mean logit, because of one outlier.
    logits = np.array([[[9.0, 0, 0], [-1, 1, 0], [-1, 1, 0], [-1, 1, 0]]], np.float32)
    assert judge(logits, np.array([0]), "soft").consensus.tolist() == [1]


@given(st.integers(0, 10**6), st.sampled_from(MEASURES), st.sampled_from(SCORES))
def test_renaming_the_classes_changes_nothing_else(seed, measure, score):
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((VIDEOS, 5, 7)).astype(np.float32)
    label = rng.integers(0, 7, VIDEOS)
    new_name = rng.permutation(7)
    renamed = np.empty_like(logits)
    renamed[..., new_name] = logits
    one, two = (
        judge(logits, label, measure, score),
        judge(renamed, new_name[label], measure, score),
    )
    np.testing.assert_array_equal(new_name[one.consensus], two.consensus)
    np.testing.assert_allclose(one.probs, two.probs[:, new_name], atol=1e-6)
    for name in ("agreement", "noise_score"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), atol=1e-6)


RANK = jax.jit(agreement.rank)


@functools.partial(jax.jit, static_argnames=("kind", "remember", "noisy_agrees"))
def partition(
    verdict, label, threshold, noise_threshold, kind="fixed", memory=None, remember=0.0,
    noisy_agrees=True,
):  # fmt: skip
    settings = config_lib.Agreement(
        threshold=threshold,
        noise_threshold=noise_threshold,
        threshold_kind=kind,
        remember=remember,
        noisy_agrees=noisy_agrees,
    )
    return agreement.partition(verdict, label, settings, memory)


def make_verdict(value, consensus, noise, support=None):
    return Verdict(
        agreement=np.float32(value),
        consensus=np.array(consensus),
        probs=np.zeros((len(value), 3), np.float32),
        noise_score=np.float32(noise),
        support=None if support is None else np.float32(support),
    )


def slow_kind(value, consensus, noise, label, tau, noise_threshold, noisy_agrees=True):
    if value >= tau and consensus == label:
        return "clean"
    if (value >= tau or not noisy_agrees) and consensus != label and noise > noise_threshold:
        return "noisy"
    return "hard"


def assert_partition(found, expected):
    kinds = np.stack([found.clean, found.noisy, found.hard])
    np.testing.assert_array_equal(kinds.sum(axis=0), 1)
    assert [("clean", "noisy", "hard")[row] for row in kinds.argmax(axis=0)] == expected


share = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1, width=32))
class_ = st.integers(0, 2)


@given(
    st.lists(st.tuples(share, class_, share, class_), min_size=6, max_size=6),
    share,
    share,
    st.booleans(),
)
def test_every_video_is_exactly_one_of_clean_noisy_and_hard(
    videos, tau, noise_threshold, noisy_agrees
):
    *parts, label = zip(*videos, strict=True)
    found = partition(
        make_verdict(*parts), np.array(label), tau, noise_threshold, noisy_agrees=noisy_agrees
    )
    expected = [slow_kind(*video, tau, noise_threshold, noisy_agrees) for video in videos]
    assert_partition(found, expected)


# In steps in which no difference is lost in rounding.
thousandths = st.integers(0, 1000).map(lambda n: n / 1000)
fifths = st.integers(0, 5).map(lambda n: n / 5)


@given(
    st.lists(st.tuples(thousandths | fifths, class_, fifths, class_), min_size=7, max_size=7),
    st.integers(0, 100).map(lambda n: n / 100),
)
def test_tau_can_be_a_quantile_of_the_batch(videos, share):
    value, *parts, label = zip(*videos, strict=True)
    found = partition(make_verdict(value, *parts), np.array(label), share, 0.5, kind="quantile")
    tau = np.quantile(value, share) - 1e-9
    assert_partition(found, [slow_kind(*video, tau, 0.5) for video in videos])
    # In any batch somebody agrees: the most agreeing one at least.
    assert not found.hard[np.argmax(value)] or label[np.argmax(value)] != parts[0][np.argmax(value)]


@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
def test_videos_that_agree_alike_are_on_one_side_of_any_quantile(value, share):
    found = partition(
        make_verdict([value] * 6, [1] * 6, [0.0] * 6), np.ones(6, int), share, 0.5, "quantile"
    )
    assert found.clean.all()


@given(
    clip_logits(),
    st.integers(0, 10**6),
    share,
    share,
    st.sampled_from(MEASURES),
    st.sampled_from(KINDS),
)
def test_the_partition_of_any_logits_is_exclusive_and_exhaustive(
    logits, seed, threshold, noise_threshold, measure, kind
):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, logits.shape[-1], VIDEOS)
    memory = make_memory(rng, logits.shape[-1])
    verdict = judge(logits, label, measure, past=memory)
    found = partition(verdict, label, threshold, noise_threshold, kind, memory)
    np.testing.assert_array_equal(
        found.clean.astype(int) + found.noisy.astype(int) + found.hard.astype(int), 1
    )


@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from([0.0, 0.5]))
def test_tau_can_be_a_quantile_of_all_videos_that_were_visited(seed, share, remember):
    rng = np.random.default_rng(seed)
    memory = make_memory(rng, 3, videos=30)
    memory.visits[::3] = 0
    parts = rng.random(7), rng.integers(0, 3, 7), rng.random(7)
    label = rng.integers(0, 3, 7)
    known = np.clip(memory.agreement / (1 - remember ** memory.visits.astype(float) + 1e-30), 0, 1)
    tau = np.quantile(known[memory.visits > 0], share)
    if np.abs(parts[0] - tau).min() < 1e-5:
        return
    found = partition(make_verdict(*parts), label, share, 0.5, "quantile", memory, remember)
    assert_partition(found, [slow_kind(*v, tau, 0.5) for v in zip(*parts, label, strict=True)])


def logit(values):
    values = np.clip(values, 1e-4, 1 - 1e-4)
    return np.log(values / (1 - values))


@given(st.integers(0, 10**6))
def test_the_thresholds_can_be_probabilities_under_mixtures_fitted_to_all_videos(seed):
    rng = np.random.default_rng(seed)
    memory = make_memory(rng, 3, videos=30)
    memory.visits[::3] = 0
    parts = rng.random(7), rng.integers(0, 3, 7), rng.random(7)
    label = rng.integers(0, 3, 7)
    visited = memory.visits > 0
    odds = [slow_odds(p / p.sum(), y) for p, y in zip(memory.probs, memory.label, strict=True)]
    agrees = normals.above(logit(memory.agreement[visited]), logit(parts[0]))
    wrong = normals.above(logit(np.array(odds)[visited]), logit(parts[2]))
    if min(np.abs(agrees - 0.4).min(), np.abs(wrong - 0.6).min()) < 1e-3:
        return
    found = partition(make_verdict(*parts), label, 0.4, 0.6, "mixture", memory)
    videos = zip(agrees, parts[1], wrong, label, strict=True)
    assert_partition(found, [slow_kind(*video, 0.4, 0.6) for video in videos])


@given(
    st.lists(st.tuples(share, class_, share, fifths, class_), min_size=6, max_size=6),
    share,
)
def test_with_running_thresholds_all_clips_support_a_clean_label_and_none_a_noisy_one(videos, tau):
    *parts, label = zip(*videos, strict=True)
    found = partition(make_verdict(*parts), np.array(label), tau, 0.5, "running")
    expected = []
    for value, consensus, _, support, given_label in videos:
        noisy = support == 0 and consensus != given_label and value >= tau
        expected.append("clean" if support == 1 else "noisy" if noisy else "hard")
    assert_partition(found, expected)


@given(st.integers(0, 10**6))
def test_the_rank_is_the_share_of_smaller_agreements(seed):
    rng = np.random.default_rng(seed)
    known, chosen = rng.integers(0, 5, 20) / 5, rng.random(20) < 0.7
    values = rng.integers(0, 5, 6) / 5
    found = RANK(np.float32(values), np.float32(known), chosen)
    below = [np.mean(known[chosen] < v) + np.mean(known[chosen] == v) / 2 for v in values]
    np.testing.assert_allclose(found, below, atol=1e-6)


def test_all_clean_calls_every_video_clean():
    found = agreement.all_clean(5)
    assert found.clean.all() and not found.noisy.any() and not found.hard.any()


@pytest.mark.parametrize("flows", [False, True])
def test_gradients_flow_through_the_verdict_only_if_the_settings_say_so(flows):
    settings = config_lib.Agreement(gradient=flows)
    logits = jax.random.normal(jax.random.key(0), (2, 3, 4))

    def total(logits):
        verdict = agreement.stop(agreement.judge(logits, jnp.array([0, 1]), settings), settings)
        return jnp.sum(verdict.agreement + verdict.noise_score + verdict.probs[:, 0])

    assert bool(np.any(jax.jit(jax.grad(total))(logits) != 0)) == flows
