"""FER2013 with the votes of FER+: photographs of faces, with the label errors that people made.

    rdfer build --config=ferplus --config.build.source_dir=/data/fer
    rdfer train --config=ferplus --workdir=runs/ferplus

Trains on the original labels, tests on the majority of ten voters. A picture is a video of one frame; its
clips are views of it with a random transform each.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib


def get_config() -> ConfigDict:
    config = config_lib.default()
    config.data.name = "ferplus"
    config.data.frames = 1
    config.data.image_size = 48
    config.data.batch_size = 64
    config.data.eval_batch_size = 128
    config.build = {"source_dir": "", "label": "original", "jpeg_quality": 98, "labels": ""}
    config.augment.size = 48
    config.augment.per = "clip"
    config.augment.eval_views = "augmented"
    config.augment.gray = True
    config.augment.crop_area = (0.65, 1.0)
    config.augment.crop_aspect = (0.9, 1.1)
    config.augment.saturation = 0.0
    config.augment.hue = 0.0
    config.clips.number = 3
    config.clips.frames = 1
    config.key.enabled = False
    config.key.number = 1
    config.key.frames = 1
    config.model.trunk = "resnet8_narrow"
    config.model.streams = "long"
    config.model.shift = False
    config.model.width = 128
    config.model.instants = 1
    config.model.long_layers = 1
    config.optim.learning_rate = 1e-3
    config.optim.final_learning_rate = 1e-5
    config.train.duration = "20 epochs"
    return config
