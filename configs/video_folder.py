"""Your own clips: root/<class>/<clip>, or a CSV file with the columns path,label[,split].

    rdfer build --config=video_folder --config.build.source_dir=/data/mine
    rdfer train --config=video_folder --workdir=runs/mine

Holds out 10 % of the training clips to select the best checkpoint.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib
from rdfer_jax import setting_types


def get_config() -> ConfigDict:
    config = config_lib.default()
    config.data.name = "video_folder"
    config.data.validation_percent = 10.0
    config.build = {
        "source_dir": "",
        "csv": "",
        "classes": "",
        "test_percent": 20.0,
        "max_fps": 0.0,
        "short_side": 128,
        "jpeg_quality": 95,
        "allow_missing": setting_types.budget(0),
        "crop_faces": False,
        "face_detector": "blazeface",
        "face_margin": 0.1,
        "face_align": True,
        "min_face": 0.1,
        "labels": "",
    }
    return config
