"""Your own clips: root/<class>/<clip>, or a CSV file with the columns path,label[,split].

    rdfer build --config=video_folder --config.build.source_dir=/data/mine
    rdfer train --config=video_folder --workdir=runs/mine

Network, sizes, batch and duration are "auto": chosen for the number of clips, the devices and their memory
when a run starts, printed, and stored with the run; see docs/how-to/train.md. Whether faces are cut out is
chosen by the build, for what the clips show. Each can be set by hand.
"""

from ml_collections import ConfigDict

from rdfer_jax import config as config_lib
from rdfer_jax import setting_types

AUTO = (
    *("init_from", "augment.gray", "augment.size"),
    *("data.frames", "data.image_size", "data.batch_size", "data.eval_batch_size"),
    *("data.test_split", "data.validation_split", "data.validation_percent"),
    *("clips.frames", "key.number"),
    *("model.trunk", "model.width", "model.instants", "model.long_layers"),
    *("train.duration", "train.eval_every", "train.save_every"),
)


def get_config() -> ConfigDict:
    config = config_lib.default()
    config.data.name = "video_folder"
    for path in AUTO:
        config_lib.set_value(config, path, setting_types.AUTO)
    config.build = {
        "source_dir": "",
        "csv": "",
        "classes": "",
        "test_percent": 20.0,
        "max_fps": 0.0,
        **setting_types.clip_options(),
        "crop_faces": setting_types.or_auto(setting_types.AUTO, bool),
    }
    return config
