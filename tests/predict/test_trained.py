"""Networks of still pictures, and those of the package, on videos."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import tiny
from scipy import special

from rdfer_jax import class_shares, main, weights
from rdfer_jax import config as config_lib
from rdfer_jax.class_shares import ClassShares
from rdfer_jax.media.sources import Array
from rdfer_jax.media.video import VideoWriter
from rdfer_jax.predict import exported, predictor, trained
from rdfer_jax.predict.result import UNSURE
from rdfer_jax.training import train
from rdfer_jax.training.checkpoint import last_variables

pytestmark = pytest.mark.slow

SETTINGS = config_lib.Predict(detector="none", window=100.0, batch_size=1)


@pytest.fixture(scope="module")
def packaged():
    return weights.load("faces")


@pytest.fixture(scope="module")
def video():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (16, 48, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", weights.NAMES)
def test_the_package_has_the_network_and_its_card(name):
    network = weights.load(name)
    assert (weights.FOLDER / f"{name}.safetensors").stat().st_size < 5e6
    card = (weights.FOLDER / f"{name}.md").read_text()
    assert f"{weights.size(network):,} parameters" in card
    for text in ("License", "must not be used", "rdfer train --config", "WAR", *network.classes):
        assert text in card
    assert network.step > 10_000 and config_lib.resolve(config_lib.to_dict(network.config))


def test_saved_weights_are_read_back(tmp_path, packaged):
    weights.save(packaged, tmp_path)
    again = weights.load("faces", tmp_path)
    assert dataclasses.replace(again, variables={}) == dataclasses.replace(packaged, variables={})
    kernel = again.variables["params"]["trunk"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, packaged.variables["params"]["trunk"]["conv1"]["kernel"])
    params = packaged.variables["params"] | {"head": {"bias": np.array([1e6])}}
    broken = dataclasses.replace(packaged, variables={"params": params})
    with pytest.raises(ValueError, match="params/head/bias: has values that float16 cannot hold"):
        weights.save(broken, tmp_path)


def test_a_window_is_the_mean_of_its_frames(video):
    """Each frame by itself, as a video of one picture, gives the same logits."""
    network = trained.from_package("faces")
    whole = network.predict(video[None], np.ones(1, bool))
    assert whole.clip_logits.shape == (1, 16, 7)
    for place in (0, 7, 15):
        repeated = np.repeat(video[place][None, None], 16, axis=1)
        single = network.predict(repeated, np.ones(1, bool))
        np.testing.assert_allclose(single.logits[0], whole.clip_logits[0, place], atol=1e-4)
        assert single.agreement[0] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(whole.logits[0], whole.clip_logits[0].mean(axis=0), atol=1e-5)
    assert whole.agreement[0] < 0.999


def test_the_temperature_and_the_least_confidence_are_used(video):
    def predicted(**changes):
        return predictor.Predictor(settings=dataclasses.replace(SETTINGS, **changes)).frames(video)

    one, hot = predicted(temperature=1.0), predicted(temperature=2.0)
    logits = np.log(one.faces[0].probs)
    np.testing.assert_allclose(hot.faces[0].probs, special.softmax(logits / 2), atol=1e-6)
    confidence = float(one.faces[0].probs.max())
    sure = predicted(temperature=1.0, min_confidence=confidence - 0.01)
    unsure = predicted(temperature=1.0, min_confidence=confidence + 0.01)
    best = sure.classes[sure.faces[0].expression]
    assert sure.to_json()["faces"][0]["expression"] == best
    assert sure.verdict(sure.faces[0]).startswith(best)
    assert unsure.to_json()["faces"][0]["expression"] == UNSURE
    assert unsure.to_json()["faces"][0]["windows"][0]["expression"] == UNSURE
    assert unsure.verdict(unsure.faces[0]).startswith(f"unsure (at best {best}")


def test_the_class_shares_of_a_review_are_followed(video, tmp_path):
    """By JAX, by ONNX Runtime and in an export, whatever the temperature."""
    pytest.importorskip("onnxruntime")
    classes = weights.load("faces").classes
    rng = np.random.default_rng(1)
    given, estimate = rng.dirichlet(np.full(7, 5.0), 2)
    shares = tmp_path / "shares.csv"
    class_shares.write(shares, classes, ClassShares(given, *[estimate] * 4))
    followed = dataclasses.replace(SETTINGS, temperature=2.0, class_shares=str(shares), smooth=0.0)
    plain = predictor.Predictor(settings=dataclasses.replace(followed, class_shares=""))
    before = plain.frames(video).faces[0]
    exported.export(None, tmp_path / "export", formats=("onnx",), settings=followed)
    for one in (
        predictor.Predictor(settings=followed),
        predictor.Predictor(settings=followed, runtime="onnx"),
        predictor.Predictor(
            tmp_path / "export", settings=dataclasses.replace(followed, class_shares="")
        ),
    ):
        after = one.frames(video).faces[0]
        for found, base in ((after.probs, before.probs), (after.timeline, before.timeline)):
            expected = base * estimate / given
            expected /= expected.sum(axis=-1, keepdims=True)
            np.testing.assert_allclose(found, expected, atol=1e-4)
        assert one.made_by() != plain.made_by()
    with pytest.raises(ValueError, match=r"is an exported network. Give the file to rdfer export"):
        predictor.Predictor(tmp_path / "export", settings=followed)


def test_color_does_not_matter_to_the_network_of_gray_pictures(video):
    network = trained.from_package("faces")
    weights_3 = np.array([0.299, 0.587, 0.114])
    gray = np.repeat((video @ weights_3)[..., None], 3, axis=-1).round().astype(np.uint8)
    color, plain = (network.predict(v[None], np.ones(1, bool)).logits for v in (video, gray))
    np.testing.assert_allclose(color, plain, atol=0.1)


def test_training_starts_from_the_packaged_weights(tmp_path, caplog, packaged):
    tiny.build(tmp_path)
    config = tiny.config(
        data={"dir": str(tmp_path)},
        model={"trunk": "resnet10_narrow"},
        optim={"learning_rate": 0.0, "final_learning_rate": 0.0, "weight_decay": 0.0},
        train={"duration": "1 steps", "tensorboard": False},
    )
    config = dataclasses.replace(config, init_from="faces")
    with caplog.at_level(logging.INFO):
        train.train(config, tmp_path / "run")
    assert "of the packaged weights 'faces' into " in caplog.text
    _, variables = last_variables(tmp_path / "run")
    np.testing.assert_array_equal(
        variables["params"]["trunk"]["layer1_0"]["conv1"]["kernel"],
        packaged.variables["params"]["trunk"]["layer1_0"]["conv1"]["kernel"],
    )
    wrong = dataclasses.replace(
        config, model=dataclasses.replace(config.model, trunk="resnet8_narrow")
    )
    with pytest.raises(ValueError, match=r"fits config\.model\.trunk = 'resnet10_narrow'"):
        train.train(wrong, tmp_path / "other")


def test_predict_without_a_run_uses_the_package_and_says_so_once(
    tmp_path, video, monkeypatch, capfd
):
    with VideoWriter(tmp_path / "holiday.mp4", 10.0, (48, 48)) as writer:
        for place, image in enumerate(video):
            writer.write(image, place / 10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "holiday.mp4"))  # cannot be written
    main.main(
        ["predict", "--input=holiday.mp4", "--config=faces", "--config.predict.detector=none"]
    )
    assert capfd.readouterr().err.count("the network 'faces' of this package") == 1
    read = json.loads((tmp_path / "predict" / "holiday.mp4" / "prediction.json").read_text())
    assert read["model"] == {
        "run": "faces",
        "checkpoint": "packaged",
        "step": read["model"]["step"],
    }


def test_agreement_tells_steady_frames_from_changing_ones(video):
    """A video that alternates between pictures agrees less than one of a single picture."""
    steady = Array(np.repeat(video[:1], 16, axis=0), 10.0)
    read = predictor.Predictor(settings=SETTINGS)
    assert read.video(steady).faces[0].agreement > read.frames(video, 10.0).faces[0].agreement


def test_the_mirror_image_is_averaged_with_the_frames(video):
    network, mask = trained.from_package("faces"), np.ones(1, bool)
    one, two = (network.predict(v[None], mask) for v in (video, video[:, :, ::-1]))
    both = network.predict(video[None], mask, mirror=True)
    for name in ("logits", "clip_logits", "agreement", "instant_logits"):
        mean = (getattr(one, name) + getattr(two, name)) / 2
        np.testing.assert_allclose(getattr(both, name), mean, atol=1e-5)
    mirrored = network.predict(video[None, :, :, ::-1], mask, mirror=True)
    np.testing.assert_allclose(mirrored.logits, both.logits, atol=1e-5)

    def predicted(mirror):
        settings = dataclasses.replace(SETTINGS, mirror=mirror, temperature=1.0)
        return predictor.Predictor(settings=settings).frames(video, 10.0).faces[0].probs

    np.testing.assert_allclose(predicted(True), special.softmax(both.logits[0]), atol=1e-5)
    np.testing.assert_allclose(predicted(False), special.softmax(one.logits[0]), atol=1e-5)


def test_training_on_votes_reads_them_from_the_records(tmp_path):
    """From records to gradients: the votes of the tiny data set are ten for each label."""
    tiny.build(tmp_path)
    runs = {}
    for method in ("votes", "cross_entropy"):
        config = tiny.config(
            data={"dir": str(tmp_path)},
            loss={"method": method, "label_smoothing": 0.0},
            train={"duration": "2 steps", "tensorboard": False},
        )
        train.train(config, tmp_path / method)
        runs[method] = last_variables(tmp_path / method)[1]["params"]["head"]["kernel"]
    np.testing.assert_allclose(runs["votes"], runs["cross_entropy"], atol=1e-6)
