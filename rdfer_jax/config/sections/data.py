"""Settings of the data: what is read, augmented and sampled."""

import dataclasses
import math
from typing import Literal

from rdfer_jax import paths
from rdfer_jax.config.parsing import parse_fold
from rdfer_jax.config.sections.base import Section, field


@dataclasses.dataclass(frozen=True)
class Data(Section):
    """The data set, and how it is read."""

    dir: str = field(
        "tfds",
        "folder of the built data sets; may be on gs://",
        affects_training=False,
        path=True,
    )
    name: str = field("synthetic_faces", "name of the data set: a folder in dir")
    variant: str = field("default", "variant of the data set: a folder in name")
    train_split: str = field("train", "training splits, joined by +")
    test_split: str = field("test", "test splits, joined by +", affects_training=False, auto=True)
    labels: str = field(
        "",
        "CSV file with the columns clip_id,label that replaces the given labels of the training "
        "split; empty: the stored labels",
        path=True,
    )
    fold: str = field(
        "",
        "i/k: split the training data into k equal folds, test on fold i and train on the others; "
        "empty: test on test_split",
    )
    validation_percent: float = field(
        0.0,
        "percentage of the training split held out to select the best checkpoint, stratified by class",
        low=0,
        high=50,
        auto=True,
    )
    validation_split: str = field(
        "",
        "stored split on which the best checkpoint is selected; empty: the part that validation_percent "
        "holds out",
        auto=True,
    )
    sampling: Literal["uniform", "balanced"] = field(
        "uniform",
        "training videos of an epoch; uniform: each video once; balanced: each class equally often, in "
        "an epoch of the same length",
    )
    frames: int = field(64, "F, number of frames decoded per video", low=1, auto=True)
    snippet: int = field(
        1,
        "r, consecutive frames of the video in each part of the buffer: frames / r snippets at the "
        "video's own rate are spread over the video; 1: single frames",
        low=1,
    )
    stride: int = field(
        1,
        "s, frames of the video from one frame of a snippet to the next; VideoMAE's recipe has snippets of "
        "16 frames, 4 apart",
        low=1,
    )
    image_size: int = field(128, "height and width of a decoded frame, pixels", low=8, auto=True)
    fit: Literal["crop", "stretch"] = field(
        "crop", "how to make a frame square: center-crop or stretch it"
    )
    frame_cache: str = field(
        "",
        "local folder where training caches decoded frames, image_size^2 x 3 bytes each, about ten "
        "times the size of the JPEGs; empty: no cache",
        affects_training=False,
        path=True,
    )
    batch_size: int = field(128, "videos per training step, over all devices", low=1, auto=True)
    eval_batch_size: int = field(
        128,
        "videos per evaluation step, over all devices",
        low=1,
        affects_training=False,
        auto=True,
    )
    num_workers: int = field(
        0,
        "worker processes that read and decode; 0: threads of the main process",
        low=0,
        affects_training=False,
    )
    num_threads: int = field(
        4, "threads that read and decode, per process", low=1, affects_training=False
    )
    prefetch: int = field(
        2, "batches loaded onto the devices in advance", low=1, affects_training=False
    )

    def check(self) -> None:
        """Checks `fold`, `frame_cache`, `snippet` and `stride`; see Section."""
        if self.frames % self.snippet:
            raise ValueError(
                f"config.data.frames: expected a multiple of config.data.snippet = {self.snippet}, got "
                f"{self.frames}"
            )
        if self.stride > 1 and self.snippet == 1:
            raise ValueError(
                "config.data.stride: expected 1 for config.data.snippet = 1, because single frames are "
                f"spread over the video, got {self.stride}"
            )
        if self.validation_split and self.validation_percent:
            raise ValueError(
                "config.data.validation_percent: expected 0 with config.data.validation_split = "
                f"{self.validation_split!r}, got {self.validation_percent:g}"
            )
        if self.fold:
            try:
                parse_fold(self.fold)
            except ValueError as error:
                raise ValueError(f"config.data.fold: {error}") from None
        if not paths.is_local(self.frame_cache):
            raise ValueError(
                "config.data.frame_cache: expected a local folder, such as /dev/shm/frames, got "
                f"{self.frame_cache!r}"
            )


