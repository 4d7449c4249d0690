"""MAFW, one fold of five: 9,172 clips of 11 single expressions, or 8,996 of 43 with compound ones.

    python -m rdfer_jax.main --config=configs/mafw.py --mode=build \\
        --config.build.source_dir=/data/MAFW
    python -m rdfer_jax.main --config=configs/mafw.py --workdir=runs/mafw1
    python -m rdfer_jax.main --config=configs/mafw.py:2,compound --workdir=runs/mafw2_compound

After the colon stand the fold that is tested on and the task, single or compound; the two tasks are built
as two variants of the data set. Nobody has run this on the data yet, so there is no result to expect.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib


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
        "short_side": 128,
        "jpeg_quality": 95,
        "allow_missing": False,
        "labels": "",
    }
    return config
