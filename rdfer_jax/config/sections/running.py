"""Settings of a run: optimizer, training loop and prediction."""

import dataclasses
from typing import Literal

from rdfer_jax.config.parsing import check_duration
from rdfer_jax.config.sections.base import Section, field


@dataclasses.dataclass(frozen=True)
class Optim(Section):
    """AdamW with a cosine schedule."""

    learning_rate: float = field(5e-4, "peak learning rate", low=0)
    final_learning_rate: float = field(5e-6, "final learning rate", low=0)
    warmup: str = field("5 %", "duration of the linear warm-up from zero")
    weight_decay: float = field(0.05, "weight decay, of matrices and kernels only", low=0)
    clip_norm: float = field(1.0, "largest gradient norm; 0: no clipping", low=0)
    layer_decay: float = field(
        1.0,
        "factor of the learning rate from each block of a vision transformer to the one below; 1: all have "
        "the same",
        low=0.1,
        high=1,
    )
    beta2: float = field(0.999, "decay of the second moment", low=0, high=1)
    accumulate: int = field(
        1,
        "gradient accumulation: parts of a batch that are read one after the other, which saves memory; "
        "their gradients are averaged",
        low=1,
    )
    evaluate: Literal["last", "average", "teacher"] = field(
        "last",
        "which weights are evaluated and predict; last: those of the last step; average: their mean "
        "over the steps from average_from on; teacher: their moving average, see "
        "agreement.teacher_decay",
    )
    average_from: str = field(
        "80 %", "duration after which the average of the weights begins, for evaluate = average"
    )

    def check(self) -> None:
        """Checks the durations; see Section."""
        check_duration("optim.warmup", self.warmup)
        check_duration("optim.average_from", self.average_from)


@dataclasses.dataclass(frozen=True)
class Train(Section):
    """The training loop."""

    duration: str = field("100 epochs", "length of the run, in steps or epochs", auto=True)
    eval_every: str = field(
        "1 epochs",
        "interval between evaluations on the validation part, or on the test split without one",
        affects_training=False,
        auto=True,
    )
    best_metric: Literal["war", "uar"] = field(
        "war", "the score on the validation part that chooses the best checkpoint"
    )
    save_every: str = field(
        "1 epochs", "interval between checkpoints", affects_training=False, auto=True
    )
    record_every: str = field(
        "",
        "interval between predictions on the whole training split, saved in epochs/ for "
        "experiments.analysis; empty: never",
        affects_training=False,
    )
    log_every: str = field(
        "20 steps", "interval between lines of metrics.jsonl", affects_training=False
    )
    shard_parameters: Literal["auto", "always", "never"] = field(
        "auto",
        "FSDP: each device holds a part of each large parameter and of its moments; auto: if the state "
        "fills more than a quarter of the memory of a GPU or TPU",
        affects_training=False,
    )
    keep: int = field(
        2,
        "number of latest checkpoints kept, in addition to the best on validation",
        low=1,
        affects_training=False,
    )
    tensorboard: bool = field(
        True, "also write TensorBoard files, if tensorboardX is installed", affects_training=False
    )

    def check(self) -> None:
        """Checks the durations; see Section."""
        for name in ("duration", "eval_every", "save_every", "record_every", "log_every"):
            if name != "record_every" or self.record_every:
                check_duration(f"train.{name}", getattr(self, name), positive=True)
        if "%" in self.duration:
            raise ValueError(
                f"config.train.duration: expected steps or epochs, got {self.duration!r}"
            )


@dataclasses.dataclass(frozen=True)
class Predict(Section):
    """How videos are read for prediction (rdfer predict)."""

    as_trained: bool = field(
        True,
        "cut faces as the build cut those of the training data, if it did; then detector, min_face, margin "
        "and align have no effect, except for detector = none",
    )
    detector: Literal["blazeface", "haar", "yunet", "none"] = field(
        "blazeface",
        "face detector; blazeface: a network that comes with rdfer_jax; haar: comes with OpenCV, finds "
        "frontal faces; yunet: the network in the file predict.yunet; none: the videos are already cropped "
        "to the face",
    )
    yunet: str = field("", "ONNX file of YuNet", path=True)
    faces: Literal["largest", "all"] = field("largest", "which faces to classify")
    identities: bool = field(
        False,
        "follow people, not places: a face after a cut is the same one if an embedding says that it is the "
        "same person; needs a network that is fetched once, see docs/how-to/predict.md",
    )
    min_face: float = field(
        0.1,
        "smallest face that is detected, as a fraction of the frame's shorter side",
        low=0.01,
        high=1,
    )
    small_every: float = field(
        0.5,
        "seconds between two searches for further small faces, of less than a seventh of the frame's long "
        "side, while a face is in view; at 0.5 faces are found as in the build of training data; 1 saves a "
        "fifth of the search",
        low=0.5,
        high=60,
    )
    margin: float = field(
        0.1, "margin added on each side of a face, as a fraction of its size", low=0, high=1
    )
    align: bool = field(True, "turn each face so that its eyes are level; haar finds no eyes")
    fps: float = field(
        0.0,
        "highest number of frames read per second; 0: 10, or 30 if data.snippet is above 1, because its "
        "frames are neighbors at the video's own rate",
        low=0,
        high=240,
    )
    window: float = field(3.0, "length of a prediction window, seconds", low=0.2)
    stride: float = field(1.0, "step between the starts of two windows, seconds", low=0.05)
    mirror: bool = field(
        False,
        "read the mirror image of each window, too, and average; twice the time of the network",
    )
    smooth: float = field(
        0.5, "seconds over which the probabilities of single frames are averaged; 0: not", low=0
    )
    batch_size: int = field(8, "windows per prediction step", low=1)
    temperature: float = field(
        0.0,
        "the logits are divided by it before the softmax, so that a probability is the share of such "
        "predictions that are right; 0: as the network was calibrated, that of the package on its "
        "validation part, that of a run on its test split if that has at least 100 clips; else 1",
        low=0,
        high=100,
    )
    class_shares: str = field(
        "",
        "class_shares.csv of an audit with a review of the labels that the run was trained on: predict "
        "with the class shares that it estimates, in place of those of the labels; rdfer eval gives both "
        "scores",
        path=True,
    )
    min_confidence: float = field(
        0.0,
        "a prediction is called unsure if its highest probability is below this",
        low=0,
        high=1,
    )
    annotate: bool = field(False, "also write the video with face boxes and expressions drawn in")

    def check(self) -> None:
        """Checks `fps`; see Section."""
        if 0 < self.fps < 0.5:
            raise ValueError(
                f"config.predict.fps: expected 0 or a value in [0.5, 240], got {self.fps}"
            )
