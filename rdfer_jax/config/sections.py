"""All settings of a run: defaults, meanings, units, and allowed values."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ml_collections import config_dict

from rdfer_jax.config.parsing import check_duration, parse_fold

FrameTrunk = Literal["resnet8_narrow", "resnet18", "resnet50"]
ClipTrunk = Literal["r3d_18", "r2plus1d_18"]
#: Trunks that read four frames at a time. The others read single frames.
CLIP_TRUNKS: tuple[str, ...] = typing.get_args(ClipTrunk)


def _field(default: Any, text: str, *, affects_training: bool = True, **limits: float) -> Any:
    """Declares a setting.

    Args:
      default: the default value.
      text: what the setting means, with its unit.
      affects_training: False if the setting does not change what is learned, so that a run may be
        resumed with another value.
      **limits: `low` and `high`, the smallest and the largest allowed number.
    """
    metadata = {"text": text, "affects_training": affects_training, **limits}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Section:
    """A group of settings, `config.<section>.<name>`."""

    def check(self) -> None:
        """Raises a ValueError if settings of this section contradict each other."""


@dataclasses.dataclass(frozen=True)
class Data(Section):
    """The data set, and how it is read."""

    dir: str = _field(
        "tfds", "folder of the built data sets; may be on gs://", affects_training=False
    )
    name: str = _field("synthetic_faces", "name of the data set: a folder in dir")
    variant: str = _field("default", "variant of the data set: a folder in name")
    train_split: str = _field("train", "training splits, joined by +")
    test_split: str = _field("test", "test splits, joined by +", affects_training=False)
    labels: str = _field(
        "",
        "CSV file with the columns clip_id,label that replaces the given labels of the training "
        "split; empty: the stored labels",
    )
    fold: str = _field(
        "",
        "i/k: split the training data into k equal folds, test on fold i and train on the others; "
        "empty: test on test_split",
    )
    validation_percent: float = _field(
        0.0,
        "percentage of the training split held out to select the best checkpoint, stratified by class",
        low=0,
        high=50,
    )
    sampling: Literal["uniform", "balanced"] = _field(
        "uniform",
        "training videos of an epoch; uniform: each video once; balanced: each class equally often, in "
        "an epoch of the same length",
    )
    frames: int = _field(64, "F, number of frames decoded per video", low=1)
    snippet: int = _field(
        1,
        "r, consecutive frames of the video in each part of the buffer: frames / r snippets at the "
        "video's own rate are spread over the video; 1: single frames",
        low=1,
    )
    image_size: int = _field(128, "height and width of a decoded frame, pixels", low=8)
    fit: Literal["crop", "stretch"] = _field(
        "crop", "how to make a frame square: center-crop or stretch it"
    )
    frame_cache: str = _field(
        "",
        "local folder where training caches decoded frames, image_size^2 x 3 bytes each, about ten "
        "times the size of the JPEGs; empty: no cache",
        affects_training=False,
    )
    batch_size: int = _field(128, "videos per training step, over all devices", low=1)
    eval_batch_size: int = _field(
        128, "videos per evaluation step, over all devices", low=1, affects_training=False
    )
    num_workers: int = _field(
        0,
        "worker processes that read and decode; 0: threads of the main process",
        low=0,
        affects_training=False,
    )
    num_threads: int = _field(
        4, "threads that read and decode, per process", low=1, affects_training=False
    )
    prefetch: int = _field(
        2, "batches loaded onto the devices in advance", low=1, affects_training=False
    )

    def check(self) -> None:
        """Checks `fold`, `frame_cache` and `snippet`; see Section."""
        if self.frames % self.snippet:
            raise ValueError(
                f"config.data.frames: expected a multiple of config.data.snippet = {self.snippet}, got "
                f"{self.frames}"
            )
        if self.fold:
            try:
                parse_fold(self.fold)
            except ValueError as error:
                raise ValueError(f"config.data.fold: {error}") from None
        if "://" in self.frame_cache:
            raise ValueError(
                "config.data.frame_cache: expected a local folder, such as /dev/shm/frames, got "
                f"{self.frame_cache!r}"
            )


@dataclasses.dataclass(frozen=True)
class Augment(Section):
    """Augmentation of the training videos, on the device; the same for all frames of a video or a clip."""

    per: Literal["video", "clip"] = _field(
        "video",
        "what shares a random transform; clip: each clip has its own, and a trunk that reads single frames "
        "reads every clip by itself, K T + F frames a video in place of F",
    )
    size: int = _field(112, "height and width of the network's input, pixels", low=8)
    crop_area: tuple[float, float] = _field(
        (0.4, 1.0), "range of the crop's area, as a fraction of the frame's"
    )
    crop_aspect: tuple[float, float] = _field(
        (0.75, 4 / 3), "range of the crop's aspect ratio, width over height"
    )
    flip: float = _field(0.5, "probability of a horizontal flip", low=0, high=1)
    brightness: float = _field(0.4, "b: factor sampled from [1 - b, 1 + b]", low=0, high=1)
    contrast: float = _field(0.4, "c: factor sampled from [1 - c, 1 + c]", low=0, high=1)
    saturation: float = _field(0.4, "s: factor sampled from [1 - s, 1 + s]", low=0, high=1)
    hue: float = _field(0.1, "h: rotation sampled from [-h, h], turns", low=0, high=0.5)
    mean: tuple[float, float, float] = _field(
        (0.485, 0.456, 0.406), "RGB mean for normalization, pixel values in [0, 1]"
    )
    std: tuple[float, float, float] = _field(
        (0.229, 0.224, 0.225),
        "RGB standard deviation for normalization, pixel values in [0, 1]",
    )

    def check(self) -> None:
        """Checks the ranges and `std`; see Section."""
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

    kind: Literal["views", "windows"] = _field(
        "views",
        "views: sub-intervals that cover at least min_span of the video; windows: consecutive frames",
    )
    number: int = _field(5, "K, clips per video", low=1)
    frames: int = _field(16, "T, frames per clip", low=1)
    min_span: float = _field(
        0.5, "shortest view, as a fraction of the video's length", low=0.05, high=1
    )


@dataclasses.dataclass(frozen=True)
class KeyClips(Section):
    """Key expression re-sampling (KER)."""

    enabled: bool = _field(True, "re-sample each video around its key expression")
    number: int = _field(4, "M, key instants per video, each the center of a key clip", low=1)
    frames: int = _field(4, "consecutive frames per key clip", low=1)
    min_gap: float = _field(
        0.05,
        "smallest gap between key instants, as a fraction of the video's length",
        low=0,
        high=1,
    )
    consensus: Literal["memory", "clips"] = _field(
        "memory",
        "whose consensus the key expression is in training; memory: of the predictions over the epochs, "
        "where there is a memory; clips: of the present clips, as in prediction",
    )
    train_towards: Literal["target", "choice"] = _field(
        "target",
        "which key instants have a loss; target: all of them; choice: only those of videos whose key "
        "expression is the likeliest class of the target, so that no instant is trained towards another "
        "class than it was chosen for",
    )


@dataclasses.dataclass(frozen=True)
class Model(Section):
    """The network."""

    name: Literal["rdfer", "m3dfel", "resnet_lstm"] = _field(
        "rdfer",
        "the network; m3dfel (needs trunk r3d_18) and resnet_lstm (needs a frame trunk) are baselines "
        "that ignore config.key",
    )
    trunk: Literal[FrameTrunk, ClipTrunk] = _field(
        "resnet18", "the CNN that turns frames into features"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = _field(
        "auto", "compute dtype; auto: bfloat16 on TPU and GPU, float32 on CPU"
    )
    shift: bool = _field(
        True,
        "temporal shift: the blocks of a frame trunk see neighboring frames; without it, or in "
        "resnet_lstm, each frame is read by itself",
    )
    remat: bool = _field(
        False,
        "recompute the trunk's blocks in the backward pass, which saves memory",
        affects_training=False,
    )
    width: int = _field(256, "features of the two streams, or of the LSTM in resnet_lstm", low=8)
    short_layers: int = _field(2, "layers of the short-term stream", low=1)
    short_kernel: int = _field(3, "temporal kernel size of a short-term layer, frames", low=1)
    long_layers: int = _field(2, "layers of the long-term stream", low=1)
    long_heads: int = _field(4, "attention heads of the long-term stream", low=1)
    instants: int = _field(16, "I, instants of the long-term stream per clip", low=1)
    streams: Literal["both", "short", "long"] = _field(
        "both",
        "the streams that read a clip; short and long are for ablations and need key.enabled False",
    )
    gate: bool = _field(True, "gate the short-term stream by the long-term stream")
    dropout: float = _field(0.1, "dropout rate before the classifiers", low=0, high=0.9)

    def check(self) -> None:
        """Checks that the network's parts fit together; see Section."""
        if self.width % (2 * self.long_heads):
            raise ValueError(
                "config.model.width: expected a multiple of 2 x config.model.long_heads = "
                f"{2 * self.long_heads}, got {self.width}"
            )
        if self.name == "m3dfel" and self.trunk != "r3d_18":
            raise ValueError(
                "config.model.trunk: expected 'r3d_18' for config.model.name = 'm3dfel', got "
                f"{self.trunk!r}"
            )
        if self.name == "resnet_lstm" and self.trunk in CLIP_TRUNKS:
            raise ValueError(
                "config.model.trunk: expected a trunk that reads single frames, such as 'resnet18', "
                f"for config.model.name = 'resnet_lstm', got {self.trunk!r}"
            )


