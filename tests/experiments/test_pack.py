"""Measuring a network of still pictures: as one picture at a time, and the temperature by a grid."""

import dataclasses

import numpy as np
import pytest
from scipy import special

from data import schema
from experiments import pack
from rdfer_jax.pipeline import source
from rdfer_jax.predict import trained


@pytest.mark.slow
def test_pictures_are_predicted_as_each_would_be_alone(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (19, 48, 48, 3), dtype=np.uint8)  # not a multiple of the window
    network = trained.from_package("faces")
    mask = np.ones(8, bool)

    class Loader:
        def __call__(self, split, data, *, local_batch_size, process, processes):
            assert data.frames == 1 and local_batch_size % network.config.data.frames == 0
            padded = np.zeros((local_batch_size, 1, 48, 48, 3), np.uint8)
            padded[: len(images), 0] = images
            yield {
                "frames": padded,
                "mask": np.arange(local_batch_size) < len(images),
                "label": np.arange(local_batch_size) % 7,
                "is_hard": np.arange(local_batch_size) % 2 == 0,
            }

    monkeypatch.setattr(pack.loader, "eval_loader", Loader())
    monkeypatch.setattr(source, "find", lambda data: tmp_path)
    monkeypatch.setattr(source, "open_split", lambda directory, name: None)
    config = dataclasses.replace(
        network.config, data=dataclasses.replace(network.config.data, frames=1)
    )
    found = pack.predict(network, config, "test")
    assert len(found.label) == len(found.is_hard) == len(images)
    for number in (0, 7, 18):
        repeated = np.broadcast_to(images[number], (8, 16, 48, 48, 3))
        alone = network.predict(repeated, mask, mirror=pack.MIRROR).logits[0]
        np.testing.assert_allclose(found.logits[number], alone, atol=1e-4)


def test_a_better_temperature_has_a_smaller_error_and_the_same_accuracy():
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((2000, 7))
    probs = special.softmax(logits, axis=-1)
    label = np.array([rng.choice(7, p=p) for p in probs])
    overconfident = pack.Predicted(3 * logits, label, np.arange(2000) % 2 == 0)
    scores = pack.measure(overconfident, schema.DFEW_CLASSES, 3.0)
    assert scores["ece"] < pack.measure(overconfident, schema.DFEW_CLASSES, 1.0)["ece"]
    right = probs.argmax(-1) == label
    assert scores["war"] == pytest.approx(right.mean())
    assert scores["interval"][0] < scores["war"] < scores["interval"][1]
