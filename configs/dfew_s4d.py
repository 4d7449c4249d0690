"""DFEW with the ViT-B of S4D (UniLearn), pretrained on faces, under the robust loss.

    rdfer build --config=dfew_s4d --config.build.source_dir=/data/DFEW
    rdfer train --config=dfew_s4d --workdir=runs/s4d1 --config.init_from=s4d_pretrained.safetensors
    rdfer train --config=dfew_s4d:2 --workdir=runs/s4d2 --config.init_from=s4d_pretrained.safetensors

The build is that of dfew_videomae_b, with frames of 224 pixels, so that crops are not enlarged to the 160
of the network. The number after the colon is the test fold.

Expected result: unknown, not yet run on the real data. S4D reports WAR 76.68 and UAR 66.80. Differences:
no mixture of experts and no joint training with AffectNet; two clips of each video in a step; no mixing of
videos.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config(fold: str = "1") -> ConfigDict:
    config = config_files.load(f"dfew_videomae_b:{fold}")
    config.augment.size = 160
    # 1e-5 for each 8 videos of a batch.
    config.optim.learning_rate = 8e-5
    return config
