"""Every setting once: its default, its unit, the values that are allowed.

The settings are frozen dataclasses. `default()` turns them into the locked ConfigDict that the files
in configs/ start from and that `--config.x.y=value` overrides; `resolve()` turns a ConfigDict back,
validated, into the dataclasses that the rest of the code reads.

A duration is a number with a unit: "500 steps", "3 epochs", or "50 %" of the whole training run.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

#: Trunks that read snippets of four frames; the others read single ones.
CLIP_TRUNKS = ("r3d_18", "r2plus1d_18")


def _field(default: Any, text: str, **limits: Any) -> Any:
    """A setting: its default, what it means, and its limits (low, high, choices)."""
    return dataclasses.field(default=default, metadata={"text": text, **limits})


@dataclasses.dataclass(frozen=True)
class Data:
    """What is read, and how much of it at a time."""

    dir: str = _field("tfds", "folder that holds the built data sets; may be gs://")
    name: str = _field("synthetic_faces", "name of the data set: the folder below dir")
    variant: str = _field("default", "which build of the data set: the folder below name")
    train_split: str = _field("train", "splits to train on, joined by +")
    test_split: str = _field("test", "splits to test on, joined by +")
    labels: str = _field(
        "",
        "CSV file with columns clip_id,label that replaces the given labels of the training split; "
        "empty: as stored",
    )
    fold: str = _field(
        "",
        "i/k: test on part i of k equal parts of the training split, and train on the others; empty: test "
        "on test_split",
    )
    validation_percent: float = _field(
        0.0,
        "share of the training split that is held out to choose the best checkpoint",
        low=0,
        high=50,
    )
    frames: int = _field(64, "F, frames of a video that are decoded into its buffer", low=1)
    image_size: int = _field(128, "height and width of a decoded frame, pixels", low=8)
    fit: str = _field(
        "crop", "how a frame that is not square becomes so", choices=("crop", "stretch")
    )
    frame_cache: str = _field(
        "",
        "folder on a disk of this machine in which training keeps decoded frames, image_size^2 x 3 bytes "
        "each, some ten times their JPEGs; empty: decode them each time",
    )
    batch_size: int = _field(128, "videos in a training step, over all devices", low=1)
    eval_batch_size: int = _field(128, "videos in an evaluation step, over all devices", low=1)
    num_workers: int = _field(0, "processes that read and decode; 0: threads of this one", low=0)
    num_threads: int = _field(4, "threads that read and decode, in each process", low=1)
    prefetch: int = _field(2, "batches that wait on the device", low=1)


@dataclasses.dataclass(frozen=True)
class Augment:
    """Drawn once for each video in training, the same for all its frames; on the device."""

    size: int = _field(112, "height and width of the network's input, pixels", low=8)
    crop_area: tuple[float, float] = _field((0.4, 1.0), "share of the frame's area in a crop")
    crop_aspect: tuple[float, float] = _field((0.75, 4 / 3), "width over height of a crop")
    flip: float = _field(0.5, "probability of a mirror image", low=0, high=1)
    brightness: float = _field(0.4, "factor in 1 +- this", low=0, high=1)
    contrast: float = _field(0.4, "factor in 1 +- this", low=0, high=1)
    saturation: float = _field(0.4, "factor in 1 +- this", low=0, high=1)
    hue: float = _field(0.1, "rotation in +- this, turns", low=0, high=0.5)
    mean: tuple[float, float, float] = _field(
        (0.485, 0.456, 0.406), "RGB mean, of values in [0, 1]"
    )
    std: tuple[float, float, float] = _field((0.229, 0.224, 0.225), "RGB deviation, likewise")


@dataclasses.dataclass(frozen=True)
class Clips:
    """The clips that are sampled from a video, and whose agreement is measured."""

    kind: str = _field(
        "views",
        "views: sub-intervals of at least min_span of the video; windows: neighbouring frames",
        choices=("views", "windows"),
    )
    number: int = _field(5, "K, clips of a video", low=1)
    frames: int = _field(16, "T, frames of a clip", low=1)
    min_span: float = _field(0.5, "shortest view, as a share of the video", low=0.05, high=1)


@dataclasses.dataclass(frozen=True)
class KeyClips:
    """Key expression re-sampling (KER)."""

    enabled: bool = _field(True, "whether the video is re-sampled around its key expression")
    number: int = _field(4, "M, key instants, each the centre of a key clip", low=1)
    frames: int = _field(4, "neighbouring frames of a key clip", low=1)
    min_gap: float = _field(
        0.05, "least distance between key instants, as a share of the video", low=0, high=1
    )
    use_clean_label: bool = _field(
        False, "in training, look for the label's expression where the mask says clean"
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """The network."""

    name: str = _field(
        "rdfer",
        "which network; m3dfel (needs trunk r3d_18) and resnet_lstm (needs a frame trunk) are baselines "
        "that look for no key expression: config.key is ignored, key.enabled too",
        choices=("rdfer", "m3dfel", "resnet_lstm"),
    )
    trunk: str = _field(
        "resnet18",
        "what turns frames into features",
        choices=("resnet8_narrow", "resnet18", "resnet50", *CLIP_TRUNKS),
    )
    dtype: str = _field(
        "auto",
        "type of the computation; auto: bfloat16 on TPU and GPU, float32 on CPU",
        choices=("auto", "float32", "bfloat16"),
    )
    remat: bool = _field(False, "recompute the trunk's blocks in the backward pass, to save memory")
    width: int = _field(256, "features of the two streams, or of resnet_lstm's LSTM", low=8)
    short_layers: int = _field(2, "layers of the short-term stream", low=1)
    short_kernel: int = _field(3, "frames that a short-term layer sees", low=1)
    long_layers: int = _field(2, "layers of the long-term stream", low=1)
    long_heads: int = _field(4, "attention heads of the long-term stream", low=1)
    instants: int = _field(16, "I, instants of the long-term stream in a clip", low=1)
    streams: str = _field(
        "both",
        "which streams read a clip; short or long alone are for comparison and need key.enabled False",
        choices=("both", "short", "long"),
    )
    gate: bool = _field(True, "whether the long-term stream gates the short-term one")
    dropout: float = _field(
        0.1, "share of features dropped before the classifiers", low=0, high=0.9
    )


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How clips' predictions become a verdict on their video's label."""

    measure: str = _field("soft", "how agreement is measured", choices=("soft", "vote"))
    threshold: float = _field(0.5, "tau: clips agree from here on", low=0, high=1)
    threshold_kind: str = _field(
        "fixed",
        "whether tau is the value itself, or that quantile of the batch's agreements",
        choices=("fixed", "quantile"),
    )
    score: str = _field(
        "odds",
        "how likely a label is wrong; odds: of the best other class against it; support: 1 minus its "
        "probability in the clip that believes it most",
        choices=("odds", "support"),
    )
    noise_threshold: float = _field(0.7, "noisy needs a noise score above this", low=0, high=1)
    memory_decay: float = _field(
        0.6,
        "share of the past in the memory of a video's prediction; 0: no memory",
        low=0,
        high=0.999,
    )
    teacher_decay: float = _field(
        0.0,
        "share of the past in the teacher's weights, each step; 0: no teacher",
        low=0,
        high=0.99999,
    )
    gradient: bool = _field(False, "whether gradients flow through the agreement")


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss: ours, or one of those it is compared with."""

    method: str = _field(
        "agreement",
        "what is done about wrong labels; oracle: drops those known to be wrong",
        choices=(
            "agreement", "cross_entropy", "focal", "gce", "sce", "elr", "small_loss", "scn", "oracle"
        ),
    )  # fmt: skip
    label_smoothing: float = _field(0.1, "mass spread over all classes", low=0, high=0.9)
    clips: float = _field(0.1, "weight of the clips' loss", low=0)
    long: float = _field(0.1, "weight of the long-term stream's loss", low=0)
    instants: float = _field(0.1, "weight of the key instants' loss", low=0)
    hard: float = _field(0.5, "gamma: a hard video weighs 1 + gamma (1 - agreement)", low=0)
    noisy_weight: float = _field(1.0, "weight of a noisy video", low=0, high=1)
    refurbish: str = _field(
        "noisy",
        "whose target is blended with the prediction: noisy: the noisy videos'; all: every video's, by "
        "the square of its noise score",
        choices=("noisy", "all"),
    )
    noisy_target: float = _field(
        1.0, "beta: share of the prediction in a target that is blended with it", low=0, high=1
    )
    robust_from: str = _field(
        "30 %",
        "when the method begins to act: agreement's mask, SCN's new labels; small_loss has by then "
        "come down to the share that it keeps",
    )
    focal_gamma: float = _field(2.0, "focal loss: exponent of 1 - p", low=0)
    gce_q: float = _field(0.7, "generalised cross-entropy: q", low=0.01, high=1)
    sce_alpha: float = _field(0.1, "symmetric cross-entropy: weight of cross-entropy", low=0)
    sce_beta: float = _field(1.0, "symmetric cross-entropy: weight of its reverse", low=0)
    elr_weight: float = _field(3.0, "early-learning regularisation: weight of the penalty", low=0)
    forget_rate: float = _field(
        0.2, "small_loss: share of a batch that is left out, by its loss", low=0, high=0.9
    )
    scn_margin: float = _field(0.2, "SCN: lead of the prediction for a new label", low=0, high=1)
    scn_share: float = _field(
        0.3, "SCN: share of a batch, by least probable label, that may get a new one", low=0, high=1
    )


@dataclasses.dataclass(frozen=True)
class Optim:
    """AdamW with a cosine schedule."""

    learning_rate: float = _field(5e-4, "peak", low=0)
    final_learning_rate: float = _field(5e-6, "at the end", low=0)
    warmup: str = _field("5 %", "linear rise from zero")
    weight_decay: float = _field(0.05, "of matrices and kernels only", low=0)
    clip_norm: float = _field(1.0, "largest norm of the gradient; 0: no limit", low=0)
    beta2: float = _field(0.999, "decay of the second moment", low=0, high=1)


@dataclasses.dataclass(frozen=True)
class Train:
    """The loop."""

    duration: str = _field("100 epochs", "length of training")
    eval_every: str = _field(
        "1 epochs", "between evaluations of the validation part, or else the test"
    )
    save_every: str = _field("1 epochs", "between checkpoints")
    record_every: str = _field(
        "",
        "between predictions of the whole training split, kept in epochs/ for experiments.analysis; "
        "empty: none",
    )
    log_every: str = _field("20 steps", "between lines of metrics.jsonl")
    keep: int = _field(2, "newest checkpoints to keep, besides the best on validation", low=1)
    tensorboard: bool = _field(True, "also write TensorBoard files, where it is installed")


@dataclasses.dataclass(frozen=True)
class Predict:
    """How a user's own videos are read, in mode predict."""

    detector: str = _field(
        "haar",
        "what finds faces; haar: comes with OpenCV; yunet: the network in the file predict.yunet; none: "
        "the videos were cut to the face before",
        choices=("haar", "yunet", "none"),
    )
    yunet: str = _field("", "ONNX file of YuNet")
    faces: str = _field(
        "largest",
        "whose expression is predicted, where there are several",
        choices=("largest", "all"),
    )
    min_face: float = _field(
        0.1, "smallest face, as a share of the frame's shorter side", low=0.01, high=1
    )
    margin: float = _field(
        0.1, "added around a face on every side, as a share of it", low=0, high=1
    )
    fps: float = _field(10.0, "frames a second that are looked at, at most", low=0.5, high=240)
    window: float = _field(3.0, "length of what is predicted at once, seconds", low=0.2)
    stride: float = _field(1.0, "between the starts of two windows, seconds", low=0.05)
    batch_size: int = _field(8, "windows in a prediction step", low=1)
    annotate: bool = _field(False, "also write the video with boxes and expressions drawn in")


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    seed: int = _field(0, "of everything that is drawn", low=0, high=2**32 - 1)
    init_from: str = _field(
        "",
        "file with weights, or the folder of another run, from which training starts; empty: from "
        "scratch; see docs/pretrained.md",
    )
    profile: bool = _field(False, "trace five training steps into workdir/profile")
    compile_cache: str = _field(
        "", "folder for compiled programs, kept between runs; trust it as code"
    )
    cpu_devices: int = _field(
        0,
        "devices that JAX makes of a CPU, at most one for each core, to spread a batch over; 0: as many as "
        "JAX does without being asked, one; no effect on GPU and TPU",
        low=0,
    )
    data: Data = dataclasses.field(default_factory=Data)
    build: Mapping[str, Any] = _field(
        config_dict.FrozenConfigDict(),
        "options of the data set's builder, see data/<name>/README.md",
    )
    augment: Augment = dataclasses.field(default_factory=Augment)
    clips: Clips = dataclasses.field(default_factory=Clips)
    key: KeyClips = dataclasses.field(default_factory=KeyClips)
    model: Model = dataclasses.field(default_factory=Model)
    agreement: Agreement = dataclasses.field(default_factory=Agreement)
    loss: Loss = dataclasses.field(default_factory=Loss)
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: Train = dataclasses.field(default_factory=Train)
    predict: Predict = dataclasses.field(default_factory=Predict)


