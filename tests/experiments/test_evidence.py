"""What a cell keeps for the tables, against loops over videos."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from experiments import evidence
from rdfer_jax import agreement, config
from rdfer_jax import memory as memory_lib
from rdfer_jax.state import TrainState
from rdfer_jax.training.predictions import Predictions

B, K, N = 200, 5, 4


@pytest.fixture
def train():
    rng = np.random.default_rng(0)
    true = rng.integers(N, size=B)
    flipped = rng.random(B) < 0.3
    label = np.where(flipped, (true + 1) % N, true).astype(np.int32)
    hard = rng.random(B) < 0.4
    shift = 2.0 * np.eye(N)[true][:, None] * np.where(hard, 0.4, 1)[:, None, None]
    clips = (rng.standard_normal((B, K, N)) + shift).astype(np.float32)
    arrays = {
        "label": label, "logits": clips.mean(1), "clip_logits": clips,
        "agreement": np.asarray(agreement.soft_agreement(clips)),
        "is_flipped": flipped, "is_hard": hard,
    }  # fmt: skip
    return Predictions("train", tuple("abcd"), arrays)


def collect(train, memory=None, clip_memory=None, **settings):
    state = TrainState(
        seed=0, step=0, params={}, batch_stats={}, opt_state=(), teacher=None, memory=memory,
        clip_memory=clip_memory,
    )  # fmt: skip
    settings = {"threshold_kind": "fixed", "temperature": 1.0, "remember": 0.0} | settings
    every = config.resolve(config.default())
    chosen = dataclasses.replace(every.agreement, **settings)
    return evidence.collect(train, train, state, dataclasses.replace(every, agreement=chosen))


def test_numbers_survive_as_text():
    values = np.arange(36)
    np.testing.assert_array_equal(evidence.numbers(evidence.digits(values)), values)
    assert evidence.digits([True, False]) == "10"


def test_scores_of_clips_and_of_one_clip_are_the_same_score(train):
    found = collect(train, threshold=0.0)
    table = found["detection"]["flipped, among flipped or hard"]
    doubtful = train["is_flipped"] | train["is_hard"]
    probs = np.exp(train["clip_logits"].astype(np.float64))
    probs /= probs.sum(-1, keepdims=True)
    for name, views in (("odds, K clips", K), ("odds, one clip", 1)):
        score = []
        for row, y in zip(probs[:, :views].mean(1), train["label"], strict=True):
            score.append(max(p for n, p in enumerate(row) if n != y) / row[y])
        expected = sklearn_metrics.roc_auc_score(
            train["is_flipped"][doubtful], np.array(score)[doubtful]
        )
        assert table["auroc"][table["scores"].index(name)] == pytest.approx(expected, abs=1e-6)
    assert not any("memory" in name for name in table["scores"])
    assert found["test"]["prediction"] == evidence.digits(train["logits"].argmax(-1))
    right = ~train["is_flipped"]
    hard = found["detection"]["hard, among right labels"]
    expected = sklearn_metrics.roc_auc_score(train["is_hard"][right], -train["agreement"][right])
    place = hard["scores"].index("1 - agreement, K clips")
    assert hard["auroc"][place] == pytest.approx(expected, abs=1e-6)


def test_calls_and_histograms_count_every_video_once(train):
    found = collect(train, threshold=0.8, noise_threshold=0.55)
    counts = np.zeros((3, 3), int)
    for i in range(B):
        p = np.exp(train["clip_logits"][i].astype(np.float64))
        p = (p / p.sum(-1, keepdims=True)).mean(0)
        y, agrees = train["label"][i], train["agreement"][i] >= 0.8
        odds = max(np.delete(p, y)) / (max(np.delete(p, y)) + p[y])
        call = 1
        if agrees and p.argmax() == y:
            call = 0
        elif agrees and odds > 0.55:
            call = 2
        counts[2 if train["is_flipped"][i] else int(train["is_hard"][i]), call] += 1
    np.testing.assert_array_equal(found["calls"], counts)
    assert np.sum(found["agreement"]["clips"]) == B
    assert counts[:, 1].any() and counts[:, 2].any()


def test_a_memory_that_saw_every_video_is_measured_too(train):
    settings = {"threshold": 0.0, "noise_threshold": 0.55}
    probs = np.asarray(agreement.mean_probs(train["clip_logits"]))
    visit = {"decay": 0.6, "agreement_decay": 0.0, "threshold_decay": 0.9}
    empty = memory_lib.create(B, N)
    memory = memory_lib.update(
        empty, np.arange(B), train["label"], probs, train["agreement"], **visit
    )
    found = collect(train, memory, **settings)
    table = found["detection"]["flipped, among all"]
    clips, remembered = (
        table["auroc"][table["scores"].index(f"odds, {view}")] for view in ("K clips", "memory")
    )
    assert remembered == pytest.approx(clips, abs=1e-4)  # after one visit they are the same
    assert np.sum(found["agreement"]["memory"]) == B
    half = memory_lib.update(
        empty, np.arange(B // 2), train["label"][: B // 2], probs[: B // 2],
        train["agreement"][: B // 2], **visit,
    )  # fmt: skip
    partial = collect(train, half, **settings)["detection"]["flipped, among all"]
    assert not any("memory" in name for name in partial["scores"])


def test_the_memory_of_fewer_clips_is_measured_by_the_same_score(train):
    probs = np.exp(train["clip_logits"].astype(np.float64))
    probs /= probs.sum(-1, keepdims=True)
    memory = memory_lib.update(
        memory_lib.create(B, N), np.arange(B), train["label"], probs.mean(1), train["agreement"],
        decay=0.6, agreement_decay=0.0, threshold_decay=0.9,
    )  # fmt: skip
    clips = memory_lib.update_clips(np.zeros((B, K, N), np.float32), np.arange(B), probs, 0.6)
    table = collect(train, memory, clips)["detection"]["flipped, among all"]
    auroc = dict(zip(table["scores"], table["auroc"], strict=True))
    assert auroc["odds, memory of 1 of the clips"] == pytest.approx(
        auroc["odds, one clip"], abs=1e-4
    )
    score = [
        max(np.delete(row, y)) / row[y]
        for row, y in zip(probs[:, :3].mean(1), train["label"], strict=True)
    ]
    assert auroc["odds, memory of 3 of the clips"] == pytest.approx(
        sklearn_metrics.roc_auc_score(train["is_flipped"], score), abs=1e-4
    )
    assert f"odds, memory of {K} of the clips" not in auroc  # that is the memory itself