@dataclasses.dataclass(frozen=True)
class Agreement(Section):
    """How the agreement of a video's clips is measured, and how its label is judged by it."""

    measure: Literal["soft", "vote"] = _field("soft", "agreement measure")
    temperature: float = _field(
        1.0,
        "the clips' logits are divided by it in the measure of agreement alone; below 1, differences "
        "between clips count more",
        low=0.01,
        high=100,
    )
    threshold: float = _field(
        0.5, "tau: smallest agreement at which the clips count as agreeing", low=0, high=1
    )
    threshold_kind: Literal["fixed", "quantile", "mixture", "running"] = _field(
        "fixed",
        "what threshold means; fixed: tau; quantile: of the agreements of all training videos; "
        "mixture: threshold and noise_threshold are probabilities under two normal distributions "
        "fitted to all training videos; running: tau, and each video has its own threshold on the "
        "label's probability, which all clips pass if clean and none if noisy",
    )
    score: Literal["odds", "support", "posterior"] = _field(
        "odds",
        "noise score, how likely a label is wrong; odds: odds of the best other class against the "
        "label; support: 1 minus the label's highest probability in any clip; posterior: 1 minus the "
        "label's probability given the prediction and a noise matrix that is estimated from the memory",
    )
    noise_threshold: float = _field(
        0.7, "a video can be judged noisy only if its noise score is above this", low=0, high=1
    )
    prior_correction: float = _field(
        0.0,
        "r: the odds of the noise score are those of p / m^r, m the mean of the remembered predictions, so "
        "that labels of rare classes do not look wrong for being rare; 0: off, 1: as if all classes were "
        "equally frequent",
        low=0,
        high=1,
    )
    protect_below: float = _field(
        0.0,
        "share of the training labels below which a class is rare; a label of a rare class is judged "
        "noisy only if its noise score is above protect_threshold; 0: off",
        low=0,
        high=1,
    )
    protect_threshold: float = _field(
        0.9, "the noise threshold of rare classes, see protect_below", low=0, high=1
    )
    memory_decay: float = _field(
        0.6,
        "decay of the moving average of each video's predictions; 0: no memory",
        low=0,
        high=0.999,
    )
    remember: float = _field(
        0.0,
        "decay of the moving average of each video's agreement; 0: the agreement of the present clips",
        low=0,
        high=0.999,
    )
    running_decay: float = _field(
        0.9,
        "m: decay of each video's running threshold, per visit, for threshold_kind = running",
        low=0,
        high=0.999,
    )
    teacher_decay: float = _field(
        0.0,
        "decay of the moving average of the weights (teacher), per step; 0: no teacher",
        low=0,
        high=0.99999,
    )
    gradient: bool = _field(False, "let gradients flow through the agreement")