@dataclasses.dataclass(frozen=True)
class Augment(Section):
    """Augmentation of the training videos, on the device; the same for all frames of a video or a clip."""

    per: Literal["video", "clip"] = field(
        "video",
        "what shares a random transform; clip: each clip has its own, and a trunk that reads single frames "
        "reads every clip by itself, K T + F frames a video in place of F",
    )
    size: int = field(112, "height and width of the network's input, pixels", low=8, auto=True)
    crop_area: tuple[float, float] = field(
        (0.4, 1.0), "range of the crop's area, as a fraction of the frame's"
    )
    crop_aspect: tuple[float, float] = field(
        (0.75, 4 / 3), "range of the crop's aspect ratio, width over height"
    )
    flip: float = field(0.5, "probability of a horizontal flip", low=0, high=1)
    brightness: float = field(0.4, "b: factor sampled from [1 - b, 1 + b]", low=0, high=1)
    contrast: float = field(0.4, "c: factor sampled from [1 - c, 1 + c]", low=0, high=1)
    saturation: float = field(0.4, "s: factor sampled from [1 - s, 1 + s]", low=0, high=1)
    hue: float = field(0.1, "h: rotation sampled from [-h, h], turns", low=0, high=0.5)
    gray: bool = field(
        False,
        "convert frames to gray, in training and prediction, as for a network of gray pictures",
        auto=True,
    )
    rand_layers: int = field(
        0,
        "RandAugment: operations drawn for a video, or clip, before the crop; VideoMAE's recipe has 4, "
        "instead of brightness, contrast, saturation and hue; 0: none",
        low=0,
    )
    rand_magnitude: float = field(7.0, "RandAugment: mean magnitude", low=0, high=10)
    rand_deviation: float = field(
        0.5, "RandAugment: standard deviation of the magnitude", low=0, high=10
    )
    erase: float = field(
        0.0, "random erasing: probability that a box of a video, or clip, is noise", low=0, high=1
    )
    mixup: float = field(
        0.0,
        "mixup: a of the distribution Beta(a, a) of the share of each video; the rest is another one of "
        "the batch; 0: none",
        low=0,
    )
    cutmix: float = field(
        0.0,
        "CutMix: as mixup, for the share of the pixels outside of a box that shows another video; 0: none",
        low=0,
    )
    mix_probability: float = field(
        1.0, "probability that the videos of a batch are mixed, by mixup or cutmix", low=0, high=1
    )
    eval_crops: int = field(
        1,
        "spatial views of a video in evaluation, whose predictions are averaged; 1: the whole frame; 5: "
        "squares of augment.size in its center and corners, not resized",
        low=1,
        high=5,
        affects_training=False,
    )
    eval_views: Literal["plain", "augmented"] = field(
        "plain",
        "what the clips show in evaluation, for per = clip; plain: the frames; augmented: every clip but "
        "the first has a transform as in training, the same for all videos: views of a still picture",
        affects_training=False,
    )
    mean: tuple[float, float, float] = field(
        (0.485, 0.456, 0.406), "RGB mean for normalization, pixel values in [0, 1]"
    )
    std: tuple[float, float, float] = field(
        (0.229, 0.224, 0.225),
        "RGB standard deviation for normalization, pixel values in [0, 1]",
    )

    def check(self) -> None:
        """Checks the ranges, `std`, `eval_views` and `eval_crops`; see Section."""
        if self.eval_crops not in (1, 5):
            raise ValueError(f"config.augment.eval_crops: expected 1 or 5, got {self.eval_crops}")
        if self.eval_views == "augmented" and self.per == "video":
            raise ValueError(
                "config.augment.eval_views = 'augmented': expected config.augment.per = 'clip', got 'video'"
            )
        for name, most in (("crop_area", 1.0), ("crop_aspect", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise ValueError(
                    f"config.augment.{name}: expected 0 < low <= high <= {most}, got {(low, high)}"
                )
        if min(self.std) <= 0:
            raise ValueError(f"config.augment.std: expected positive numbers, got {self.std}")


@dataclasses.dataclass(frozen=True)
class Clips(Section):
    """The clips sampled from each video, whose agreement is measured."""

    kind: Literal["views", "windows", "snippets"] = field(
        "views",
        "views: sub-intervals that cover at least min_span of the video; windows: consecutive frames of "
        "the buffer; snippets: each clip is one snippet (data.snippet, data.stride), as VideoMAE samples",
    )
    number: int = field(5, "K, clips per video", low=1)
    eval_number: int = field(
        0,
        "clips per video in evaluation and prediction, its temporal views; 0: as number",
        low=0,
        affects_training=False,
    )
    frames: int = field(16, "T, frames per clip", low=1, auto=True)
    min_span: float = field(
        0.5, "shortest view, as a fraction of the video's length", low=0.05, high=1
    )
