"""Masked pretraining of a video transformer, without labels.

VideoMAE (Tong et al. 2022, arXiv 2203.12602): the trunk reads few of a clip's tokens, the same places in
all steps (tube masking), and a small decoder predicts the pixels of the others, normalized by the mean and
the standard deviation of each color of each token, as in its authors' code. With the target "difference",
which is MAE-DFER's (Sun et al. 2023, arXiv 2307.02227), all frames of a token but the first are replaced
by their difference to the first, after the normalization.

`create` returns it as pure functions, `named` the arrays by the names of VideoMAE's authors.

Letters: N clips, T frames, H W C image, S steps of a tubelet, L tokens of a clip in the order t, h, w, of
which V are visible and M masked, D width, X = values of a token: frames, rows, columns, colors.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from rdfer_jax.config import CLIP_TRUNKS, FIXED_CLIPS, VITS, Config, Pretrain
from rdfer_jax.models import Variables, compute_dtype, trunks, vit, vit_names

#: Added to the standard deviation that a token is divided by.
_EPSILON = 1e-6


class Decoder(nn.Module):
    """Tokens of a whole clip -> values of the masked ones.

    Attributes:
      trunk: the encoder, whose kind of blocks it has.
      settings: width, depth and heads.
    """

    trunk: vit.ViT
    settings: Pretrain

    @nn.compact
    def __call__(self, x_NLD: jax.Array, masked: int, train: bool) -> jax.Array:
        """Returns the values of the last `masked` tokens, float32 [N, M, X]."""
        trunk = self.trunk
        x_NLD = vit.blocks(
            x_NLD, train, depth=self.settings.decoder_depth, heads=self.settings.decoder_heads,
            drop_path=0.0, remat=trunk.remat, layer_scale=0.0, lora=None, **trunk.block_options(),
        )  # fmt: skip
        norm = nn.LayerNorm(epsilon=trunk.epsilon, dtype=jnp.float32, name="norm")
        values = trunk.frames_per_feature * trunk.patch**2 * 3
        head = nn.Dense(values, kernel_init=nn.initializers.xavier_uniform(), name="head")
        return head(norm(x_NLD[:, -masked:]))


class MaskedAutoencoder(nn.Module):
    """Clips of which few tokens are visible -> values of the others.

    Attributes:
      trunk: the encoder, a video transformer.
      settings: of the decoder.
    """

    trunk: vit.ViT
    settings: Pretrain

    @nn.compact
    def __call__(
        self, clips_NTHWC: jax.Array, visible_NV: jax.Array, masked_NM: jax.Array, train: bool
    ) -> jax.Array:
        """Predicts the masked tokens.

        Args:
          clips_NTHWC: float, normalized.
          visible_NV, masked_NM: int, places of the tokens.
          train: as for the trunk.

        Returns:
          values_NMX, float32.
        """
        dtype, width = self.trunk.dtype, self.settings.decoder_width
        tokens_NVD = self.trunk(clips_NTHWC, train, visible_NV).astype(dtype)
        dense = nn.Dense(width, use_bias=False, dtype=dtype, name="encoder_to_decoder")
        token_D = self.param("mask_token", nn.initializers.normal(0.02), (width,)).astype(dtype)
        length = visible_NV.shape[1] + masked_NM.shape[1]
        positions_LD = jnp.asarray(vit.sinusoid(length, width), dtype)
        x_NLD = jnp.concatenate(
            [dense(tokens_NVD) + positions_LD[visible_NV], token_D + positions_LD[masked_NM]],
            axis=1,
        )
        decoder = Decoder(self.trunk, self.settings, name="decoder")
        return decoder(x_NLD, masked_NM.shape[1], train)


class Pretraining(NamedTuple):
    """Masked pretraining as pure functions.

    Attributes:
      init: rng -> variables, a dict with "params", of which "trunk" is the trunk's.
      loss: (params, clips_NTHWC, keys_N, rng) -> loss_N, float32. The clips are float32 and normalized by
        config.augment; a key of a clip decides what is masked; rng is for stochastic depth.
    """

    init: Callable[[jax.Array], Variables]
    loss: Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]


def create(config: Config, platform: str) -> Pretraining:
    """Returns the configured pretraining on "cpu", "gpu" or "tpu".

    Raises:
      ValueError: config.model.trunk is no video transformer, or config.pretrain.mask_ratio leaves nothing
        visible or nothing masked. `init` raises it if config.augment.size is not a multiple of the patch.
    """
    name, settings, size = config.model.trunk, config.pretrain, config.augment.size
    video = [trunk for trunk in VITS if trunk in CLIP_TRUNKS and trunk not in FIXED_CLIPS]
    if name not in video:
        raise ValueError(
            f"config.model.trunk: expected a video transformer for pretraining, one of "
            f"{', '.join(video)}, got {name!r}"
        )
    trunk = trunks.create(
        name,
        dtype=compute_dtype(config, platform),
        remat=config.model.remat,
        drop_path=config.model.drop_path,
    )
    assert isinstance(trunk, vit.ViT)
    places = (size // trunk.patch) ** 2
    hidden = num_masked(places, settings.mask_ratio)
    if not 0 < hidden < places:
        raise ValueError(
            f"config.pretrain.mask_ratio: {settings.mask_ratio} of the {places} patches of a frame are "
            f"{hidden}; expected at least one patch to be masked and one to be visible: change it, or "
            "config.augment.size"
        )
    steps = config.clips.frames // trunk.frames_per_feature
    module = MaskedAutoencoder(trunk, settings)

    def init(rng: jax.Array) -> Variables:
        clips = jnp.zeros((1, config.clips.frames, size, size, 3))
        visible, masked = tube_masks(jax.random.split(rng, 1), steps, places, settings.mask_ratio)
        return module.init(rng, clips, visible, masked, train=False)

    def loss(params: Any, clips_NTHWC: jax.Array, keys_N: jax.Array, rng: jax.Array) -> jax.Array:
        visible_NV, masked_NM = tube_masks(keys_N, steps, places, settings.mask_ratio)
        rngs = {"drop_path": rng}
        predicted_NMX: Any = module.apply(
            {"params": params}, clips_NTHWC, visible_NV, masked_NM, train=True, rngs=rngs
        )
        target_NLX = targets(
            clips_NTHWC * np.array(config.augment.std, np.float32),
            trunk.frames_per_feature,
            trunk.patch,
            settings.target,
        )
        target_NMX = jnp.take_along_axis(target_NLX, masked_NM[..., None], axis=1)
        return jnp.mean(jnp.square(predicted_NMX - target_NMX), axis=(1, 2))

    return Pretraining(init, loss)


def num_masked(places: int, ratio: float) -> int:
    """Returns how many of the patches of a frame are masked, rounded down as VideoMAE does."""
    return int(round(ratio * places, 6))


def tube_masks(
    keys_N: jax.Array, steps: int, places: int, ratio: float
) -> tuple[jax.Array, jax.Array]:
    """Draws which tokens of clips are masked: the same places in space in all steps.

    Args:
      keys_N: a typed PRNG key for each clip.
      steps: S.
      places: patches of a frame.
      ratio: share of them that is masked.

    Returns:
      The places of the visible and of the masked tokens in the order t, h, w, ascending, int32 [N, V] and
      [N, M].
    """
    masked = num_masked(places, ratio)
    order_NP = jax.vmap(lambda key: jax.random.permutation(key, places))(keys_N).astype(jnp.int32)

    def tubes(places_NP: jax.Array) -> jax.Array:
        in_step_NSP = jnp.sort(places_NP)[:, None] + places * jnp.arange(steps)[:, None]
        return in_step_NSP.reshape(len(places_NP), -1)

    return tubes(order_NP[:, masked:]), tubes(order_NP[:, :masked])


def targets(clips_NTHWC: jax.Array, tubelet: int, patch: int, kind: str) -> jax.Array:
    """Returns what is to be predicted of each token, float32 [N, L, X].

    Args:
      clips_NTHWC: float32, values in [0, 1], or shifted by a constant of each color.
      tubelet: frames of a token.
      patch: side of a patch, pixels.
      kind: config.pretrain.target.
    """
    clips, frames, height, width, colors = clips_NTHWC.shape
    split = clips_NTHWC.reshape(
        clips, frames // tubelet, tubelet, height // patch, patch, width // patch, patch, colors
    )
    split = split.transpose(0, 1, 3, 5, 2, 4, 6, 7)  # N, t h w of the token, t h w inside it, C
    x = split.reshape(clips, -1, tubelet * patch * patch, colors)
    mean, deviation = jnp.mean(x, 2, keepdims=True), jnp.std(x, 2, keepdims=True, ddof=1)
    x = ((x - mean) / (deviation + _EPSILON)).reshape(*x.shape[:2], tubelet, -1)
    if kind == "difference":
        x = x.at[:, :, 1:].add(-x[:, :, :1])
    return x.reshape(*x.shape[:2], -1)


def named(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns all arrays of the autoencoder by the names of VideoMAE's authors, with PyTorch's axes.

    The trunk's begin with "encoder.", the decoder's with "decoder.".

    Args:
      params: of MaskedAutoencoder, nested dicts of arrays.
    """
    parts = {key: params[key] for key in ("trunk", "decoder")}
    head = parts["decoder"]["head"]
    parts["decoder"] = {key: tree for key, tree in parts["decoder"].items() if key != "head"}
    arrays = {
        "encoder_to_decoder.weight": np.asarray(params["encoder_to_decoder"]["kernel"]).T,
        "mask_token": np.asarray(params["mask_token"])[None, None],
        "decoder.head.weight": np.asarray(head["kernel"]).T,
        "decoder.head.bias": np.asarray(head["bias"]),
    }
    for prefix, part in zip(("encoder", "decoder"), parts.values(), strict=True):
        flat = traverse_util.flatten_dict(part, sep="/")
        arrays |= {f"{prefix}.{name}": array for name, array in vit_names.exported(flat).items()}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
