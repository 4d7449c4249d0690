"""DFEW with the baseline M3DFEL (Wang et al., CVPR 2023), trained as by its authors.

    rdfer build --config=dfew --config.build.source_dir=/data/DFEW
    rdfer train --config=dfew_m3dfel --workdir=runs/m3dfel1
    rdfer train --config=dfew_m3dfel:2 --workdir=runs/m3dfel2

Uses the data set of configs/dfew.py. The number after the colon is the test fold.

Expected result: unknown, not yet run on the real data. The paper of M3DFEL reports WAR 69.25 and UAR 56.10.
Differences from it: the trunk starts from random weights instead of Kinetics-400; the last checkpoint is
tested instead of the best one on the test fold; weight decay applies to kernels only; the cosine schedule
starts after the warm-up; test frames are not sampled at random; crops of down to 8 % of the area come from
frames of 180 pixels instead of 256, so small ones are enlarged more.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config(fold: str = "1") -> ConfigDict:
    config = config_files.load(f"dfew:{fold}")
    config.model.name = "m3dfel"
    config.model.trunk = "r3d_18"
    config.data.frames = 16
    config.data.batch_size = 256
    config.clips.number = 1
    config.clips.frames = 16
    # The color jitter and flips are the defaults already; values stay in [0, 1].
    config.augment.crop_area = (0.08, 1.0)
    config.augment.hue = 0.4
    config.augment.mean = (0.0, 0.0, 0.0)
    config.augment.std = (1.0, 1.0, 1.0)
    # Plain cross-entropy of the video; its only clip is the video itself.
    config.loss.method = "cross_entropy"
    config.loss.clips = 0.0
    config.loss.label_smoothing = 0.1
    config.optim.learning_rate = 5e-4
    config.optim.final_learning_rate = 5e-6
    config.optim.warmup = "20 epochs"
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 0.0
    config.train.duration = "300 epochs"
    return config