SECTIONS = {
    f.name: f.default_factory
    for f in dataclasses.fields(Config)
    if f.default_factory is not dataclasses.MISSING
}


def default() -> config_dict.ConfigDict:
    """Returns every setting at its default, as an unlocked ConfigDict to change and return."""
    tree = {f.name: getattr(Config(), f.name) for f in dataclasses.fields(Config)}
    for name, section in SECTIONS.items():
        tree[name] = dataclasses.asdict(section())
    tree["build"] = {}
    return config_dict.ConfigDict(tree)


def resolve(settings: Mapping[str, Any]) -> Config:
    """Checks settings and returns them as frozen dataclasses.

    Args:
      settings: a ConfigDict, or nested mappings, with any of the fields of `Config`.

    Raises:
      ValueError: a field is unknown, has the wrong type, is out of its limits, or contradicts another.
    """
    settings = (
        settings.to_dict() if isinstance(settings, config_dict.ConfigDict) else dict(settings)
    )
    values = {}
    for name, value in settings.items():
        if name in SECTIONS:
            values[name] = _section(SECTIONS[name], name, value)
        elif name == "build":
            values[name] = config_dict.FrozenConfigDict(value)
        else:
            values[name] = _value(Config, name, value, name)
    config = Config(**values)
    _check_together(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the settings as nested dicts of plain values, ready for JSON."""
    tree = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    tree |= {name: dataclasses.asdict(tree[name]) for name in SECTIONS}
    tree["build"] = config_dict.ConfigDict(config.build).to_dict()
    return tree


def steps(duration: str, *, steps_per_epoch: int, total_steps: int | None = None) -> int:
    """Turns a duration into a whole number of training steps, rounded up.

    Args:
      duration: such as "500 steps", "2.5 epochs" or "50 %".
      steps_per_epoch: steps that see every training video once.
      total_steps: length of the run, for durations in percent.

    Raises:
      ValueError: it is not a duration, or percent of an unknown length.
    """
    number, unit = _duration(duration)
    if unit == "%" and total_steps is None:
        raise ValueError(f"{duration!r} is a share of the run, here the length itself is asked for")
    scale = {"steps": 1, "epochs": steps_per_epoch, "%": (total_steps or 0) / 100}[unit]
    return math.ceil(round(number * scale, 6))


def folds(tested: str, count: int = 5) -> tuple[str, str]:
    """Returns the training and the test split of a cross-validation: the other folds, and this one.

    Raises:
      ValueError: there is no such fold.
    """
    numbers = [str(fold) for fold in range(1, count + 1)]
    if tested not in numbers:
        raise ValueError(f"fold {tested!r}: take one of {', '.join(numbers)}")
    return "+".join(f"fold{n}" for n in numbers if n != tested), f"fold{tested}"


def parts(fold: str) -> tuple[int, int]:
    """Turns "i/k" into i and k.

    Raises:
      ValueError: it is not of this form, or not 1 <= i <= k with k of at least 2.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", fold)
    if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise ValueError(f"{fold!r} is not a part such as 1/5 or 5/5")
    return int(match[1]), int(match[2])


def _duration(text: str) -> tuple[float, str]:
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(steps?|epochs?|%)\s*", str(text))
    if not match:
        raise ValueError(f"{text!r} is not a duration such as '500 steps', '3 epochs' or '50 %'")
    unit = match[2] if match[2] == "%" else match[2].rstrip("s") + "s"
    return float(match[1]), unit


def _section(kind: Any, name: str, values: Mapping[str, Any]) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"config.{name} is a section, not {values!r}")
    return kind(**{key: _value(kind, key, value, f"{name}.{key}") for key, value in values.items()})


