"""DFEW with the ViT-B/16 of CLIP, frozen but for low-rank updates (LoRA), under the robust loss.

    rdfer build --config=dfew_clip_b16_lora --config.build.source_dir=/data/DFEW
    rdfer train --config=dfew_clip_b16_lora --workdir=runs/clip1 --config.init_from=clip_b16.safetensors
    rdfer train --config=dfew_clip_b16_lora:2 --workdir=runs/clip2 --config.init_from=clip_b16.safetensors

The build keeps frames of 224 pixels, in the variant px224. The number after the colon is the test fold.

Expected result: unknown, not yet run on the real data. CLAIP-Emo, which adapts ViT-L/14 like this and also
uses sound, reports WAR 80.14; its result without sound was not found.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config(fold: str = "1") -> ConfigDict:
    config = config_files.load(f"dfew:{fold}")
    config.data.variant = "px224"
    config.build.short_side = 224
    config.model.trunk = "clip_b16"
    config.model.freeze = "trunk"
    config.model.lora_rank = 8
    config.model.lora_alpha = 32.0
    config.model.lora_dropout = 0.1
    config.model.drop_path = 0.1
    config.model.remat = True
    config.data.frames = 32
    config.data.image_size = 224
    config.data.batch_size = 64
    config.data.eval_batch_size = 64
    config.augment.size = 224
    config.augment.mean = (0.48145466, 0.4578275, 0.40821073)
    config.augment.std = (0.26862954, 0.26130258, 0.27577711)
    # 1e-5 for each 8 videos of a batch.
    config.optim.learning_rate = 8e-5
    config.optim.final_learning_rate = 1e-6
    config.optim.warmup = "5 epochs"
    return config
