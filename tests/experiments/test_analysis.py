import json

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from etils import epath
from planted import CLASSES, planted, save
from scipy import special

from experiments import analysis, analysis_tables, noise_scores, predictions
from rdfer_jax import agreement, calibration, metrics


def without(arrays, *names):
    return {name: values for name, values in arrays.items() if name not in names}


def save_run(folder, rng, epochs=(1, 2, 10), hidden=()):
    """A run of some epochs, in the first of which the clips' predictions are noise."""
    train = without(planted(rng), *hidden)
    for epoch in epochs:
        noise = {
            name: train[name] * 0 + rng.normal(size=train[name].shape).astype(np.float32)
            for name in ("logits", "clip_logits")
        }
        save(folder / f"epochs/train_{epoch:04d}.npz", train | (noise if epoch == 1 else {}))
    save(folder / "predictions.npz", without(planted(rng, 90), *hidden), "test")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def some_evidence(rng, count=50, clips=5, classes=7):
    clip_logits = rng.normal(size=(count, clips, classes)) * 3
    logits, label = rng.normal(size=(count, classes)) * 3, rng.integers(classes, size=count)
    return logits, clip_logits, label, noise_scores.Evidence.of(logits, clip_logits, label)


@pytest.mark.parametrize(("clips", "classes"), [(5, 7), (7, 3), (1, 4)])
def test_scores_agree_with_those_in_the_train_step(rng, clips, classes):
    logits, clip_logits, label, evidence = some_evidence(rng, clips=clips, classes=classes)
    clips_BKN, label_B = jnp.asarray(clip_logits), jnp.asarray(label)
    probs_BN = agreement.mean_probs(clips_BKN)
    pairs = (
        (noise_scores.soft_agreement(evidence), agreement.soft_agreement(clips_BKN)),
        (noise_scores.vote_agreement(evidence), agreement.vote_agreement(clips_BKN)),
        (noise_scores.no_support(evidence), agreement.no_support(clips_BKN, label_B)),
        (special.expit(noise_scores.log_odds(evidence)), agreement.odds_against(probs_BN, label_B)),
        (noise_scores.confidence(evidence), probs_BN.max(axis=1)),
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(noise_scores.loss(evidence), metrics.loss_per_example(logits, label))


def test_scores_agree_with_their_formulas_video_by_video(rng):
    logits, clip_logits, label, evidence = some_evidence(rng)
    for index, y in enumerate(label):
        clips = special.softmax(clip_logits[index], axis=1)
        mean, votes = clips.mean(axis=0), np.bincount(clips.argmax(axis=1), minlength=7) / 5
        divergence = scipy.stats.entropy(mean) - np.mean([scipy.stats.entropy(p) for p in clips])
        soft = 1 - divergence / np.log(5)
        expected = {
            noise_scores.loss: -np.log(special.softmax(logits[index])[y]),
            noise_scores.clips_loss: -np.mean([np.log(p[y]) for p in clips]),
            noise_scores.no_support: 1 - max(p[y] for p in clips),
            noise_scores.margin: mean.max() - mean[y],
            noise_scores.log_odds: np.log(np.delete(mean, y).max()) - np.log(mean[y]),
            noise_scores.agreement_elsewhere: soft if mean.argmax() != y else 0,
            noise_scores.votes_against: 1 - votes[y],
            noise_scores.soft_agreement: soft,
            noise_scores.vote_agreement: votes.max(),
            noise_scores.confidence: mean.max(),
            noise_scores.video_confidence: special.softmax(logits[index]).max(),
        }
        for score, value in expected.items():
            assert score(evidence)[index] == pytest.approx(value, abs=1e-12), score.__name__


def test_every_score_is_finite_also_where_probabilities_vanish():
    logits = np.array([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]])
    evidence = noise_scores.Evidence.of(logits, np.stack([logits, logits[::-1]], axis=1), [2, 1])
    for name, values in noise_scores.over_epochs([evidence, evidence]).items():
        assert np.isfinite(values).all(), name
    assert noise_scores.soft_agreement(evidence) == pytest.approx(0)