def _value(kind: Any, key: str, value: Any, path: str) -> Any:
    """Checks one value against its field."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if key not in fields:
        close = difflib.get_close_matches(key, fields, n=1)
        raise ValueError(
            f"config.{path}: no such field"
            + (f". Did you mean {close[0]!r}?" if close else f"; there are {', '.join(fields)}")
        )
    field, standard = fields[key], fields[key].default
    if isinstance(standard, tuple):
        value = tuple(value) if isinstance(value, list | tuple) else value
        numbers = isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
        if not numbers or len(value) != len(standard):
            raise ValueError(f"config.{path} = {value!r}: needs {len(standard)} numbers")
    elif isinstance(standard, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif type(value) is not type(standard):
        raise ValueError(f"config.{path} = {value!r}: needs a {type(standard).__name__}")
    limits = field.metadata
    if "choices" in limits and value not in limits["choices"]:
        raise ValueError(f"config.{path} = {value!r}: allowed are {', '.join(limits['choices'])}")
    low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
    if ("low" in limits or "high" in limits) and not low <= value <= high:
        raise ValueError(f"config.{path} = {value!r}: must lie in [{low}, {high}]")
    return value


def _check_together(config: Config) -> None:
    """Raises a ValueError where fields contradict each other."""
    for path in ("loss.robust_from", "optim.warmup", "train.duration", "train.eval_every",
                 "train.save_every", "train.record_every", "train.log_every"):  # fmt: skip
        section, name = path.split(".")
        if path == "train.record_every" and not config.train.record_every:
            continue
        try:
            number, unit = _duration(getattr(getattr(config, section), name))
        except ValueError as error:
            raise ValueError(f"config.{path}: {error}") from None
        if path == "train.duration" and unit == "%":
            raise ValueError("config.train.duration: give steps or epochs, not a share of itself")
        if path.startswith("train.") and number <= 0:
            raise ValueError(f"config.{path}: must be longer than nothing")
    if config.data.fold:
        try:
            parts(config.data.fold)
        except ValueError as error:
            raise ValueError(f"config.data.fold: {error}") from None
    if "://" in config.data.frame_cache:
        raise ValueError(
            f"config.data.frame_cache = {config.data.frame_cache!r}: needs a folder on a disk of this "
            "machine, such as /dev/shm/frames"
        )
    augment = config.augment
    for name, most in (("crop_area", 1.0), ("crop_aspect", math.inf)):
        low, high = getattr(augment, name)
        if not 0 < low <= high <= most:
            raise ValueError(
                f"config.augment.{name} = {(low, high)}: needs 0 < low <= high <= {most}"
            )
    if min(augment.std) <= 0:
        raise ValueError(f"config.augment.std = {augment.std}: must be above zero")
    if config.model.width % (2 * config.model.long_heads):
        raise ValueError(
            f"config.model.width = {config.model.width}: must be a multiple of twice "
            f"config.model.long_heads = {config.model.long_heads}"
        )
    if config.loss.method == "elr" and not config.agreement.memory_decay:
        raise ValueError(
            "config.loss.method = 'elr' holds on to the memory of earlier predictions: set "
            "config.agreement.memory_decay, to 0.7 as in its paper"
        )
    is_rdfer = config.model.name == "rdfer"
    if is_rdfer and config.key.enabled and config.model.streams != "both":
        raise ValueError(
            f"config.model.streams = {config.model.streams!r}: the key expression is found by the "
            "long-term stream and read by the short-term one; set config.key.enabled to False"
        )
    if is_rdfer and config.key.enabled and config.clips.kind == "windows":
        raise ValueError(
            "config.clips.kind = 'windows': key clips are read with the long-term state of the first clip, "
            "which only views spread over the whole video; set config.key.enabled to False"
        )
    if config.clips.frames > config.data.frames:
        raise ValueError(
            f"config.clips.frames = {config.clips.frames}: a clip is drawn from the buffer of "
            f"config.data.frames = {config.data.frames} and cannot be longer"
        )
    if is_rdfer and config.key.frames > config.data.frames:
        raise ValueError(
            f"config.key.frames = {config.key.frames}: longer than config.data.frames = "
            f"{config.data.frames}"
        )
    key_frames = config.key.frames if is_rdfer else 0
    if config.model.trunk in CLIP_TRUNKS and (config.clips.frames % 4 or key_frames % 4):
        raise ValueError(
            f"config.model.trunk = {config.model.trunk!r} reads 4 frames at a time: config.clips.frames = "
            f"{config.clips.frames} and config.key.frames = {config.key.frames} must be multiples of 4"
        )
    _check_baseline(config)


def _check_baseline(config: Config) -> None:
    if config.model.name == "m3dfel" and config.model.trunk != "r3d_18":
        raise ValueError(
            f"config.model.trunk = {config.model.trunk!r}: config.model.name = 'm3dfel' reads instances of "
            "4 frames, which needs 'r3d_18'"
        )
    if config.model.name == "m3dfel" and config.clips.frames < 8:
        raise ValueError(
            f"config.clips.frames = {config.clips.frames}: config.model.name = 'm3dfel' compares instances "
            "of 4 frames and needs two of them"
        )
    if config.model.name == "resnet_lstm" and config.model.trunk in CLIP_TRUNKS:
        raise ValueError(
            f"config.model.trunk = {config.model.trunk!r}: config.model.name = 'resnet_lstm' reads single "
            "frames and needs a frame trunk, such as 'resnet18'"
        )
