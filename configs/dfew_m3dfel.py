"""DFEW with the baseline M3DFEL (Wang et al., CVPR 2023), one fold of five, trained as its authors did.

    python -m rdfer_jax.main --config=configs/dfew.py --mode=build \\
        --config.build.source_dir=/data/DFEW
    python -m rdfer_jax.main --config=configs/dfew_m3dfel.py --workdir=runs/m3dfel1
    python -m rdfer_jax.main --config=configs/dfew_m3dfel.py:2 --workdir=runs/m3dfel2

The same build as configs/dfew.py, and the same fold after the colon. Nobody has run this on the data yet,
so there is no result to expect. Its paper reports WAR 69.25 and UAR 56.10, from a trunk pretrained on
Kinetics-400 (here it starts at random) and the best epoch on the test fold (here a checkpoint is never
chosen by the test). Other differences: only kernels decay, the cosine begins where the warm-up ends, and
test frames are not drawn.
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
    # Colours and flip are the default ones already; values stay in [0, 1].
    config.augment.crop_area = (0.08, 1.0)
    config.augment.hue = 0.4
    config.augment.mean = (0.0, 0.0, 0.0)
    config.augment.std = (1.0, 1.0, 1.0)
    # Plain cross-entropy: the mask never acts, and the only clip is the video.
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
