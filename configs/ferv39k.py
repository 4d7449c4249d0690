"""FERV39k: 38,935 clips of seven expressions, one fixed split.

    python -m rdfer_jax.main --config=configs/ferv39k.py --mode=build \\
        --config.build.source_dir=/data/FERV39k
    python -m rdfer_jax.main --config=configs/ferv39k.py --workdir=runs/ferv39k

Clips have 28 frames in the median, so the buffer holds 32. Nobody has run this on the data yet, so there
is no result to expect.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib


def get_config() -> ConfigDict:
    config = config_lib.default()
    config.data.name = "ferv39k"
    config.data.frames = 32
    config.build = {
        "source_dir": "",
        "frames_dir": "",
        "setup": "All_scenes",
        "allow_mismatch": False,
        "short_side": 128,
        "jpeg_quality": 95,
        "allow_missing": False,
        "labels": "",
    }
    return config
