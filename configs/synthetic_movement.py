"""Synthetic faces whose classes are pairs that differ in movement only.

    rdfer train --config=synthetic_movement --workdir=runs/movement
    rdfer train --config=synthetic_movement --workdir=runs/short --config.model.streams=short \
        --config.key.enabled=False
    rdfer train --config=synthetic_movement --workdir=runs/frames --config.data.snippet=1

Builds the data set if it is missing: 4,000 training clips with the right labels, of which 30 % are hard. A
network that ignores the order of frames reaches at most 50 %.

Expected result, for 2,000 clips, 20 epochs and no key clips (`python -m experiments.streams --size=small`):
WAR 89.9 with both streams, 68.4 with the short-term and 66.7 with the long-term stream alone. With the
settings here: not measured.
"""

from ml_collections import ConfigDict

from rdfer_jax import config_files


def get_config() -> ConfigDict:
    config = config_files.load("synthetic")
    config.data.variant = "movement"
    config.build.movement_pairs = True
    config.build.num_frames = 64
    config.build.flip_rate = 0.0
    # Eight snippets of three neighboring frames: the middle ones are eight frames apart.
    config.data.frames = 24
    config.data.snippet = 3
    # Views of at least three quarters: half of a video shows one of two expressions.
    config.clips.frames = 18
    config.clips.min_span = 0.75
    config.key.frames = 3
    # Movement is for the streams to see, not for the trunk.
    config.model.shift = False
    config.train.duration = "15 epochs"
    return config
