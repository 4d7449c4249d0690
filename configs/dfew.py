"""DFEW, one of its five folds: 11,697 clips of seven expressions.

    rdfer build --config=dfew --config.build.source_dir=/data/DFEW
    rdfer train --config=dfew --workdir=runs/dfew1
    rdfer train --config=dfew:2 --workdir=runs/dfew2

The number after the colon is the test fold; the run trains on the other four.

Expected result: unknown, not yet run on the real data. The paper reports WAR 69.73 and UAR 56.93, the mean
over five folds.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib
from rdfer_jax import setting_types


def get_config(fold: str = "1") -> ConfigDict:
    config = config_lib.default()
    config.data.name = "dfew"
    config.data.train_split, config.data.test_split = config_lib.fold_splits(fold)
    config.build = {
        "source_dir": "",
        "frames_dir": "",
        "label_base": 1,
        **setting_types.clip_options(),
    }
    # The smallest crop, 40 % of the area, is as large as the network's input of 112 pixels.
    config.build.short_side = 180
    config.data.image_size = 180
    return config
