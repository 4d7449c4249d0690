"""FERV39k: 38,935 clips of seven expressions, with one fixed split.

    rdfer build --config=ferv39k --config.build.source_dir=/data/FERV39k
    rdfer train --config=ferv39k --workdir=runs/ferv39k

The median clip has 28 frames, so the buffer holds 32.

Expected result: unknown, not yet run on the real data.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib
from rdfer_jax import setting_types


def get_config() -> ConfigDict:
    config = config_lib.default()
    config.data.name = "ferv39k"
    config.data.frames = 32
    config.build = {
        "source_dir": "",
        "frames_dir": "",
        "setup": "All_scenes",
        "allow_mismatch": False,
        **setting_types.clip_options(),
    }
    # The smallest crop, 40 % of the area, is as large as the network's input of 112 pixels.
    config.build.short_side = 180
    config.data.image_size = 180
    return config
