"""The learned score of labels: evidence by formulas, weights as by scikit-learn, promises of lists."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from experiments.simulated import simulate
from rdfer_jax import find_label_issues
from rdfer_jax.labels import suspicion as suspicion_lib
from rdfer_jax.labels.noise_matrix import noise_matrix, smoothed
from rdfer_jax.labels.suspicion import Suspicion, suspicion


def _slow_evidence(clips, label, noise):
    """The evidence for one label of one video, from the formulas."""
    classes = clips.shape[1]
    mean = [max(sum(clip[c] for clip in clips) / len(clips), 1e-6) for c in range(classes)]
    logs = [np.mean([np.log(max(clip[c], 1e-6)) for clip in clips]) for c in range(classes)]
    others = [c for c in range(classes) if c != label]
    wrong = max(sum(mean[c] * noise[c, label] for c in others), 1e-6)
    return [
        np.log(mean[label]) - max(np.log(mean[c]) for c in others),
        np.log(mean[label]),
        np.log(max(mean[label] * noise[label, label], 1e-6)) - np.log(wrong),
        logs[label] - max(logs[c] for c in others),
        max(np.log(max(clip[label], 1e-6)) for clip in clips),
    ]


@pytest.mark.parametrize("network", ["truth", "given"])
def test_score_is_that_of_a_loop_and_scikit_learn(network):
    data = simulate(150, "confusion", 0.3, network, seed=1)
    noise = smoothed(noise_matrix(data.label, data.probs.mean(axis=1)).joint.T * 150)
    rows, targets, weights = [], [], []
    for clips, label in zip(data.probs, data.label, strict=True):
        own = _slow_evidence(clips, label, noise)
        right = 1 / (1 + np.exp(-own[2]))
        for c in range(7):
            rows.append(own if c == label else _slow_evidence(clips, c, noise))
            targets.append(c != label)
            weights.append(right * (noise[label, c] + 1e-6) if c != label else right)
    rows, targets, weights = map(np.array, (rows, targets, weights))
    for kind in (False, True):
        weights[targets == kind] *= 75 / weights[targets == kind].sum()
    scale = rows.std(axis=0)
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(
        (rows - rows.mean(axis=0)) / scale, targets, weights
    )
    learned, odds = rows @ (model.coef_[0] / scale), -rows[:, 0]
    own = ~targets
    expected = (learned / learned[own].std() + odds / odds[own].std()) / 2
    found = suspicion(data.label, data.probs)
    np.testing.assert_allclose(found.score, expected[own], atol=5e-3)
    np.testing.assert_allclose(found.injected, expected[targets], atol=5e-3)
    np.testing.assert_allclose(found.weight, weights[targets] / 75, atol=1e-6)


def test_many_videos_are_scored_with_the_weights_of_some(monkeypatch):
    data = simulate(600, "symmetric", 0.2, seed=2)
    whole = suspicion(data.label, data.probs)
    monkeypatch.setattr(suspicion_lib, "LEARN_VIDEOS", 300)
    part = suspicion(data.label, data.probs)
    assert len(part.injected) == 300 * 6 and len(part.score) == 600
    assert np.corrcoef(whole.score, part.score)[0, 1] > 0.99


def test_false_alarms_by_hand():
    found = Suspicion(
        score=np.array([3.0, 1.0, 2.0, 0.0]),
        injected=np.array([2.5, 0.5, -1.0]),
        weight=np.array([0.5, 0.25, 0.25]),
    )
    # Wrong at or above each score, in videos: 0.4 * 4 * (0, 0.5, 0.5, 0.75) = 0, 0.8, 0.8, 1.2.
    # Of 1, 2, 3, 4 videos: 0, 0.4, 0.267, 0.3; the best of the longer lists counts.
    np.testing.assert_allclose(found.false_alarms(0.4), [0.6, 0.7, 0.6, 0.7])
    np.testing.assert_array_equal(found.false_alarms(0.0), 1)
    assert found.false_alarms(1.0).min() == 0


@pytest.mark.parametrize("network", ["truth", "given", "overconfident"])
def test_lists_keep_their_promise(network):
    """Over several data sets, and not by listing next to nothing."""
    listed = right = 0
    for seed in range(4):
        data = simulate(2000, "confusion", 0.3, network, seed)
        found = find_label_issues(data.label, data.probs, precision=0.9).kind == "mislabeled"
        listed += found.sum()
        right += (found & data.is_wrong).sum()
    assert right / listed >= 0.87
    assert listed > 0.1 * 8000
