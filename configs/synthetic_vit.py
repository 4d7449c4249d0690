"""Synthetic faces with a small vision transformer, for two CPU cores.

    rdfer train --config=synthetic_vit --workdir=runs/synthetic_vit
    rdfer train --config=synthetic_vit:videovit_narrow --workdir=runs/synthetic_videovit

The data, streams and duration of configs/synthetic.py, with a transformer of two blocks that costs about as
much as its ResNet, from random weights. The word after the colon is the trunk: vit_narrow reads single
frames, videovit_narrow whole clips.

Expected result: WAR 0.46 with vit_narrow after five epochs, 0.81 after 20 (--config.train.duration="20
epochs"); the ResNet reaches 0.84 after five. One run each; docs/evidence/experiments.md has them.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config(trunk: str = "vit_narrow") -> ConfigDict:
    config = config_files.load("synthetic")
    config.model.trunk = trunk
    config.model.drop_path = 0.05
    return config
