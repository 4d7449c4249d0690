"""DFEW with a ViT-B of VideoMAE, fine-tuned by its recipe, under the robust loss.

    rdfer build --config=dfew_videomae_b --config.build.source_dir=/data/DFEW
    rdfer train --config=dfew_videomae_b --workdir=runs/videomae1 --config.init_from=videomae_b.safetensors
    rdfer train --config=dfew_videomae_b:2 --workdir=runs/videomae2 --config.init_from=...

The build keeps frames of 224 pixels, in the variant px224. The number after the colon is the test fold.

Expected result: unknown, not yet run on the real data. MAE-DFER, which has another network of this size,
faces in its pretraining and nearly this recipe, reports WAR 74.43 and UAR 63.41. Differences from
VideoMAE: two clips of each video in a step, no mixing of videos.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config(fold: str = "1") -> ConfigDict:
    config = config_files.load(f"dfew:{fold}")
    config.data.variant = "px224"
    config.build.short_side = 224
    config.model.trunk = "videomae_b16"
    config.model.drop_path = 0.1
    config.model.remat = True
    config.data.frames = 32
    config.data.image_size = 224
    config.data.batch_size = 64
    config.data.eval_batch_size = 64
    config.augment.size = 224
    config.augment.rand_layers = 4
    for color in ("brightness", "contrast", "saturation", "hue"):
        config.augment[color] = 0.0
    config.augment.erase = 0.25
    config.clips.number = 2
    config.loss.label_smoothing = 0.1
    config.key.number = 2
    # 1e-3 for a batch of 256 videos, as MAE-DFER.
    config.optim.learning_rate = 2.5e-4
    config.optim.final_learning_rate = 1e-6
    config.optim.layer_decay = 0.75
    config.optim.warmup = "5 epochs"
    config.optim.weight_decay = 0.05
    return config
