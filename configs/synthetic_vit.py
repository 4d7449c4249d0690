"""Synthetic faces with a small vision transformer, for two CPU cores.

    rdfer train --config=synthetic_vit --workdir=runs/synthetic_vit

The data, streams and duration of configs/synthetic.py, with a transformer of two blocks that costs about as
much as its ResNet, from random weights.

Expected result: not yet measured. A transformer without pretraining should stay behind the ResNet here.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config() -> ConfigDict:
    config = config_files.load("synthetic")
    config.model.trunk = "vit_narrow"
    config.model.drop_path = 0.05
    return config
