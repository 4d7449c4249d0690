import itertools
import json
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import strategies as st

from rdfer_jax import metrics

quick = hypothesis.settings(max_examples=60, deadline=None)


@st.composite
def predictions(draw, min_size=1):
    """Labels, predictions and the number of classes; some classes may be absent."""
    num_classes = draw(st.integers(1, 8))
    num_examples = draw(st.integers(min_size, 60))
    classes = st.integers(0, num_classes - 1)
    labels = draw(hnp.arrays(np.int64, num_examples, elements=classes))
    predicted = draw(hnp.arrays(np.int32, num_examples, elements=classes))
    return labels, predicted, num_classes


@pytest.mark.filterwarnings("ignore:A single label was found")
@quick
@hypothesis.given(predictions())
def test_agrees_with_scikit_learn(drawn):
    labels, predicted, num_classes = drawn
    classes = np.arange(num_classes)
    confusion = metrics.confusion_matrix(labels, predicted, num_classes)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(
        confusion, sklearn.metrics.confusion_matrix(labels, predicted, labels=classes)
    )
    assert metrics.war(confusion) == pytest.approx(
        sklearn.metrics.accuracy_score(labels, predicted), abs=1e-12
    )
    occurring = np.unique(labels)
    recall = sklearn.metrics.recall_score(
        labels, predicted, labels=classes, average=None, zero_division=np.nan
    )
    np.testing.assert_allclose(metrics.recall_per_class(confusion), recall, atol=1e-12)
    # balanced_accuracy_score warns about predicted classes that are no label; the mean of the
    # occurring classes' recalls is its definition.
    assert metrics.uar(confusion) == pytest.approx(recall[occurring].mean(), abs=1e-12)
    if set(predicted) <= set(labels):
        assert metrics.uar(confusion) == pytest.approx(
            sklearn.metrics.balanced_accuracy_score(labels, predicted), abs=1e-12
        )
    assert metrics.absent_classes(confusion) == sorted(set(classes) - set(labels))


@quick
@hypothesis.given(predictions(min_size=0), st.integers(0, 10), st.randoms())
def test_masked_examples_change_nothing(drawn, padding, random):
    labels, predicted, num_classes = drawn
    order = list(range(len(labels) + padding))
    random.shuffle(order)
    junk = np.full(padding, -7)
    padded_labels = np.concatenate([labels, junk])[order]
    padded_predicted = np.concatenate([predicted, junk + 100])[order]
    mask = np.array([position < len(labels) for position in order], bool)
    np.testing.assert_array_equal(
        metrics.confusion_matrix(padded_labels, padded_predicted, num_classes, mask),
        metrics.confusion_matrix(labels, predicted, num_classes),
    )


def test_absent_class_has_no_recall_and_is_left_out_of_uar():
    confusion = metrics.confusion_matrix([0, 0, 2, 2], [0, 1, 2, 2], 3)
    np.testing.assert_array_equal(metrics.recall_per_class(confusion), [0.5, np.nan, 1.0])
    assert metrics.uar(confusion) == 0.75
    assert metrics.absent_classes(confusion) == [1]


def test_without_examples_there_is_no_number():
    confusion = metrics.confusion_matrix([], [], 3)
    assert confusion.sum() == 0
    assert math.isnan(metrics.war(confusion))
    assert math.isnan(metrics.uar(confusion))
    assert metrics.absent_classes(confusion) == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "predicted", "mask", "message"),
    [
        ([0, 1], [0], None, "one length"),
        ([[0], [1]], [[0], [1]], None, "one length"),
        ([0, 1], [0, 1], [True], "one length"),
        ([0, 3], [0, 1], None, r"labels: expected values in \[0, 3\), got 0 to 3"),
        ([0, 1], [0, -1], None, r"predictions: expected values in \[0, 3\), got -1 to 0"),
        ([0.0, 1.0], [0, 1], None, "labels: expected integers, got float64"),
    ],
)
def test_confusion_matrix_refuses(labels, predicted, mask, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_matrix(labels, predicted, 3, mask)


@quick
@hypothesis.given(
    st.lists(
        # Few distinct values, so that most draws hold ties.
        st.tuples(st.sampled_from([-1.5, 0.0, 0.25, 0.5, 3.0]), st.booleans()),
        min_size=2,
        max_size=60,
    )
)
def test_auroc_agrees_with_scikit_learn_ties_included(pairs):
    scores, positive = map(np.array, zip(*pairs, strict=True))
    hypothesis.assume(0 < positive.sum() < len(positive))
    expected = sklearn.metrics.roc_auc_score(positive, scores)
    assert metrics.auroc(scores, positive) == pytest.approx(expected, abs=1e-12)
    # A monotone map of the scores changes nothing; a change of sign mirrors it.
    assert metrics.auroc(np.exp(scores), positive) == pytest.approx(expected, abs=1e-12)
    assert metrics.auroc(-scores, positive) == pytest.approx(1 - expected, abs=1e-12)


def test_auroc_special_cases():
    assert metrics.auroc([1, 1, 1, 1], [1, 0, 1, 0]) == 0.5
    assert metrics.auroc([-np.inf, 0, np.inf], [0, 0, 1]) == 1.0
    assert math.isnan(metrics.auroc([0.1, 0.2], [1, 1]))
    assert math.isnan(metrics.auroc([0.1, 0.2], [False, False]))
    assert math.isnan(metrics.auroc([], []))


@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        ([0.1, np.nan], [0, 1], "1 of 2 scores are NaN"),
        ([0.1, 0.2], [0, 1, 1], "one length"),
        ([[0.1], [0.2]], [[0], [1]], "one length"),
        ([0.1, 0.2], [0, 2], "0 and 1"),
    ],
)
def test_auroc_refuses(scores, positive, message):
    with pytest.raises(ValueError, match=message):
        metrics.auroc(scores, positive)


