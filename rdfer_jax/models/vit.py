"""Vision transformers: one trunk for the families that are pretrained on images and on videos.

Dosovitskiy et al. 2021 (arXiv 2010.11929), with the switches in which the families differ:

| trunks | weights of | tokens | pooling |
|---|---|---|---|
| `vit_*` | timm, S2D | class token, learned positions | class token |
| `mae_*` | MAE (He et al. 2022) | the same | mean |
| `dinov2_*` | DINOv2 (Oquab et al. 2023) | the same, with layer scale | class token |
| `clip_*` | CLIP (Radford et al. 2021), FaRL | the same, normalized first, QuickGELU | class token |
| `videomae_*` | VideoMAE (Tong et al. 2022), S4D | of two frames, fixed positions, no key bias | mean |
| `marlin_*` | MARLIN (Cai et al. 2023) | the same, another epsilon | mean |
| `vit_narrow`, `videovit_narrow` | none: small, for a CPU | as `mae_*`, `videomae_*` | mean |

`videomae_*`, `marlin_*` and `videovit_narrow` are video trunks: they attend over a whole clip and return a
feature of each step of two frames, the mean over the places in space, normalized. The others are image
trunks, which return a feature of each frame.

Letters: N videos, F frames, S features, H W C image, L tokens of an image or clip, D width, h heads,
d = D / h.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

_xavier = nn.initializers.xavier_uniform()


def quick_gelu(x: jax.Array) -> jax.Array:
    """x sigmoid(1.702 x), the approximation of GELU that CLIP was trained with."""
    return x * nn.sigmoid(1.702 * x)


def exact_gelu(x: jax.Array) -> jax.Array:
    """GELU by the error function."""
    return nn.gelu(x, approximate=False)


def sinusoid(length: int, width: int) -> np.ndarray:
    """Returns fixed positions, float32 [length, width], of the tokens in their order t, h, w.

    Column j of token n is sin(n / 10000^(2 floor(j / 2) / width)) for even j, the cosine for odd j:
    Vaswani et al. 2017, section 3.5, with sines and cosines interleaved, as in VideoMAE.
    """
    rate_D = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
    angle_LD = np.arange(length)[:, None] * rate_D
    table_LD = np.where(np.arange(width) % 2, np.cos(angle_LD), np.sin(angle_LD))
    return table_LD.astype(np.float32)


class LoRA(NamedTuple):
    """Low-rank updates of the layers of a block (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
      layers: names of the layers that have one: query, key, value, out, fc1, fc2.
      rank: of an update.
      alpha: updates are scaled by alpha / rank.
      dropout: rate of the dropout of their inputs.
    """

    layers: tuple[str, ...]
    rank: int
    alpha: float
    dropout: float


class Projection(nn.Module):
    """A dense layer, with or without a low-rank update (Hu et al. 2021, equation 3).

    y = x W + b + (alpha / rank) drop(x) A B, with B = 0 at first. A is `lora_down`, B is `lora_up`.

    Attributes:
      width: of the output.
      dtype: of the computation.
      use_bias: whether there is a b.
      lora: options of the update; None for none.
    """

    width: int
    dtype: Any
    use_bias: bool
    lora: LoRA | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps the last axis of x to `width`."""
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        y = dense(self.width, use_bias=self.use_bias, kernel_init=_xavier, name="dense")(x)
        if self.lora is None:
            return y
        x = nn.Dropout(self.lora.dropout, deterministic=not train)(x)
        x = dense(self.lora.rank, use_bias=False, name="lora_down")(x)
        x = dense(self.width, use_bias=False, kernel_init=nn.initializers.zeros, name="lora_up")(x)
        return y + self.lora.alpha / self.lora.rank * x


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each normalized before and added: x_NLD -> x_NLD.

    Attributes:
      heads: h.
      key_bias: whether keys have a bias; queries and values always have one.
      activation: of the perceptron, whose hidden layer has 4 D features.
      epsilon: of the normalizations.
      layer_scale: initial factor of each feature of both branches; 0 for no factors.
      drop_path: probability that a branch of a video, or frame, is left out in training (stochastic depth:
        Huang et al. 2016); the others are scaled up.
      lora: low-rank updates of its layers; None for none.
      dtype: of the computation.
    """

    heads: int
    key_bias: bool
    activation: Callable[[jax.Array], jax.Array]
    epsilon: float
    layer_scale: float
    drop_path: float
    lora: LoRA | None
    dtype: Any

    @nn.compact
    def __call__(self, x_NLD: jax.Array, train: bool) -> jax.Array:
        """Applies the block."""
        y_NLD = self._norm("norm1", x_NLD)
        x_NLD += self._branch(self._attend(y_NLD, y_NLD, train), "scale1", train)
        return x_NLD + self._branch(self._perceive(x_NLD, train), "scale2", train)

    def _norm(self, name: str, x_NLD: jax.Array) -> jax.Array:
        return nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name=name)(x_NLD)

    def _perceive(self, x_NLD: jax.Array, train: bool) -> jax.Array:
        width = x_NLD.shape[-1]
        y_NLD = self._project(self._norm("norm2", x_NLD), 4 * width, "fc1", train)
        return self._project(self.activation(y_NLD), width, "fc2", train)

    def _attend(
        self, x_NLD: jax.Array, context_NMD: jax.Array, train: bool, kind: str = ""
    ) -> jax.Array:
        """Lets tokens attend to a context; `kind` begins the names of the layers."""
        shape, width = x_NLD.shape, x_NLD.shape[-1]
        query, key, value = (
            self._project(x, width, name, train, kind).reshape(*x.shape[:2], self.heads, -1)
            for name, x in (("query", x_NLD), ("key", context_NMD), ("value", context_NMD))
        )
        y_NLhd = jax.nn.dot_product_attention(query, key, value)
        return self._project(y_NLhd.reshape(shape), width, "out", train, kind)

    def _project(
        self, x: jax.Array, width: int, name: str, train: bool, kind: str = ""
    ) -> jax.Array:
        has_bias = self.key_bias or name != "key"
        lora = self.lora if self.lora and name in self.lora.layers else None
        return Projection(width, self.dtype, has_bias, lora, name=kind + name)(x, train)

    def _branch(self, y_NLD: jax.Array, name: str, train: bool) -> jax.Array:
        """Returns what is added of a branch: scaled, and dropped for some videos."""
        if self.layer_scale:
            init = nn.initializers.constant(self.layer_scale)
            y_NLD *= self.param(name, init, y_NLD.shape[-1:]).astype(self.dtype)
        drop = nn.Dropout(
            self.drop_path, (1, 2), deterministic=not train, rng_collection="drop_path"
        )
        return drop(y_NLD)


def blocks(
    x_NLD: jax.Array,
    train: bool,
    kind: type[Block] = Block,
    *,
    depth: int,
    drop_path: float,
    remat: bool,
    **options: Any,
) -> jax.Array:
    """Applies blocks one after the other; their parameters are block0, block1, ... of the calling module.

    Args:
      x_NLD: tokens.
      train: whether to drop branches.
      kind: of the blocks.
      depth: number of blocks.
      drop_path: rate of the last block; that of the others rises linearly from 0.
      remat: see ViT.
      **options: the other attributes of Block.
    """
    # Argument 2, counting self, is `train`: it must stay a Python bool and not become a tracer.
    block = nn.remat(kind, static_argnums=(2,)) if remat else kind
    for i, rate in enumerate(np.linspace(0, drop_path, depth)):
        x_NLD = block(**options, drop_path=float(rate), name=f"block{i}")(x_NLD, train)
    return x_NLD


class Embedding(nn.Module):
    """Frames, or tubelets of frames -> tokens in the order t, h, w, with their positions.

    Attributes:
      width: D.
      patch: side of a patch, pixels.
      tubelet: frames of a token.
      class_token: whether a learned token comes first.
      learned: whether positions are learned, one for each token of an image; else `sinusoid`.
      use_bias: of the projection of a patch.
      dtype: of the computation.
    """

    width: int
    patch: int
    tubelet: int
    class_token: bool
    learned: bool
    use_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, frames_NTHWC: jax.Array) -> jax.Array:
        """Embeds images (T = 1) or clips: x_NLD.

        Raises:
          ValueError: H or W is not a multiple of patch.
        """
        height, width = frames_NTHWC.shape[2:4]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"config.augment.size: expected a multiple of {self.patch}, the patch of "
                f"config.model.trunk in pixels, got frames of {height} x {width}"
            )
        shape: tuple[int, ...] = (self.patch, self.patch)
        x = frames_NTHWC
        if self.tubelet > 1:
            shape = (self.tubelet, *shape)
        else:
            x = x[:, 0]
        x = nn.Conv(
            self.width,
            shape,
            shape,
            "VALID",
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="patch",
        )(x)
        x_NLD = x.reshape(x.shape[0], -1, self.width)
        if self.class_token:
            token_D = self.param("class_token", nn.initializers.normal(0.02), (self.width,))
            first_N1D = jnp.broadcast_to(token_D.astype(self.dtype), (x.shape[0], 1, self.width))
            x_NLD = jnp.concatenate([first_N1D, x_NLD], axis=1)
        if self.learned:
            positions_LD = self.param("positions", nn.initializers.normal(0.02), x_NLD.shape[1:])
        else:
            positions_LD = jnp.asarray(sinusoid(*x_NLD.shape[1:]))
        return x_NLD + positions_LD.astype(self.dtype)


class ViT(nn.Module):
    """A vision transformer applied to the frames of videos, or to clips; see the module's docstring.

    Attributes:
      width: D.
      depth: number of blocks.
      heads: h.
      patch: side of a patch, pixels.
      dtype: of the computation; parameters and features are float32.
      frames_per_feature: 1 for images; else the frames of a tubelet.
      class_token, learned: see Embedding.
      patch_bias: its use_bias.
      pool: the feature is the class token, or the mean of the other tokens of a frame or step.
      pre_norm: whether tokens are normalized before the first block.
      key_bias, activation, epsilon, layer_scale: see Block.
      drop_path: its rate in the last block; that of the others rises linearly from 0.
      lora: see Block.
      remat: recompute each block's activations in the backward pass instead of storing them.
      frozen: no dropping in training.
    """

    width: int
    depth: int
    heads: int
    patch: int
    dtype: Any
    frames_per_feature: int = 1
    class_token: bool = True
    learned: bool = True
    patch_bias: bool = True
    pool: str = "class"
    pre_norm: bool = False
    key_bias: bool = True
    activation: Callable[[jax.Array], jax.Array] = exact_gelu
    epsilon: float = 1e-6
    layer_scale: float = 0.0
    drop_path: float = 0.0
    lora: LoRA | None = None
    remat: bool = False
    frozen: bool = False

    block_type = Block

    @property
    def tubelet(self) -> int:
        """Frames of a token."""
        return self.frames_per_feature

    @property
    def features(self) -> int:
        """D, the size of a feature vector."""
        return self.width

    def block_options(self) -> dict[str, Any]:
        """Returns the attributes of Block that a decoder of this trunk's tokens has, too, but for heads."""
        names = ("key_bias", "activation", "epsilon", "dtype")
        return {name: getattr(self, name) for name in names}

    @nn.compact
    def __call__(
        self, frames_NFHWC: jax.Array, train: bool, visible_NV: jax.Array | None = None
    ) -> jax.Array:
        """Computes the features of all frames, or of all steps of clips, in one pass.

        Args:
          frames_NFHWC: float frames, normalized, in time order.
          train: whether to drop branches, by the rngs "drop_path" and, for LoRA, "dropout".
          visible_NV: int, for masked pretraining of a video trunk: places of the only tokens that are read;
            None for all.

        Returns:
          features_NSD float32, S = F / frames_per_feature; or with visible_NV the normalized tokens
          [N, V, D] float32, not pooled.

        Raises:
          ValueError: F is not a multiple of frames_per_feature, or H or W not one of patch.
        """
        videos, frames, *image = frames_NFHWC.shape
        tubelet, train = self.tubelet, train and not self.frozen
        if frames % self.frames_per_feature:
            raise ValueError(
                f"{frames} frames cannot be split into tubelets of {self.frames_per_feature}"
            )
        x = frames_NFHWC.astype(self.dtype)
        if tubelet == 1:
            x = x.reshape(-1, 1, *image)
        x_NLD = Embedding(
            self.width, self.patch, tubelet, self.class_token, self.learned, self.patch_bias,
            self.dtype, name="embedding",
        )(x)  # fmt: skip
        norm = functools.partial(nn.LayerNorm, epsilon=self.epsilon, dtype=self.dtype)
        if self.pre_norm:
            x_NLD = norm(name="pre_norm")(x_NLD)
        if visible_NV is not None:
            x_NLD = jnp.take_along_axis(x_NLD, visible_NV[..., None], axis=1)
        steps = frames // tubelet if tubelet > 1 else 1
        x = self._arranged(x_NLD, steps, image[0] // self.patch, image[1] // self.patch)
        x = blocks(
            x, train, self.block_type, depth=self.depth, drop_path=self.drop_path, remat=self.remat,
            heads=self.heads, layer_scale=self.layer_scale, lora=self.lora, **self.block_options(),
        )  # fmt: skip
        norm_last = norm(name="norm", dtype=jnp.float32)
        if visible_NV is not None:
            return norm_last(x)
        features = norm_last(self._pooled(x, steps))
        return features.reshape(videos, frames // self.frames_per_feature, self.width)

    def _arranged(self, x_NLD: jax.Array, steps: int, rows: int, columns: int) -> jax.Array:
        """Returns what the blocks read, of the tokens of a grid of steps, rows and columns."""
        return x_NLD

    def _pooled(self, x_NLD: jax.Array, steps: int) -> jax.Array:
        """Returns the features before the last normalization: [N, S, D], float32."""
        if self.pool == "class":
            return x_NLD[:, :1].astype(jnp.float32)
        x_NLD = x_NLD[:, int(self.class_token) :].astype(jnp.float32)
        return jnp.mean(x_NLD.reshape(x_NLD.shape[0], steps, -1, self.width), axis=2)


def depth_of(path: Sequence[str], depth: int) -> int:
    """Returns the layer of a parameter: 0 for the embedding, i + 1 for block i, depth + 1 for the rest.

    Args:
      path: names on the way to the parameter below "params".
      depth: number of blocks of the trunk.
    """
    if path[0] != "trunk" or path[1] == "norm":
        return depth + 1
    return int(path[1].removeprefix("block")) + 1 if path[1].startswith("block") else 0


#: Width, blocks and heads.
_SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "h": (1280, 32, 16)}


def _family(name: str, sizes: str, **switches: Any) -> dict[str, Callable[..., nn.Module]]:
    """Returns the trunks of a family by name, for sizes such as "s16 b16"."""
    trunks: dict[str, Callable[..., nn.Module]] = {}
    for size in sizes.split():
        width, depth, heads = _SIZES[size[0]]
        shape: dict[str, Any] = {
            "width": width,
            "depth": depth,
            "heads": heads,
            "patch": int(size[1:]),
        }
        trunks[f"{name}_{size}"] = functools.partial(ViT, **shape, **switches)
    return trunks


#: The switches of a transformer of tubelets of two frames.
VIDEO: dict[str, Any] = {
    "frames_per_feature": 2,
    "class_token": False,
    "learned": False,
    "pool": "mean",
    "key_bias": False,
}
_CLIP: dict[str, Any] = {
    "patch_bias": False,
    "pre_norm": True,
    "activation": quick_gelu,
    "epsilon": 1e-5,
}
_NARROW: dict[str, Any] = {"width": 64, "depth": 2, "heads": 4, "patch": 8}

#: Name of a trunk -> its constructor, see `trunks.create`.
TRUNKS: dict[str, Callable[..., nn.Module]] = {
    "vit_narrow": functools.partial(ViT, **_NARROW, pool="mean"),
    "videovit_narrow": functools.partial(ViT, **_NARROW, **VIDEO),
    **_family("vit", "s16 b16 l16"),
    **_family("mae", "b16 l16 h14", pool="mean"),
    **_family("dinov2", "s14 b14 l14", layer_scale=1e-5),
    **_family("clip", "b32 b16 l14", **_CLIP),
    **_family("videomae", "s16 b16 l16 h16", **VIDEO),
    **_family("marlin", "s16 b16 l16", **VIDEO, epsilon=1e-5),
}
