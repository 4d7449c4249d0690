"""Trunks: a feature vector for each frame, or for each few frames of a clip.

Frame trunks are 2-D ResNets (He et al. 2016, arXiv 1512.03385) with temporal shift (TSM: Lin, Gan
and Han 2019, arXiv 1811.08383). `r3d_18` and `r2plus1d_18` are the 3-D ResNet-18 and the R(2+1)D-18
of Tran et al. 2018 (arXiv 1711.11248), applied to snippets of four consecutive frames as in M3DFEL (CVPR
2023). Vision transformers are in `vit` and `lgi`.

Architectures and parameter names follow torchvision: its `layer1.0.conv1.weight` is
`params/layer1_0/conv1/kernel` here, `downsample.0` is `downsample_conv`, `downsample.1` is
`downsample_bn`, and the stem of every trunk is `conv1` and `bn1`. A split `conv1` is `conv1_space`,
`conv1_bn` and `conv1_time`. Kernels here are [(kt,) kh, kw, cin, cout].

Letters: N videos, F frames of a buffer in time order, T frames of a clip, S snippets, H W C image,
D features.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from rdfer_jax.models import lgi, vit
from rdfer_jax.models.convolution import conv3d

# He et al. 2015 (arXiv 1502.01852), the fan-out variant that torchvision uses for ResNets.
_kaiming = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def temporal_shift(x_NFHWC: jax.Array, parts: int = 8) -> jax.Array:
    """Shifts 1/parts of the channels one frame back in time and another 1/parts one frame forward.

    Channels [0, C // parts) of frame t come from frame t + 1, the next C // parts from frame t - 1, and
    the rest stay. Frames outside the video count as zeros (TSM, section 3). Same shape and dtype.
    """
    fold = x_NFHWC.shape[-1] // parts
    later = x_NFHWC[:, 1:, ..., :fold]
    earlier = x_NFHWC[:, :-1, ..., fold : 2 * fold]
    zeros = jnp.zeros_like(x_NFHWC[:, :1, ..., :fold])
    return jnp.concatenate(
        [
            jnp.concatenate([later, zeros], axis=1),
            jnp.concatenate([zeros, earlier], axis=1),
            x_NFHWC[..., 2 * fold :],
        ],
        axis=-1,
    )


def _conv(width: int, kernel: tuple[int, ...], strides: tuple[int, ...], dtype: Any, name: str):
    """Returns a convolution without bias, padded by half a kernel on each side (unlike 'SAME').

    A kernel of rank 2 treats frames as independent examples; one of rank 3 spans frames.
    """
    padding = [(k // 2, k // 2) for k in kernel]
    return nn.Conv(
        width,
        kernel,
        strides,
        padding,
        use_bias=False,
        dtype=dtype,
        kernel_init=_kaiming,
        conv_general_dilated=conv3d if len(kernel) == 3 else None,
        name=name,
    )


def _split_conv(
    x: jax.Array,
    middle: int,
    width: int,
    kernel: int,
    strides: tuple[int, ...],
    train: bool,
    dtype: Any,
    name: str,
) -> jax.Array:
    """Convolves in space to `middle` channels, then over three frames. Called inside a module."""
    time, *space = strides
    x = _conv(middle, (1, kernel, kernel), (1, *space), dtype, f"{name}_space")(x)
    x = nn.relu(_norm(train, dtype, f"{name}_bn")(x))
    return _conv(width, (3, 1, 1), (time, 1, 1), dtype, f"{name}_time")(x)


def _norm(train: bool, dtype: Any, name: str):
    """Returns batch normalization over the global batch; the statistics are always float32."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        name=name,
    )


