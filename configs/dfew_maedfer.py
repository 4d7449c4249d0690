"""DFEW with the LGI-Former of MAE-DFER, fine-tuned by its recipe, under the robust loss.

    rdfer build --config=dfew_maedfer --config.build.source_dir=/data/DFEW
    rdfer train --config=dfew_maedfer --workdir=runs/maedfer1 --config.init_from=maedfer_pretrained.pth
    rdfer train --config=dfew_maedfer:2 --workdir=runs/maedfer2 --config.init_from=maedfer_pretrained.pth

The build is that of dfew_videomae_b, with frames of 224 pixels, so that crops are not enlarged to the 160
of the network. The number after the colon is the test fold. Clips are 16 frames, four frames apart.

Expected result: unknown, not yet run on the real data. MAE-DFER reports WAR 74.43 and UAR 63.41.
Differences: two clips of each video in a step, and the streams of RDFER read the messengers; no mixing of
videos; one test view in space, as DFEW's frames are square.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config(fold: str = "1") -> ConfigDict:
    config = config_files.load(f"dfew_videomae_b:{fold}")
    config.model.trunk = "maedfer_b16"
    config.data.frames = 32
    config.data.snippet = 16
    config.data.stride = 4
    config.augment.size = 160
    config.clips.kind = "snippets"
    # No clip covers the video.
    config.key.enabled = False
    return config
