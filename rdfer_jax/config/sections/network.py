"""Settings of the network."""

import dataclasses
import typing
from typing import Literal

from rdfer_jax.config.sections.base import Section, field

FrameResNet = Literal["resnet8_narrow", "resnet10_narrow", "resnet18", "resnet50"]
ClipResNet = Literal["r3d_18", "r2plus1d_18"]
# fmt: off
FrameViT = Literal[
    "vit_narrow", "vit_s16", "vit_b16", "vit_l16", "mae_b16", "mae_l16", "mae_h14",
    "dinov2_s14", "dinov2_b14", "dinov2_l14", "clip_b32", "clip_b16", "clip_l14",
]
ClipViT = Literal[
    "videovit_narrow", "videomae_s16", "videomae_b16", "videomae_l16", "videomae_h16",
    "marlin_s16", "marlin_b16", "marlin_l16",
]
RegionViT = Literal["maedfer_b16"]
# fmt: on
#: Trunks that read several frames at a time -> how many. The others read single frames.
CLIP_TRUNKS: dict[str, int] = (
    {name: 4 for name in typing.get_args(ClipResNet)}
    | {name: 2 for name in typing.get_args(ClipViT)}
    | {name: 4 for name in typing.get_args(RegionViT)}
)
#: Trunks whose clips all have the same number of frames.
FIXED_CLIPS: tuple[str, ...] = typing.get_args(RegionViT)
#: Vision transformers.
VITS: tuple[str, ...] = (
    *typing.get_args(FrameViT),
    *typing.get_args(ClipViT),
    *typing.get_args(RegionViT),
)
#: Layers of a block of a vision transformer.
VIT_LAYERS = ("query", "key", "value", "out", "fc1", "fc2")


@dataclasses.dataclass(frozen=True)
class KeyClips(Section):
    """Key expression re-sampling (KER)."""

    enabled: bool = field(True, "re-sample each video around its key expression")
    number: int = field(
        4, "M, key instants per video, each the center of a key clip", low=1, auto=True
    )
    frames: int = field(4, "consecutive frames per key clip", low=1)
    min_gap: float = field(
        0.05,
        "smallest gap between key instants, as a fraction of the video's length",
        low=0,
        high=1,
    )
    consensus: Literal["memory", "clips"] = field(
        "memory",
        "whose consensus the key expression is in training; memory: of the predictions over the epochs, "
        "where there is a memory; clips: of the present clips, as in prediction",
    )
    train_towards: Literal["target", "choice"] = field(
        "target",
        "which key instants have a loss; target: all of them; choice: only those of videos whose key "
        "expression is the likeliest class of the target, so that no instant is trained towards another "
        "class than it was chosen for",
    )


@dataclasses.dataclass(frozen=True)
class Model(Section):
    """The network."""

    name: Literal["rdfer", "m3dfel", "resnet_lstm"] = field(
        "rdfer",
        "the network; m3dfel (needs trunk r3d_18) and resnet_lstm (needs a frame trunk) are baselines "
        "that ignore config.key",
    )
    trunk: Literal[FrameResNet, ClipResNet, FrameViT, ClipViT, RegionViT] = field(
        "resnet18", "the network that turns frames into features", auto=True
    )
    dtype: Literal["auto", "float32", "bfloat16"] = field(
        "auto", "compute dtype; auto: bfloat16 on TPU and GPU, float32 on CPU"
    )
    shift: bool = field(
        True,
        "temporal shift: the blocks of a ResNet of frames see neighboring frames; without it, or in "
        "resnet_lstm, each frame is read by itself",
    )
    drop_path: float = field(
        0.0,
        "stochastic depth of a vision transformer: rate at which branches of its last block are left out "
        "in training, rising linearly from 0 in the first",
        low=0,
        high=0.9,
    )
    freeze: Literal["none", "trunk"] = field(
        "none", "what keeps its initial weights; trunk: the trunk, except for its low-rank updates"
    )
    lora_rank: int = field(
        0, "LoRA: rank of the updates of a vision transformer's layers; 0: none", low=0
    )
    lora_alpha: float = field(32.0, "LoRA: updates are scaled by lora_alpha / lora_rank", low=0)
    lora_dropout: float = field(0.1, "LoRA: dropout rate of the inputs", low=0, high=0.9)
    lora_layers: str = field(
        "query+key+value+out+fc1+fc2", "LoRA: the layers of a block with updates, joined by +"
    )
    remat: bool = field(
        False,
        "recompute the trunk's blocks in the backward pass, which saves memory",
        affects_training=False,
    )
    width: int = field(
        256, "features of the two streams, or of the LSTM in resnet_lstm", low=8, auto=True
    )
    short_layers: int = field(2, "layers of the short-term stream", low=1)
    short_kernel: int = field(3, "temporal kernel size of a short-term layer, frames", low=1)
    long_layers: int = field(2, "layers of the long-term stream", low=1, auto=True)
    long_heads: int = field(4, "attention heads of the long-term stream", low=1)
    instants: int = field(16, "I, instants of the long-term stream per clip", low=1, auto=True)
    streams: Literal["both", "short", "long"] = field(
        "both",
        "the streams that read a clip; short and long are for ablations and need key.enabled False",
    )
    gate: bool = field(True, "gate the short-term stream by the long-term stream")
    dropout: float = field(0.1, "dropout rate before the classifiers", low=0, high=0.9)

    def check(self) -> None:
        """Checks that the network's parts fit together; see Section."""
        if self.width % (2 * self.long_heads):
            raise ValueError(
                "config.model.width: expected a multiple of 2 x config.model.long_heads = "
                f"{2 * self.long_heads}, got {self.width}"
            )
        unknown = sorted(set(self.lora_layers.split("+")) - set(VIT_LAYERS))
        if unknown:
            raise ValueError(
                f"config.model.lora_layers: expected some of {'+'.join(VIT_LAYERS)}, got {unknown[0]!r}"
            )
        for name in ("drop_path", "lora_rank"):
            if getattr(self, name) and self.trunk not in VITS:
                raise ValueError(
                    f"config.model.{name}: expected 0 for config.model.trunk = {self.trunk!r}, which is no "
                    f"vision transformer, got {getattr(self, name)}"
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
class Pretrain(Section):
    """Masked pretraining of a video transformer without labels (rdfer pretrain)."""

    mask_ratio: float = field(
        0.9,
        "share of the patches of a frame that are masked, the same in all frames",
        low=0,
        high=1,
    )
    target: Literal["pixels", "difference"] = field(
        "pixels",
        "what is predicted of a token; pixels: its frames, as in VideoMAE; difference: its first frame and "
        "the difference of the others to it, as in MAE-DFER",
    )
    decoder_width: int = field(384, "features of the decoder", low=8)
    decoder_depth: int = field(4, "blocks of the decoder", low=1)
    decoder_heads: int = field(6, "attention heads of the decoder", low=1)

    def check(self) -> None:
        """Checks the decoder's heads; see Section."""
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"config.pretrain.decoder_width: expected a multiple of config.pretrain.decoder_heads = "
                f"{self.decoder_heads}, got {self.decoder_width}"
            )
