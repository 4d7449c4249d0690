"""ResNet-LSTM, a baseline: a 2-D network reads each frame, and an LSTM reads the features in time order.

Papers such as MAE-DFER (Sun et al. 2023) list ResNet18-LSTM as a baseline without its details. One layer,
one direction and classifying the last state are our choices.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdfer_jax.models import resampling
from rdfer_jax.types import Outputs


class ResNetLSTM(nn.Module):
    """Frames of videos -> logits of each sampled clip; a video's logits are their mean.

    The LSTM's last state classifies a clip. With a mean over all states, the network could average frames
    and ignore their order, and the comparison with a recurrent network would lose its point.

    Attributes:
      num_classes: N.
      trunk: a frame trunk without temporal shift, so that only the LSTM mixes frames.
      width: W, units of the LSTM, which has one layer and one direction.
      dropout: dropout rate of the last state, before the classifier.
      dtype: of the computation; parameters, the LSTM's state and logits are float32.
    """

    num_classes: int
    trunk: nn.Module
    width: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, frames_BFHWC: jax.Array, clips_BKT: jax.Array, train: bool
    ) -> tuple[Outputs, None]:
        """Reads a batch of videos, all clips in one pass.

        Args:
          frames_BFHWC: float [B, F, H, W, 3], normalized.
          clips_BKT: int32 [B, K, T], positions of the clips' frames in the buffer, in time order.
          train: whether to apply dropout and to normalize by the statistics of the batch.

        Returns:
          The outputs, of which only video_logits, clip_logits and features are set, and None: no key
          expression.
        """
        features_BFD = self.trunk(frames_BFHWC, train).astype(self.dtype)
        cell = nn.OptimizedLSTMCell(self.width, dtype=self.dtype, name="lstm")
        lstm = nn.RNN(cell, return_carry=True)
        (_, last_BKW), _ = lstm(resampling.pick(features_BFD, clips_BKT))
        kept_BKW = nn.Dropout(self.dropout, deterministic=not train)(last_BKW)
        clip_logits_BKN = nn.Dense(self.num_classes, dtype=jnp.float32, name="head")(kept_BKW)
        outputs = Outputs(
            video_logits=jnp.mean(clip_logits_BKN, axis=1),
            clip_logits=clip_logits_BKN,
            features=jnp.mean(last_BKW.astype(jnp.float32), axis=1),
        )
        return outputs, None
