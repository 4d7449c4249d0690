"""Records that cross module borders, and the legend of shape letters.

Arrays are named after their shape:

    B batch   K sampled clips of a video   T frames of a clip   F frames of a video's buffer
    I instants of the long-term stream     M key clips          S features in time of a clip
    H W C image    N classes    D features

`logits_BKN` is one logit for each class, clip and video.
"""

import jax
from flax import struct


@struct.dataclass
class Batch:
    """Videos, as a step sees them.

    Attributes:
      frames: uint8 [B, F, H, W, 3], RGB, in time order.
      label: int32 [B], the given label.
      index: int32 [B], position of the video in its split, or in the part of it that is used.
      mask: bool [B], False for an example that only fills up the batch.
      flipped: bool [B], True where the given label is known to be wrong; None where nobody knows.
    """

    frames: jax.Array
    label: jax.Array
    index: jax.Array
    mask: jax.Array
    flipped: jax.Array | None = None


@struct.dataclass
class Outputs:
    """What the network says of a batch of videos.

    Attributes:
      video_logits: float32 [B, N], of the whole video: its clips and key clips together.
      clip_logits: float32 [B, K, N], of each sampled clip.
      long_logits: float32 [B, N], of the long-term stream alone; None in a network without one, like
        all that follows.
      instant_logits: float32 [B, I, N], of each instant of the first clip.
      instants: int32 [B, I], the instants' positions in the frame buffer.
      key_instants: int32 [B, M], positions in the buffer of the instants around which the video is
        re-sampled.
      key_logits: float32 [B, N], of the key clips.
    """

    video_logits: jax.Array
    clip_logits: jax.Array
    long_logits: jax.Array | None = None
    instant_logits: jax.Array | None = None
    instants: jax.Array | None = None
    key_instants: jax.Array | None = None
    key_logits: jax.Array | None = None


@struct.dataclass
class Prediction:
    """What is known of a video after prediction.

    Attributes:
      index: int32 [B], as in Batch.
      mask: bool [B], as in Batch.
      logits: float32 [B, N], of the video.
      clip_logits: float32 [B, K, N].
      agreement: float32 [B] in [0, 1].
      consensus: int32 [B], the class that the clips agree on.
      noise_score: float32 [B] in [0, 1], how likely the clips find it that the label is wrong.
      key_instants: int32 [B, M], positions in the frame buffer; None if the network looks for none.
    """

    index: jax.Array
    mask: jax.Array
    logits: jax.Array
    clip_logits: jax.Array
    agreement: jax.Array
    consensus: jax.Array
    noise_score: jax.Array
    key_instants: jax.Array | None
