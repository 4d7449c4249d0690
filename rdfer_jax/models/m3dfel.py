"""M3DFEL, a baseline: multiple-instance learning over the short snippets (instances) of a clip.

Wang et al. (CVPR 2023), "Rethinking the Learning Paradigm for Dynamic Facial Expression Recognition".
Details that the paper omits (no projection after the attention, the convolution over the bag) follow the
authors' published code. Weights are initialized with Flax's defaults, not torch's.

Letters: `...` stands for any leading axes, I instances of a clip in time order, W = 2 hidden, the
features of both directions of the LSTM.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdfer_jax.models import resampling
from rdfer_jax.types import Outputs


class DMIN(nn.Module):
    """Dynamic multi-instance normalization: each bag by its own statistics.

    y = (x - mean) / sqrt(var + epsilon) scale + bias, with a scale and a bias for each channel, and

        mean = m_0 mean_W + m_1 mean_all        var = v_0 var_W + v_1 var_all

    mean_W and var_W (unbiased) are those of a channel over the instances. mean_all and var_all are those
    over instances and channels, computed from mean_W and var_W as in switchable normalization (Luo et al.
    2019, arXiv 1806.10779, section 2.2). m and v are softmaxes of learned weights.

    Attributes:
      epsilon: added to the variance.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_IW: jax.Array) -> jax.Array:
        """Normalizes float [..., I, W], I >= 2, and returns float32."""
        x_IW = x_IW.astype(jnp.float32)
        ones, width = nn.initializers.ones, x_IW.shape[-1]
        mean_mix_2 = nn.softmax(self.param("mean_mix", ones, (2,)))
        var_mix_2 = nn.softmax(self.param("var_mix", ones, (2,)))
        scale_W = self.param("scale", ones, (width,))
        bias_W = self.param("bias", nn.initializers.zeros, (width,))

        mean_1W = jnp.mean(x_IW, axis=-2, keepdims=True)
        var_1W = jnp.var(x_IW, axis=-2, keepdims=True, ddof=1)
        mean_11 = jnp.mean(mean_1W, axis=-1, keepdims=True)
        # The mean within a channel and the variance between channels.
        var_11 = jnp.mean(var_1W, axis=-1, keepdims=True) + jnp.var(mean_1W, axis=-1, keepdims=True)
        mean_1W = mean_mix_2[0] * mean_1W + mean_mix_2[1] * mean_11
        var_1W = var_mix_2[0] * var_1W + var_mix_2[1] * var_11
        return (x_IW - mean_1W) * jax.lax.rsqrt(var_1W + self.epsilon) * scale_W + bias_W


class DLIAM(nn.Module):
    """Dynamic long-term instance aggregation: instances in time order -> one vector for the bag.

    The output of a bidirectional LSTM is gated by self-attention followed by DMIN. A convolution along the
    features, with the instances as its channels, reduces the bag to one vector.

    Attributes:
      hidden: H, units of the LSTM in each direction.
      layers: of the LSTM.
      heads: of the self-attention, over 2 H / heads features each.
      dtype: of the computation; the LSTM's state and the normalization are float32.
    """

    hidden: int
    layers: int
    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_ID: jax.Array) -> jax.Array:
        """Aggregates float [..., I, D], I >= 2, to [..., 2 H]."""
        x_IW = x_ID
        for layer in range(self.layers):
            forward, backward = (
                nn.OptimizedLSTMCell(self.hidden, dtype=self.dtype, name=f"lstm{layer}_{way}")
                for way in ("forward", "backward")
            )
            lstm = nn.Bidirectional(nn.RNN(forward), nn.RNN(backward))
            x_IW = jnp.asarray(lstm(x_IW), self.dtype)
        size = 2 * self.hidden // self.heads
        qkv_I3hd = nn.DenseGeneral(
            (3, self.heads, size), use_bias=False, dtype=self.dtype, name="qkv"
        )(x_IW)
        query, key, value = jnp.moveaxis(qkv_I3hd, -3, 0)
        attended_Ihd = nn.dot_product_attention(query, key, value, force_fp32_for_softmax=True)
        gate_IW = nn.sigmoid(DMIN(name="dmin")(attended_Ihd.reshape(x_IW.shape)))
        x_WI = jnp.swapaxes(x_IW * gate_IW.astype(self.dtype), -1, -2)
        return nn.Conv(1, (3,), padding=1, dtype=self.dtype, name="pool")(x_WI)[..., 0]


class M3DFEL(nn.Module):
    """Frames of videos -> logits of each sampled clip; a video's logits are their mean.

    Attributes:
      num_classes: N.
      trunk: turns every frames_per_feature frames of a clip into the features of an instance.
      dtype: of the computation; parameters and logits are float32.
      hidden, layers, heads: see DLIAM.
    """

    num_classes: int
    trunk: nn.Module
    dtype: jnp.dtype
    hidden: int = 512
    layers: int = 2
    heads: int = 8

    @nn.compact
    def __call__(
        self, frames_BFHWC: jax.Array, clips_BKT: jax.Array, train: bool
    ) -> tuple[Outputs, None]:
        """Reads a batch of videos, all clips in one pass.

        Args:
          frames_BFHWC: float [B, F, H, W, 3].
          clips_BKT: int32 [B, K, T], positions of the clips' frames in the buffer; T is a multiple of
            the trunk's frames_per_feature, and at least twice it.
          train: whether the trunk normalizes by the statistics of the batch.

        Returns:
          The outputs, of which only video_logits, clip_logits and features are set, and None: no key
          expression.
        """
        batch, clips, _ = clips_BKT.shape
        # The trunk reads each instance separately, so the clips can be concatenated in time.
        pixels = resampling.pick(frames_BFHWC, clips_BKT.reshape(batch, -1))
        features = self.trunk(pixels, train).astype(self.dtype)
        features_BKID = features.reshape(batch, clips, -1, features.shape[-1])
        aggregate = DLIAM(self.hidden, self.layers, self.heads, self.dtype, name="dliam")
        bag_BKW = aggregate(features_BKID).astype(jnp.float32)
        clip_logits_BKN = nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(bag_BKW)
        outputs = Outputs(
            video_logits=jnp.mean(clip_logits_BKN, axis=1),
            clip_logits=clip_logits_BKN,
            features=jnp.mean(bag_BKW, axis=1),
        )
        return outputs, None
