"""MAFW, one of its five folds: 9,172 clips of 11 expressions, or 8,996 clips of 43 compound ones.

    rdfer build --config=mafw --config.build.source_dir=/data/MAFW
    rdfer train --config=mafw --workdir=runs/mafw1
    rdfer train --config=mafw:2,compound --workdir=runs/mafw2_compound

After the colon: the test fold and the task, single or compound. Each task is a variant of the data set and
is built separately.

Expected result: unknown, not yet run on the real data.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib
from rdfer_jax import setting_types


def get_config(fold_and_task: str = "1,single") -> ConfigDict:
    fold, _, task = fold_and_task.partition(",")
    config = config_lib.default()
    config.data.name = "mafw"
    config.data.variant = task or "single"
    config.data.train_split, config.data.test_split = config_lib.fold_splits(fold)
    config.build = {
        "source_dir": "",
        "frames_dir": "",
        "task": task or "single",
        **setting_types.clip_options(),
    }
    # The smallest crop, 40 % of the area, is as large as the network's input of 112 pixels.
    config.build.short_side = 180
    config.data.image_size = 180
    return config