@quick
@hypothesis.given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 20), st.integers(2, 7)),
        elements=st.floats(-15, 15, width=32),
    ),
    st.integers(0, 2**31 - 1),
)
def test_loss_agrees_with_scikit_learn(logits, seed):
    num_examples, num_classes = logits.shape
    labels = np.random.default_rng(seed).integers(num_classes, size=num_examples)
    loss = metrics.loss_per_example(logits, labels)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=np.arange(num_classes))
    assert loss.shape == (num_examples,)
    assert (loss >= 0).all()
    # log_loss clips probabilities at the resolution of their type, a loss of 36: logits stay below.
    assert loss.mean() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_loss_is_stable_and_refuses_wrong_labels():
    np.testing.assert_allclose(metrics.loss_per_example([[1e4, 0.0]] * 2, [0, 1]), [0, 1e4])
    assert metrics.loss_per_example(np.zeros((0, 3)), []).shape == (0,)
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        metrics.loss_per_example([[0.0, 1.0]], [-1])
    with pytest.raises(ValueError, match="integers"):
        metrics.loss_per_example([[0.0, 1.0]], [1.0])
    with pytest.raises(ValueError, match=r"\[N, C\]"):
        metrics.loss_per_example([[0.0, 1.0]], [0, 1])


@quick
@hypothesis.given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=6)
)
def test_risk_coverage_is_the_mean_over_all_orders_of_ties(pairs):
    confidence, correct = map(np.array, zip(*pairs, strict=True))
    count = len(pairs)
    risks = []
    for order in itertools.permutations(range(count)):
        order = np.array(order)
        if (np.diff(confidence[order]) <= 0).all():
            risks.append([1 - correct[order[:taken]].mean() for taken in range(1, count + 1)])
    curve = metrics.risk_coverage(confidence, correct)
    np.testing.assert_allclose(curve.risk, np.mean(risks, axis=0), atol=1e-12)
    np.testing.assert_allclose(curve.coverage, np.arange(1, count + 1) / count)
    assert metrics.aurc(confidence, correct) == pytest.approx(np.mean(risks), abs=1e-12)


