"""Masked pretraining on synthetic faces, without labels, for two CPU cores.

    rdfer pretrain --config=synthetic_pretrain --workdir=runs/pretrain
    rdfer train --config=synthetic_vit:videovit_narrow --workdir=runs/mine \
        --config.init_from=runs/pretrain/encoder.safetensors

The data of configs/synthetic.py, and the video transformer of configs/synthetic_vit.py:videovit_narrow.

Expected result: not yet measured.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config() -> ConfigDict:
    config = config_files.load("synthetic_vit:videovit_narrow")
    config.model.drop_path = 0.0
    config.clips.number = 2
    config.pretrain.decoder_width = 32
    config.pretrain.decoder_depth = 1
    config.pretrain.decoder_heads = 2
    config.optim.beta2 = 0.95
    config.optim.clip_norm = 0.0
    config.train.duration = "40 epochs"
    config.train.save_every = "5 epochs"
    return config
