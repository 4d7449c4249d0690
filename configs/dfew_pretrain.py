"""Masked pretraining of a ViT-B on the videos of DFEW by VideoMAE's recipe, for a TPU slice.

    rdfer build --config=dfew_pretrain --config.build.source_dir=/data/DFEW
    rdfer pretrain --config=dfew_pretrain --workdir=gs://bucket/pretrain1 --multihost
    rdfer train --config=dfew_videomae_b --workdir=gs://bucket/videomae1 --multihost \
        --config.init_from=gs://bucket/pretrain1

The build is that of configs/dfew_videomae_b.py. The number after the colon is the fold that is left out, so
that no test video is seen. --config.init_from=videomae_b.safetensors goes on from published weights, and
--config.pretrain.target=difference predicts what MAE-DFER does.

Expected result: unknown, not yet run on the real data. VideoMAE pretrains on UCF101, which has as many
videos, for 3,200 epochs; here two clips of each video in 1,600.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config(fold: str = "1") -> ConfigDict:
    config = config_files.load(f"dfew_videomae_b:{fold}")
    config.model.drop_path = 0.0
    # Clips of 16 frames, 4 apart.
    config.data.snippet = 16
    config.data.stride = 4
    config.clips.kind = "snippets"
    config.key.enabled = False
    config.data.batch_size = 256
    # VideoMAE crops to 0.66 of the side or more, and changes nothing else.
    config.augment.crop_area = (0.44, 1.0)
    config.augment.rand_layers = 0
    config.augment.flip = 0.0
    config.augment.erase = 0.0
    # 1.5e-4 for each 256 clips of a batch.
    config.optim.learning_rate = 3e-4
    config.optim.final_learning_rate = 1e-5
    config.optim.layer_decay = 1.0
    config.optim.warmup = "40 epochs"
    config.optim.weight_decay = 0.05
    config.optim.beta2 = 0.95
    config.optim.clip_norm = 0.0
    config.train.duration = "1600 epochs"
    config.train.save_every = "20 epochs"
    return config
