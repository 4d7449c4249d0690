"""DFEW, one fold of five: 11,697 clips of seven expressions.

    python -m rdfer_jax.main --config=configs/dfew.py --mode=build \\
        --config.build.source_dir=/data/DFEW
    python -m rdfer_jax.main --config=configs/dfew.py --workdir=runs/dfew1
    python -m rdfer_jax.main --config=configs/dfew.py:2 --workdir=runs/dfew2

The number after the colon is the fold that is tested on; the others are trained on. Nobody has run this
on the data yet, so there is no result to expect. The paper reports WAR 69.73 and UAR 56.93, means over
the five folds.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib


def get_config(fold: str = "1") -> ConfigDict:
    config = config_lib.default()
    config.data.name = "dfew"
    config.data.train_split, config.data.test_split = config_lib.fold_splits(fold)
    config.build = {
        "source_dir": "",
        "frames_dir": "",
        "label_base": 1,
        "short_side": 128,
        "jpeg_quality": 95,
        "allow_missing": False,
        "labels": "",
    }
    return config