class BasicBlock(nn.Module):
    """Two 3x3 (or 3x3x3) convolutions and a shortcut: x_NFHWC -> [N, F', H', W', width].

    Attributes:
      width: output channels.
      stride: of the first convolution, along all of its axes.
      rank: 2 for convolutions of single frames, with temporal shift; 3 for convolutions over time too.
      dtype: of the computation.
      shift: whether to apply temporal shift in a block of rank 2. Without it, frames do not mix.
    """

    width: int
    stride: int
    rank: int
    dtype: Any
    shift: bool = True
    expansion = 1

    @nn.compact
    def __call__(self, x_NFHWC: jax.Array, train: bool) -> jax.Array:
        """Applies the block."""
        strides, ones, cin = (self.stride,) * self.rank, (1,) * self.rank, x_NFHWC.shape[-1]
        y = temporal_shift(x_NFHWC) if self.rank == 2 and self.shift else x_NFHWC
        y = self._convolve(y, cin, strides, train, "conv1")
        y = nn.relu(_norm(train, self.dtype, "bn1")(y))
        y = self._convolve(y, cin, ones, train, "conv2")
        y = _norm(train, self.dtype, "bn2")(y)
        return nn.relu(y + _shortcut(x_NFHWC, y, strides, train, self.dtype))

    def _convolve(
        self, x: jax.Array, cin: int, strides: tuple[int, ...], train: bool, name: str
    ) -> jax.Array:
        """Applies one of the two convolutions of a block with cin input channels."""
        return _conv(self.width, (3,) * self.rank, strides, self.dtype, name)(x)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width: x_NFHWC -> [N, F, H', W', 4 width].

    Attributes: as in BasicBlock; `width` is that of the narrow part.
    """

    width: int
    stride: int
    rank: int
    dtype: Any
    shift: bool = True
    expansion = 4

    @nn.compact
    def __call__(self, x_NFHWC: jax.Array, train: bool) -> jax.Array:
        """Applies the block."""
        kernel, strides, ones = (3,) * self.rank, (self.stride,) * self.rank, (1,) * self.rank
        y = temporal_shift(x_NFHWC) if self.rank == 2 and self.shift else x_NFHWC
        y = _conv(self.width, ones, ones, self.dtype, "conv1")(y)
        y = nn.relu(_norm(train, self.dtype, "bn1")(y))
        y = _conv(self.width, kernel, strides, self.dtype, "conv2")(y)
        y = nn.relu(_norm(train, self.dtype, "bn2")(y))
        y = _conv(self.width * self.expansion, ones, ones, self.dtype, "conv3")(y)
        y = _norm(train, self.dtype, "bn3")(y)
        return nn.relu(y + _shortcut(x_NFHWC, y, strides, train, self.dtype))


class SplitBlock(BasicBlock):
    """A BasicBlock of rank 3 whose convolutions are factorized into one in space and one over time.

    The number of channels in between gives the block's first convolution as many weights as an
    unfactorized one has (Tran et al. 2018, section 3.5). The second convolution uses the same number.
    """

    def _convolve(
        self, x: jax.Array, cin: int, strides: tuple[int, ...], train: bool, name: str
    ) -> jax.Array:
        middle = 27 * cin * self.width // (9 * cin + 3 * self.width)
        return _split_conv(x, middle, self.width, 3, strides, train, self.dtype, name)


def _shortcut(x: jax.Array, y: jax.Array, strides: tuple[int, ...], train: bool, dtype: Any):
    """Returns x, projected if the block changes the shape. Called inside a block."""
    if max(strides) == 1 and x.shape[-1] == y.shape[-1]:
        return x
    x = _conv(y.shape[-1], (1,) * len(strides), strides, dtype, "downsample_conv")(x)
    return _norm(train, dtype, "downsample_bn")(x)


class ResNet(nn.Module):
    """A ResNet applied to the frames of videos, or to snippets of `frames_per_feature` frames.

    Attributes:
      depths: blocks in each stage.
      widths: width of each stage; stages after the first halve the resolution.
      dtype: of the computation; parameters, batch statistics and features are float32.
      block: BasicBlock, Bottleneck or SplitBlock.
      stem_kernel: of the first convolution, whose stride is 2 in space and 1 in time. All convolutions
        have its rank, 2 or 3.
      stem_middle: channels between the two convolutions of a factorized stem (rank 3); 0 for one
        convolution.
      max_pool: whether a 3x3 max pool of stride 2 follows the stem.
      patch: side of the squares of pixels that are folded into channels before the stem. The lower
        resolution makes convolutions fast on a CPU.
      embed: size of a final dense layer over the flattened feature map; 0 for global average pooling.
      frames_per_feature: 1 for a frame trunk, else the frames of a snippet.
      remat: recompute each block's activations in the backward pass instead of storing them.
      shift: whether a frame trunk's blocks see neighboring frames, by temporal shift.
      frozen: normalize by the running statistics in training, too, and leave them as they are.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: Any
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock
    stem_kernel: tuple[int, ...] = (7, 7)
    stem_middle: int = 0
    max_pool: bool = True
    patch: int = 1
    embed: int = 0
    frames_per_feature: int = 1
    remat: bool = False
    shift: bool = True
    frozen: bool = False

    @property
    def features(self) -> int:
        """D, the size of a feature vector."""
        return self.embed or self.widths[-1] * self.block.expansion

    @nn.compact
    def __call__(self, frames_NFHWC: jax.Array, train: bool) -> jax.Array:
        """Computes the features of all frames, or snippets, in one pass.

        Args:
          frames_NFHWC: float frames, normalized, in time order.
          train: normalize by the statistics of this batch and update the running ones.

        Returns:
          features_NSD float32, S = F / frames_per_feature.

        Raises:
          ValueError: F is not a multiple of frames_per_feature, or H or W not one of patch.
        """
        videos, frames = frames_NFHWC.shape[:2]
        snippet, rank = self.frames_per_feature, len(self.stem_kernel)
        train = train and not self.frozen
        if frames % snippet:
            raise ValueError(f"{frames} frames cannot be split into snippets of {snippet}")
        x = frames_NFHWC.astype(self.dtype)
        if snippet > 1:
            x = x.reshape(videos * frames // snippet, snippet, *x.shape[2:])

        x = space_to_depth(x, self.patch)
        width = self.widths[0]
        if self.stem_middle:
            size = self.stem_kernel[-1]
            x = _split_conv(x, self.stem_middle, width, size, (1, 2, 2), train, self.dtype, "conv1")
        else:
            strides = (1,) * (rank - 2) + (2, 2)
            x = _conv(width, self.stem_kernel, strides, self.dtype, "conv1")(x)
        x = nn.relu(_norm(train, self.dtype, "bn1")(x))
        if self.max_pool:
            x = nn.max_pool(x, (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)))

        # Argument 2, counting self, is `train`: it must stay a Python bool and not become a tracer.
        block = nn.remat(self.block, static_argnums=(2,)) if self.remat else self.block
        options = (rank, self.dtype, self.shift)
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                x = block(width, stride, *options, name=name)(x, train)

        if self.embed:
            x = nn.Dense(self.embed, use_bias=False, dtype=self.dtype, name="embed")(
                x.reshape(videos * frames // snippet, -1)
            )
            x = _norm(train, self.dtype, "bn_embed")(x).astype(jnp.float32)
        else:
            x = x.astype(jnp.float32).mean(axis=tuple(range(-1 - rank, -1)))
        return x.reshape(videos, frames // snippet, self.features)


def space_to_depth(x: jax.Array, patch: int) -> jax.Array:
    """Folds squares of pixels into channels: [..., H, W, C] -> [..., H / p, W / p, p p C].

    Raises:
      ValueError: H or W is not a multiple of p.
    """
    if patch == 1:
        return x
    *lead, height, width, channels = x.shape
    if height % patch or width % patch:
        raise ValueError(
            f"frames of {height} x {width} pixels cannot be split into squares of {patch} pixels"
        )
    x = x.reshape(*lead, height // patch, patch, width // patch, patch, channels)
    return jnp.moveaxis(x, -4, -3).reshape(
        *lead, height // patch, width // patch, patch * patch * channels
    )


_r3d_18 = functools.partial(
    ResNet,
    depths=(2, 2, 2, 2),
    widths=(64, 128, 256, 512),
    stem_kernel=(3, 7, 7),
    max_pool=False,
    frames_per_feature=4,
)

#: Name of a trunk -> its constructor, which takes dtype, remat, shift and frozen.
TRUNKS: dict[str, Callable[..., nn.Module]] = {
    "resnet8_narrow": functools.partial(
        ResNet,
        depths=(1, 2),
        widths=(48, 96),
        stem_kernel=(3, 3),
        max_pool=False,
        patch=4,
        embed=128,
    ),
    "resnet10_narrow": functools.partial(
        ResNet,
        depths=(1, 1, 1, 1),
        widths=(32, 64, 128, 256),
        stem_kernel=(3, 3),
        max_pool=False,
    ),
    "resnet18": functools.partial(ResNet, depths=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "resnet50": functools.partial(
        ResNet, depths=(3, 4, 6, 3), widths=(64, 128, 256, 512), block=Bottleneck
    ),
    "r3d_18": _r3d_18,
    "r2plus1d_18": functools.partial(_r3d_18, block=SplitBlock, stem_middle=45),
}

_VITS = vit.TRUNKS | lgi.TRUNKS

NAMES = (*TRUNKS, *_VITS)


def create(
    name: str,
    *,
    dtype: Any,
    remat: bool = False,
    shift: bool = True,
    drop_path: float = 0.0,
    lora: vit.LoRA | None = None,
    frozen: bool = False,
) -> nn.Module:
    """Returns a trunk by name: a Linen module, called as `trunk(frames_NFHWC, train)`.

    Args:
      name: resnet8_narrow (for a CPU; 3.7 million multiplications per frame at 48 px), resnet10_narrow (of
        the packaged weights), resnet18, resnet50, r3d_18 or r2plus1d_18 (414, 1004, 1801 and 2365 million
        per frame at 112 px), or one of `vit` or `lgi`.
      dtype: of the computation, float32 or bfloat16.
      remat: see ResNet.
      shift: see ResNet; a vision transformer has none.
      drop_path, lora: see vit.ViT; a ResNet has none.
      frozen: see ResNet and vit.ViT.

    Raises:
      ValueError: the name is unknown, or a ResNet should have drop_path or lora.
    """
    if name in _VITS:
        return _VITS[name](dtype=dtype, remat=remat, drop_path=drop_path, lora=lora, frozen=frozen)
    if name not in TRUNKS:
        raise ValueError(f"unknown trunk {name!r}; choose from {', '.join(NAMES)}")
    if drop_path or lora:
        raise ValueError(f"drop_path and lora: expected a vision transformer, got {name!r}")
    return TRUNKS[name](dtype=dtype, remat=remat, shift=shift, frozen=frozen)