@dataclasses.dataclass(frozen=True)
class Loss(Section):
    """The loss: that of the method, or one it is compared with."""

    method: Literal[
        "agreement",
        "cross_entropy",
        "focal",
        "gce",
        "sce",
        "elr",
        "small_loss",
        "scn",
        "forward",
        "self_calibrated",
        "ssr",
        "oracle",
    ] = _field(
        "agreement",
        "how wrong labels are handled; forward: forward correction by a noise matrix that is estimated "
        "from the memory; self_calibrated: a loss for each kind of the partition, for "
        "agreement.threshold_kind = running; ssr: selection and relabeling by neighbors in feature space; "
        "oracle: drop the labels known to be wrong",
    )
    label_smoothing: float = _field(
        0.1, "label smoothing: probability spread over all classes", low=0, high=0.9
    )
    logit_adjustment: float = _field(
        0.0,
        "tau: the loss takes logits + tau log prior, prior being the shares of the training labels, so "
        "that rare classes are not neglected; 0: off, 1: for balanced classes",
        low=0,
        high=4,
    )
    clips: float = _field(0.1, "weight of the clip loss", low=0)
    long: float = _field(0.1, "weight of the long-term stream's loss", low=0)
    instants: float = _field(0.1, "weight of the key instants' loss", low=0)
    hard: float = _field(
        0.5,
        "gamma: weight of a hard video is 1 + gamma (1 - agreement), or what hard_scale says",
        low=0,
    )
    hard_scale: Literal["agreement", "rank"] = _field(
        "agreement",
        "what gamma multiplies; agreement: 1 - agreement, seldom above 0.2; rank: 1 minus the rank of the "
        "agreement among all training videos, from 0 to 1",
    )
    hard_elsewhere: bool = _field(
        True, "reinforce hard videos, too, whose consensus is another class than their label"
    )
    noisy_weight: float = _field(1.0, "weight of a noisy video", low=0, high=1)
    refurbish: Literal["noisy", "all", "posterior"] = _field(
        "noisy",
        "which targets are blended with the prediction; noisy: those of noisy videos; all: every "
        "target, by the square of its noise score; posterior: every target is the probability of the "
        "true class given the remembered prediction, the label and the noise matrix",
    )
    sharpness: float = _field(
        3.0,
        "a: for refurbish = posterior, the remembered prediction p counts as p^a",
        low=0.1,
        high=20,
    )
    noisy_target: float = _field(
        1.0, "beta: share of the prediction in a blended target", low=0, high=1
    )
    limit_share: Literal["none", "confident_learning", "sure_half"] = _field(
        "none",
        "limit on the share of the training videos that may be judged noisy: an estimate of the share of "
        "wrong labels from the memory; confident_learning: that of confident learning, which counts "
        "mistakes of the network, too; sure_half: the share of other labels among the surest half of the "
        "predictions of each class; none: no limit",
    )
    correct_margin: float = _field(
        0.1,
        "self_calibrated: a noisy video gets the consensus as its label if its probability exceeds the "
        "video's running threshold by more than this, or 0.99",
        low=0,
        high=1,
    )
    robust_from: str = _field(
        "30 %",
        "duration after which the method starts to act: the partition in agreement, relabeling in "
        "scn and ssr, the noise matrix in forward; small_loss reaches its final keep rate by then",
    )
    focal_gamma: float = _field(2.0, "focal loss: exponent of 1 - p", low=0)
    gce_q: float = _field(0.7, "generalized cross-entropy: q", low=0.01, high=1)
    sce_alpha: float = _field(0.1, "symmetric cross-entropy: weight of the cross-entropy", low=0)
    sce_beta: float = _field(
        1.0, "symmetric cross-entropy: weight of the reverse cross-entropy", low=0
    )
    elr_weight: float = _field(
        3.0,
        "early-learning regularization: weight of the penalty; the authors take 3 with "
        "agreement.memory_decay 0.7 and, for wrong labels that follow the class, 1 with 0.9",
        low=0,
    )
    forget_rate: float = _field(
        0.2, "small_loss: fraction of a batch dropped, by largest loss", low=0, high=0.9
    )
    ssr_neighbors: int = _field(20, "SSR: k, nearest training videos that vote on a label", low=1)
    ssr_clean: float = _field(
        1.0,
        "SSR: a video is learned from if the vote for its label is at least this share of the strongest",
        low=0,
        high=1,
    )
    ssr_relabel: float = _field(
        0.8,
        "SSR: a label is replaced by a class whose remembered probability exceeds this; label smoothing "
        "s keeps probabilities below 1 - s + s / N",
        low=0,
        high=1,
    )
    scn_margin: float = _field(
        0.2, "SCN: margin by which a prediction must win to relabel a video", low=0, high=1
    )
    scn_share: float = _field(
        0.3,
        "SCN: fraction of a batch that may be relabeled, by smallest label probability",
        low=0,
        high=1,
    )

    def check(self) -> None:
        """Checks `robust_from`; see Section."""
        check_duration("loss.robust_from", self.robust_from)