def test_aurc_does_not_depend_on_the_order_and_knows_the_best_and_the_worst():
    rng = np.random.default_rng(0)
    confidence, correct = rng.integers(5, size=200), rng.integers(2, size=200)
    shuffle = rng.permutation(200)
    assert metrics.aurc(confidence, correct) == metrics.aurc(confidence[shuffle], correct[shuffle])
    best, worst = metrics.aurc(correct, correct), metrics.aurc(-correct, correct)
    assert best < metrics.aurc(confidence, correct) < worst
    # A confidence that says nothing leaves the share of errors at every coverage.
    assert metrics.aurc(np.zeros(200), correct) == pytest.approx(1 - correct.mean())
    # Half of ten right, in the best order: sum_{i=6..10} (i - 5) / i over 10.
    best = sum((i - 5) / i for i in range(6, 11)) / 10
    assert metrics.aurc([2] * 5 + [-np.inf] * 5, [1] * 5 + [0] * 5) == pytest.approx(best)
    assert math.isnan(metrics.aurc([], []))


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([0.5, np.nan], [0, 1], "1 of 2 scores are NaN"),
        ([[0.5]], [[1]], "expected two vectors of one length"),
        ([0.5, 0.6], [0, 2], "expected booleans, or 0 and 1"),
    ],
)
def test_aurc_refuses(confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        metrics.aurc(confidence, correct)


def test_summary_is_valid_json_also_with_absent_classes():
    confusion = metrics.confusion_matrix([0, 0, 2, 2], [0, 1, 2, 2], 3)
    summary = json.loads(
        json.dumps(metrics.summarize(confusion, ["happy", "sad", "fear"]), allow_nan=False)
    )
    assert summary == {
        "war": 0.75,
        "uar": 0.75,
        "recall_per_class": {"happy": 0.5, "sad": None, "fear": 1.0},
        "confusion_matrix": [[1, 1, 0], [0, 0, 0], [0, 0, 2]],
        "num_examples": 4,
        "absent_classes": ["sad"],
    }
    empty = metrics.summarize(np.zeros((2, 2), int), ["a", "b"])
    assert empty["war"] is None
    assert empty["uar"] is None
    with pytest.raises(ValueError, match="for 2 class names, got shape"):
        metrics.summarize(confusion, ["a", "b"])


def _outputs(rng, size, dtype=np.float32):
    kind = rng.integers(3, size=size)
    return {
        "loss": rng.uniform(0, 3, size).astype(dtype),
        "accuracy": rng.integers(2, size=size).astype(bool),
        "agreement": rng.uniform(0, 1, size).astype(dtype),
        "clean": kind == 0,
        "noisy": kind == 1,
        "hard": kind == 2,
        "grad_norm": np.float32(rng.uniform(0, 5)),
    }


def test_train_metrics_merge_inside_jit_into_means_over_all_examples():
    rng = np.random.default_rng(0)
    steps = [_outputs(rng, 6) for _ in range(3)]

    @jax.jit
    def accumulate(total, outputs):
        return total.merge(metrics.TrainMetrics.of_step(**outputs))

    total = metrics.TrainMetrics.of_step(**steps[0])
    for outputs in steps[1:]:
        total = accumulate(total, outputs)
    means = total.compute()
    assert set(means) == set(steps[0])
    for name, mean in means.items():
        expected = np.mean([np.mean(outputs[name]) for outputs in steps])
        assert mean == pytest.approx(expected, rel=1e-6), name
    assert means["clean"] + means["noisy"] + means["hard"] == pytest.approx(1)
    # A sum has the types of a step, so it compiled once.
    assert accumulate._cache_size() == 1


def test_train_metrics_ignore_masked_examples_and_see_nan_in_the_others():
    outputs = _outputs(np.random.default_rng(1), 4)
    outputs["loss"][3] = np.nan
    mask = np.array([True, True, True, False])
    masked = metrics.TrainMetrics.of_step(**outputs, mask=mask).compute()
    assert masked["loss"] == pytest.approx(outputs["loss"][:3].mean(), rel=1e-6)
    assert masked["grad_norm"] == pytest.approx(outputs["grad_norm"])
    unmasked = metrics.TrainMetrics.of_step(**outputs).compute()
    assert np.isnan(unmasked["loss"])


def test_train_metrics_sum_bfloat16_in_float32():
    # In bfloat16, 256 + 1 is 256: a sum kept in it would stop growing.
    outputs = _outputs(np.random.default_rng(2), 4096)
    outputs["loss"] = jnp.ones(4096, jnp.bfloat16)
    means = metrics.TrainMetrics.of_step(**outputs).compute()
    assert means["loss"] == 1.0
    assert means["loss"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": np.float32(1)}, r"loss: expected a vector, got shape \(\)"),
        ({"grad_norm": np.ones(4, np.float32)}, r"grad_norm: expected a scalar, got shape \(4,\)"),
        ({"mask": np.ones(3, bool)}, r"mask: expected shape \(4,\), got \(3,\)"),
    ],
)
def test_train_metrics_refuse_wrong_shapes(change, message):
    outputs = _outputs(np.random.default_rng(3), 4) | change
    with pytest.raises(ValueError, match=message):
        metrics.TrainMetrics.of_step(**outputs)


def test_divergence_from_votes_is_that_of_scipy():
    rng = np.random.default_rng(0)
    logits, votes = rng.normal(size=(50, 7)) * 9, rng.integers(0, 4, (50, 7)).astype(float)
    votes[3], votes[4] = 0, np.eye(7)[2] * 10
    found = metrics.divergence_from_votes(logits, votes)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for i in range(50):
        expected = np.nan if i == 3 else scipy.stats.entropy(votes[i], probs[i])
        assert found[i] == pytest.approx(expected, rel=1e-9, nan_ok=True)
    agreeing = np.log(votes[4] / 10 + 1e-300)
    assert metrics.divergence_from_votes([agreeing], [votes[4]])[0] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match=r"expected logits and votes \[N, C\]"):
        metrics.divergence_from_votes(logits, votes[:, :6])
    with pytest.raises(ValueError, match="votes: expected finite numbers of at least 0"):
        metrics.divergence_from_votes(logits, votes - 1)
