"""The scaling benchmark: its comparison on made-up runs, and what two devices exchange."""

import jax
import numpy as np
import pytest

from benchmarks import scaling
from rdfer_jax import models, sharding

pytestmark = pytest.mark.slow


SMALL = [
    "data.frames=4",
    "data.image_size=16",
    "augment.size=16",
    "clips.number=2",
    "clips.frames=4",
    "key.number=1",
    "key.frames=2",
    "model.trunk=resnet8_narrow",
    "model.width=16",
    "model.long_layers=1",
]


def test_rows_are_compared_with_one_device():
    def one(shift, **kinds):
        return {
            "parameters": np.arange(5.0) + shift * (np.arange(5) == 2),
            "collectives": {name: {"count": 1, "bytes": size} for name, size in kinds.items()},
            "gradient_bytes": 20,
            "statistics_bytes": 8,
        }

    rows = scaling.compare({"1 device": one(0), "2 devices": one(-0.5, a=25, b=3)})
    assert [row["difference"] for row in rows] == [0, 0.5]
    assert [row["bytes"] for row in rows] == [0, 28]
    assert [row["beyond_gradients"] for row in rows] == [0, 8]


def test_two_devices_exchange_the_gradients_once_and_little_else():
    def exchanged(batch):
        config = scaling.settings("configs/synthetic.py", SMALL, batch)
        step = scaling.compiled(scaling.set_up(config, sharding.make_mesh(jax.devices()[:2])))
        return scaling.collectives(step.as_text())

    config = scaling.settings("configs/synthetic.py", SMALL, 8)
    network = models.create(config, scaling.NUM_CLASSES, "cpu")
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    (kind, eight), (_, sixteen) = (*exchanged(8).items(), *exchanged(16).items())
    assert kind == "all-reduce"
    assert gradients <= eight["bytes"] <= 1.05 * gradients
    # With it grows only the memory, here of as many videos: 7 classes, agreement, peak, label and a count.
    # XLA may compute it twice.
    memory = 8 * (7 + 4) * 4
    assert sixteen["bytes"] - eight["bytes"] in (memory, 2 * memory)