@dataclasses.dataclass(frozen=True)
class Optim(Section):
    """AdamW with a cosine schedule."""

    learning_rate: float = _field(5e-4, "peak learning rate", low=0)
    final_learning_rate: float = _field(5e-6, "final learning rate", low=0)
    warmup: str = _field("5 %", "duration of the linear warm-up from zero")
    weight_decay: float = _field(0.05, "weight decay, of matrices and kernels only", low=0)
    clip_norm: float = _field(1.0, "largest gradient norm; 0: no clipping", low=0)
    beta2: float = _field(0.999, "decay of the second moment", low=0, high=1)
    evaluate: Literal["last", "average", "teacher"] = _field(
        "last",
        "which weights are evaluated and predict; last: those of the last step; average: their mean "
        "over the steps from average_from on; teacher: their moving average, see "
        "agreement.teacher_decay",
    )
    average_from: str = _field(
        "80 %", "duration after which the average of the weights begins, for evaluate = average"
    )

    def check(self) -> None:
        """Checks the durations; see Section."""
        check_duration("optim.warmup", self.warmup)
        check_duration("optim.average_from", self.average_from)


@dataclasses.dataclass(frozen=True)
class Train(Section):
    """The training loop."""

    duration: str = _field("100 epochs", "length of the run, in steps or epochs")
    eval_every: str = _field(
        "1 epochs",
        "interval between evaluations on the validation part, or on the test split without one",
        affects_training=False,
    )
    best_metric: Literal["war", "uar"] = _field(
        "war", "the score on the validation part that chooses the best checkpoint"
    )
    save_every: str = _field("1 epochs", "interval between checkpoints", affects_training=False)
    record_every: str = _field(
        "",
        "interval between predictions on the whole training split, saved in epochs/ for "
        "experiments.analysis; empty: never",
        affects_training=False,
    )
    log_every: str = _field(
        "20 steps", "interval between lines of metrics.jsonl", affects_training=False
    )
    keep: int = _field(
        2,
        "number of latest checkpoints kept, in addition to the best on validation",
        low=1,
        affects_training=False,
    )
    tensorboard: bool = _field(
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

    detector: Literal["haar", "yunet", "none"] = _field(
        "haar",
        "face detector; haar: comes with OpenCV; yunet: the network in the file predict.yunet; none: "
        "the videos are already cropped to the face",
    )
    yunet: str = _field("", "ONNX file of YuNet")
    faces: Literal["largest", "all"] = _field("largest", "which faces to classify")
    min_face: float = _field(
        0.1,
        "smallest face that is detected, as a fraction of the frame's shorter side",
        low=0.01,
        high=1,
    )
    margin: float = _field(
        0.1, "margin added on each side of a face, as a fraction of its size", low=0, high=1
    )
    fps: float = _field(
        0.0,
        "highest number of frames read per second; 0: 10, or 30 if data.snippet is above 1, because its "
        "frames are neighbors at the video's own rate",
        low=0,
        high=240,
    )
    window: float = _field(3.0, "length of a prediction window, seconds", low=0.2)
    stride: float = _field(1.0, "step between the starts of two windows, seconds", low=0.05)
    batch_size: int = _field(8, "windows per prediction step", low=1)
    annotate: bool = _field(False, "also write the video with face boxes and expressions drawn in")

    def check(self) -> None:
        """Checks `fps`; see Section."""
        if 0 < self.fps < 0.5:
            raise ValueError(
                f"config.predict.fps: expected 0 or a value in [0.5, 240], got {self.fps}"
            )


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    seed: int = _field(0, "random seed of the run", low=0, high=2**32 - 1)
    init_from: str = _field(
        "",
        "weights to start from: a file, or the folder of another run; empty: random weights; see "
        "docs/how-to/pretrained-weights.md",
    )
    profile: bool = _field(
        False, "trace five training steps, written to workdir/profile", affects_training=False
    )
    compile_cache: str = _field(
        "",
        "folder where compiled programs are cached between runs; use only a folder you trust",
        affects_training=False,
    )
    cpu_devices: int = _field(
        0,
        "number of JAX devices to split a CPU into, at most one per core; 0: one device; no effect on "
        "GPU and TPU",
        low=0,
        affects_training=False,
    )
    data: Data = dataclasses.field(default_factory=Data)
    build: Mapping[str, Any] = _field(
        config_dict.FrozenConfigDict(),
        "options of the data set's builder, see data/<name>/README.md",
        affects_training=False,
    )
    augment: Augment = dataclasses.field(default_factory=Augment)
    clips: Clips = dataclasses.field(default_factory=Clips)
    key: KeyClips = dataclasses.field(default_factory=KeyClips)
    model: Model = dataclasses.field(default_factory=Model)
    agreement: Agreement = dataclasses.field(default_factory=Agreement)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)
    predict: Predict = dataclasses.field(
        default_factory=Predict, metadata={"affects_training": False}
    )
