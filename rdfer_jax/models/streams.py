"""The two streams of the hierarchical network: sequence models over the features of a clip.

Letters: `...` stands for any leading axes, S features of a clip in time order, W width of the streams.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class ShortTerm(nn.Module):
    """Short-term facial movement: temporal convolutions over the features and their differences.

    Attributes:
      width: features of the stream.
      layers: number of residual temporal convolutions.
      kernel: size of their kernels.
      dtype: of the computation.
      snippet: number of consecutive features between which movement is seen: neither differences nor
        convolutions reach from one snippet into the next. 0: the whole clip is one snippet.
    """

    width: int
    layers: int
    kernel: int
    dtype: jnp.dtype
    snippet: int = 0

    @nn.compact
    def __call__(self, x_SD: jax.Array, gate_W: jax.Array | None) -> jax.Array:
        """Reads a clip.

        Args:
          x_SD: float [..., S, D], features in time order; S is a multiple of snippet.
          gate_W: float [..., W], factor of each feature; None for no gate.

        Returns:
          float [..., W], pooled over the time of all snippets with learned attention (Ilse et al. 2018,
          "Attention-based deep multiple instance learning", equation 8).
        """
        shape = x_SD.shape[:-1]
        if self.snippet:
            x_SD = x_SD.reshape(*shape[:-1], -1, self.snippet, x_SD.shape[-1])
        moved_SD = jnp.diff(x_SD, axis=-2, prepend=x_SD[..., :1, :])
        h_SW = nn.Dense(self.width, dtype=self.dtype, name="look")(x_SD)
        h_SW += nn.Dense(self.width, dtype=self.dtype, use_bias=False, name="move")(moved_SD)
        for layer in range(self.layers):
            y_SW = nn.LayerNorm(dtype=self.dtype, name=f"norm{layer}")(h_SW)
            y_SW = nn.Conv(self.width, (self.kernel,), dtype=self.dtype, name=f"conv{layer}")(y_SW)
            h_SW += nn.gelu(y_SW)
        h_SW = nn.LayerNorm(dtype=self.dtype, name="norm_out")(h_SW)
        if self.snippet:
            h_SW = h_SW.reshape(*shape, self.width)
        if gate_W is not None:
            h_SW *= gate_W[..., None, :]
        score_S1 = nn.tanh(nn.Dense(self.width // 2, dtype=self.dtype, name="attend_hidden")(h_SW))
        score_S1 = nn.Dense(1, dtype=jnp.float32, name="attend")(score_S1)
        return jnp.sum(h_SW * nn.softmax(score_S1, axis=-2).astype(self.dtype), axis=-2)


class Instants(nn.Module):
    """Classifies the expression at each instant from that instant alone, to localize it in time.

    Attributes:
      num_classes: N.
      width: hidden features.
      dtype: of the computation.
    """

    num_classes: int
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_D: jax.Array) -> jax.Array:
        """Features float [..., D] -> logits float32 [..., N]."""
        h_W = nn.Dense(self.width, dtype=self.dtype, name="look")(x_D)
        h_W = nn.LayerNorm(dtype=self.dtype, name="norm")(h_W)
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="classify")(h_W)


class LongTerm(nn.Module):
    """Long-term emotional change: self-attention over instants spread evenly over the clip.

    Attributes:
      num_classes: N.
      width, layers, heads: of the transformer.
      dtype: of the computation.
    """

    num_classes: int
    width: int
    layers: int
    heads: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_ID: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Reads the instants of a clip.

        Args:
          x_ID: float [..., I, D], features in time order.

        Returns:
          long_logits_N, float32 [..., N]; long_W, float [..., W], the representation; and gate_W, float
          [..., W] in (0, 1), for the short-term stream.
        """
        h_IW = nn.Dense(self.width, dtype=self.dtype, name="look")(x_ID)
        h_IW += time_positions(h_IW.shape[-2], self.width).astype(self.dtype)
        for layer in range(self.layers):
            y_IW = nn.LayerNorm(dtype=self.dtype, name=f"norm{layer}")(h_IW)
            h_IW += nn.MultiHeadDotProductAttention(
                self.heads, dtype=self.dtype, name=f"attention{layer}"
            )(y_IW)
            y_IW = nn.LayerNorm(dtype=self.dtype, name=f"norm_mlp{layer}")(h_IW)
            y_IW = nn.gelu(nn.Dense(2 * self.width, dtype=self.dtype, name=f"mlp{layer}")(y_IW))
            h_IW += nn.Dense(self.width, dtype=self.dtype, name=f"mlp_out{layer}")(y_IW)
        long_W = jnp.mean(nn.LayerNorm(dtype=self.dtype, name="norm_out")(h_IW), axis=-2)
        long_logits_N = nn.Dense(self.num_classes, dtype=jnp.float32, name="long")(long_W)
        gate_W = nn.sigmoid(nn.Dense(self.width, dtype=self.dtype, name="gate")(long_W))
        return long_logits_N, long_W, gate_W


def time_positions(length: int, width: int) -> np.ndarray:
    """Returns sines and cosines of the time in the clip, float32 [length, width].

    Vaswani et al. (2017), "Attention is all you need", section 3.5, with time as a fraction of the clip.
    """
    time_I1 = (np.arange(length)[:, None] + 0.5) / length
    rate_R = np.pi * 2.0 ** np.linspace(0, np.log2(max(length, 2)), width // 2)
    return np.concatenate([np.sin(time_I1 * rate_R), np.cos(time_I1 * rate_R)], -1).astype(
        np.float32
    )