def test_memory_is_the_mean_over_the_epochs_so_far(rng):
    evidences = [some_evidence(rng)[-1] for _ in range(3)]
    values = noise_scores.over_epochs(iter(evidences))
    losses = np.stack([noise_scores.loss(evidence) for evidence in evidences])
    np.testing.assert_array_equal(values["loss of the video"], losses)
    memory = values["loss of the video" + noise_scores.MEMORY]
    for epoch in range(3):
        np.testing.assert_allclose(memory[epoch], losses[: epoch + 1].mean(axis=0))
    assert set(noise_scores.names("flipped")) | set(noise_scores.names("hard")) == set(values)
    assert not any(
        name.endswith(noise_scores.MEMORY) for name in noise_scores.over_epochs(evidences[:1])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0, 3]}, r"\[0, 3\)"),
        ({"label": [0.0, 1.0]}, "integers"),
        ({"label": [0]}, r"\[B, K, N\]"),
        ({"clip_logits": np.zeros((2, 0, 3))}, r"\[B, K, N\]"),
        ({"clip_logits": np.zeros((2, 4, 5))}, r"\[B, K, N\]"),
        ({"logits": np.full((2, 3), np.nan)}, "finite"),
    ],
)
def test_evidence_refuses(change, message):
    arrays = {"logits": np.zeros((2, 3)), "clip_logits": np.zeros((2, 4, 3)), "label": [0, 1]}
    arrays |= change
    with pytest.raises(ValueError, match=message):
        noise_scores.Evidence.of(arrays["logits"], arrays["clip_logits"], arrays["label"])


def test_planted_kinds_are_found_by_every_score(tmp_path, rng):
    save_run(tmp_path, rng)
    report = analysis.run(tmp_path)
    assert report["epochs"] == [1, 2, 10]
    assert report["videos"] == {"all": 60, "clean, easy": 20, "clean, hard": 20, "flipped": 20}
    assert set(report["auroc"]) == {
        "flipped, among all",
        "flipped, among flipped or hard",
        "hard, among right labels",
    }
    for task, rows in report["auroc"].items():
        for score, values in rows.items():
            # Nothing can be known in the first epoch, and everything in the others.
            assert 0.2 < values[0] < 0.8, (task, score)
            assert noise_scores.MEMORY in score or values[1:] == [1, 1], (task, score)
    assert report["agreement"]["clean, easy"]["50%"][-1] > 0.95
    assert report["agreement"]["flipped"]["50%"][-1] > 0.95
    assert report["agreement"]["clean, hard"]["95%"][-1] < 0.7
    assert report["left_out"] == {}


def test_the_score_that_fails_is_told_from_the_one_that_does_not(rng):
    """Hard videos whose loss is larger than that of mislabeled ones, but which a clip supports."""
    train = planted(rng)
    hard = train["is_hard"]
    train["logits"][hard] = -5 * np.eye(3)[train["label"][hard]]
    values = noise_scores.over_epochs(
        [noise_scores.Evidence.of(train["logits"], train["clip_logits"], train["label"])]
    )
    found = analysis.detection(values, train["is_flipped"], hard)["flipped, among flipped or hard"]
    assert found["loss of the video"] == [0]
    assert found["no clip supports the label"] == [1]


def test_everything_is_written_and_can_be_read(tmp_path, rng):
    save_run(tmp_path, rng)
    report = analysis.run(tmp_path)
    folder = tmp_path / "analysis"
    assert {path.name for path in folder.iterdir()} == {
        "analysis.json",
        "agreement.png",
        "against.png",
        "auroc.png",
        "calibration.png",
        "classes.png",
    }
    assert json.loads((folder / "analysis.json").read_text()) == report
    for path in folder.glob("*.png"):
        assert cv2.imread(str(path)).std() > 1
    text = analysis_tables.text(report)
    for words in ("epoch 10", "no clip supports the label", "AURC", "test recall", "accuracy"):
        assert words in text
    assert "Left out" not in text


def test_without_epochs_it_takes_the_final_predictions(tmp_path, rng):
    save(tmp_path / "predictions_train.npz", planted(rng))
    (tmp_path / "epochs").mkdir()
    (tmp_path / "epochs" / "train_0001.npz.tmp").touch()
    report = analysis.run(tmp_path, tmp_path / "out")
    assert report["epochs"] == [None]
    assert report["auroc"]["flipped, among all"]["loss of the video"] == [1]
    assert "test, and recall by class" in report["left_out"]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "agreement.png",
        "against.png",
        "auroc.png",
        "classes.png",
    }
    text = analysis_tables.text(report)
    assert "AUROC, final" in text
    assert "Left out: test" in text


def test_epochs_come_before_final_predictions_and_in_their_order(tmp_path):
    for name in ("train_0010", "train_9", "train_10000", "test_0001", "train_last"):
        save(tmp_path / f"epochs/{name}.npz", {})
    save(tmp_path / "predictions_train.npz", {})
    assert list(predictions.epoch_paths(epath.Path(tmp_path))) == [9, 10, 10000]


def test_unknown_truth_leaves_parts_out_and_says_so(tmp_path, rng):
    save_run(tmp_path, rng, hidden=("is_flipped", "is_hard", "true_label"))
    report = analysis.run(tmp_path)
    assert report["videos"] == {"all": 60}
    assert report["auroc"] == {}
    assert "agreement" not in report
    assert "against" not in report
    assert set(report["classes"]["sad"]) == {"test_videos", "recall"}
    pictures = {path.name for path in (tmp_path / "analysis").glob("*.png")}
    assert pictures == {"calibration.png", "classes.png"}
    assert analysis_tables.text(report).count("Left out") == 2


