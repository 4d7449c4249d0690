"""The network in the package: photographs of faces, with the votes of ten people as targets.

    rdfer build --config=faces --config.build.source_dir=/data/fer
    rdfer train --config=faces --workdir=runs/faces
    python -m experiments.pack --run=runs/faces

The network reads each frame by itself. rdfer_jax/weights/faces.md has what it reaches.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config() -> ConfigDict:
    config = config_files.load("ferplus")
    config.data.variant = "voted"
    config.build.label = "voted"
    config.augment.per = "video"
    config.augment.eval_views = "plain"
    config.clips.number = 1
    config.model.trunk = "resnet10_narrow"
    config.model.dropout = 0.3
    config.loss.method = "votes"
    config.agreement.memory_decay = 0.0
    config.optim.evaluate = "average"
    config.predict.mirror = True
    config.optim.learning_rate = 2e-3
    config.train.duration = "40 epochs"
    config.train.eval_every = "5 epochs"
    return config
