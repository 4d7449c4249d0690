"""The default: synthetic faces with known truth, small enough for two CPU cores.

    rdfer train --config=synthetic --workdir=runs/synthetic

Builds the data set if it is missing: 4,000 training clips, of which 20 % are mislabeled and 30 % are hard.

Expected result: WAR about 0.83 on the test split after five epochs, and an AUROC of about 0.97 in finding
the mislabeled clips, in a few minutes. The second digit varies with the number of threads.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib


def get_config() -> ConfigDict:
    config = config_lib.default()
    config.cpu_devices = 2
    config.data.name = "synthetic_faces"
    config.data.frames = 12
    config.data.image_size = 48
    config.data.batch_size = 32
    config.data.eval_batch_size = 128
    config.build = {
        "num_train": 4000,
        "num_test": 1000,
        "num_frames": 32,
        "image_size": 48,
        "flip_rate": 0.2,
        "flip_kind": "confusion",
        "hard_share": 0.3,
        "imbalance": False,
        "balanced_test": False,
        "movement_pairs": False,
        "seed": 0,
        "labels": "",
        "jpeg_quality": 95,
    }
    config.augment.size = 48
    # The rendered faces are aligned and their lighting varies already.
    config.augment.crop_area = (0.85, 1.0)
    config.augment.crop_aspect = (0.95, 1.05)
    config.augment.brightness = 0.1
    config.augment.contrast = 0.1
    config.augment.saturation = 0.1
    config.augment.hue = 0.0
    config.clips.frames = 6
    # A hard clip may show its expression in only a quarter of the video: three of twelve frames.
    config.key.number = 2
    config.model.trunk = "resnet8_narrow"
    config.model.width = 128
    config.model.instants = 6
    config.model.long_layers = 1
    config.optim.learning_rate = 1e-3
    config.optim.final_learning_rate = 1e-5
    config.train.duration = "5 epochs"
    config.train.eval_every = "1 epochs"
    config.train.save_every = "1 epochs"
    config.predict.stride = 0.5
    return config
