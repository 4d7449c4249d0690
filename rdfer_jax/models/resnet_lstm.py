"""ResNet and LSTM, a baseline: each frame on its own through a 2-D network, then a recurrent one.

The field's usual point of comparison, ResNet18-LSTM in the tables of papers such as MAE-DFER (Sun et al.
2023), which do not tell its details: one layer, one direction and the last state are our choice.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdfer_jax.models import resampling
from rdfer_jax.types import Outputs


class ResNetLSTM(nn.Module):
    """Frames of videos -> logits of each sampled clip; those of a video are their mean.

    A clip is judged by the LSTM's last state. It has seen all frames, while a mean over the states
    would let the network average frames and remember nothing, which is what an LSTM is compared for.

    Attributes:
      num_classes: N.
      trunk: a frame trunk, which should mix no frames: time is left to the LSTM.
      width: W, units of the LSTM, which has one layer and one direction.
      dropout: share of the last state's features that are dropped before the classifier.
      dtype: of the computation; parameters, the LSTM's state and logits are float32.
    """

    num_classes: int
    trunk: nn.Module
    width: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        frames_BFHWC: jax.Array,
        clips_BKT: jax.Array,
        choose_key: Callable[[jax.Array], jax.Array],
        train: bool,
    ) -> Outputs:
        """Reads a batch of videos.

        Args:
          frames_BFHWC: float [B, F, H, W, 3], normalised.
          clips_BKT: int32 [B, K, T], positions of the clips' frames in the buffer, in time order.
          choose_key: not called: there is no key expression in this network.
          train: whether to drop features and to use the batch's own statistics.

        Returns:
          video_logits and clip_logits, all clips in one pass; the rest is None.
        """
        features_BFD = self.trunk(frames_BFHWC, train).astype(self.dtype)
        cell = nn.OptimizedLSTMCell(self.width, dtype=self.dtype, name="lstm")
        lstm = nn.RNN(cell, return_carry=True)
        (_, last_BKW), _ = lstm(resampling.pick(features_BFD, clips_BKT))
        last_BKW = nn.Dropout(self.dropout, deterministic=not train)(last_BKW)
        clip_logits_BKN = nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(last_BKW)
        return Outputs(video_logits=jnp.mean(clip_logits_BKN, axis=1), clip_logits=clip_logits_BKN)