def test_known_flips_without_known_difficulty(tmp_path, rng):
    save_run(tmp_path, rng, hidden=("is_hard",))
    report = analysis.run(tmp_path)
    assert set(report["auroc"]) == {"flipped, among all"}
    assert set(report["classes"]["sad"]) == {"auroc_flipped", "test_videos", "recall"}
    assert "auroc among hard, and of hard" in report["left_out"]


def test_without_flips_or_hard_videos_there_is_no_auroc(tmp_path, rng):
    train = planted(rng)
    train |= {"is_flipped": np.zeros(60, bool), "is_hard": np.zeros(60, bool)}
    save(tmp_path / "predictions_train.npz", train)
    report = analysis.run(tmp_path)
    assert all(v == [None] for rows in report["auroc"].values() for v in rows.values())
    assert report["agreement"]["flipped"]["50%"] == [None]
    assert report["against"]["flipped"] == {"confidence": None, "loss": None}


def test_calibration_of_the_test_split(rng):
    arrays = planted(rng, 90)
    evidence = noise_scores.Evidence.of(arrays["logits"], arrays["clip_logits"], arrays["label"])
    test = predictions.Test(CLASSES, evidence)
    correct = arrays["logits"].argmax(axis=1) == arrays["label"]
    found = analysis.calibration(test)
    assert found["accuracy"] == pytest.approx(correct.mean())
    confidence = special.softmax(arrays["logits"].astype(float), axis=1).max(axis=1)
    softmax = found["confidences"]["max softmax"]
    assert softmax["ece"] == pytest.approx(calibration.ece(confidence, correct))
    assert softmax["aurc"] == pytest.approx(metrics.aurc(confidence, correct))
    for row in found["confidences"].values():
        assert row["risk_at_coverage"]["100%"] == pytest.approx(1 - correct.mean())
        assert sum(row["reliability"]["count"]) == 90
        assert 0 <= row["excess_aurc"] < row["aurc"]
    both = analysis.confidences(evidence)
    np.testing.assert_allclose(
        both["agreement * max softmax"], both["soft agreement"] * both["max softmax"]
    )


def test_classes_are_those_of_the_given_label(tmp_path, rng):
    train = planted(rng)
    save(tmp_path / "predictions_train.npz", train)
    test = planted(rng, 90)
    save(tmp_path / "predictions.npz", test, "test")
    report = analysis.run(tmp_path)
    right = test["logits"].argmax(axis=1) == test["label"]
    for index, name in enumerate(CLASSES):
        row, own = report["classes"][name], train["label"] == index
        assert row["videos"]["flipped"] == (own & train["is_flipped"]).sum()
        assert set(row["auroc_flipped"].values()) == {1}
        assert row["agreement"]["clean, hard"] < row["agreement"]["clean, easy"]
        assert row["test_videos"] == (test["label"] == index).sum()
        assert row["recall"] == pytest.approx(right[test["label"] == index].mean())


def test_rank_correlation_agrees_with_scipy(rng):
    a, b = rng.integers(5, size=(2, 40)).astype(float)
    assert analysis.rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert analysis.rank_correlation(a, np.ones(40)) is None
    assert analysis.rank_correlation(a[:0], b[:0]) is None


def test_refuses_what_it_cannot_use(tmp_path, rng):
    with pytest.raises(predictions.SavedError, match="workdir of a run"):
        analysis.run(tmp_path)
    path = tmp_path / "predictions.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(predictions.SavedError, match="cannot be read"):
        analysis.run(tmp_path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(predictions.SavedError, match="cannot be read"):
        analysis.run(tmp_path)
    save(path, without(planted(rng), "clip_logits"))
    with pytest.raises(predictions.SavedError, match="the array 'clip_logits' is missing"):
        analysis.run(tmp_path)
    save(path, {name: values[:0] for name, values in planted(rng).items()})
    with pytest.raises(predictions.SavedError, match="it holds no clips"):
        analysis.run(tmp_path)


@pytest.mark.parametrize("name", ["clip_id", "label"])
def test_refuses_epochs_of_different_videos(tmp_path, rng, name):
    train = planted(rng)
    save(tmp_path / "epochs/train_0001.npz", train)
    save(tmp_path / "epochs/train_0002.npz", train | {name: np.roll(train[name], 1)})
    with pytest.raises(predictions.SavedError, match=f"train_0002.*'{name}' differs"):
        analysis.run(tmp_path)
