"""Data types shared by modules, and the legend of the shape letters.

The suffix of an array's name is its shape:

    B batch   K sampled clips of a video   T frames of a clip   F frames of a video's buffer
    I instants of the long-term stream     M key clips          S features in time of a clip
    H W C image    N classes    D features

`logits_BKN` has one logit for each video, clip and class.
"""

import jax
from flax import struct


@struct.dataclass
class Batch:
    """A batch of videos, the input of a step.

    Attributes:
      frames: uint8 [B, F, H, W, 3], RGB, in time order.
      label: int32 [B], the given label.
      index: int32 [B], position of the video in the split, or in the selected part of it.
      mask: bool [B], False for padding examples.
      flipped: bool [B], True where the given label is known to be wrong; None if unknown.
      votes: float32 [B, N], annotators' votes for each class, all zero where there are none; None if a
        step does not need them.
    """

    frames: jax.Array
    label: jax.Array
    index: jax.Array
    mask: jax.Array
    flipped: jax.Array | None = None
    votes: jax.Array | None = None


@struct.dataclass
class Outputs:
    """The outputs of a network for a batch of videos.

    Attributes:
      video_logits: float32 [B, N], of the video: of its clips and key clips together.
      clip_logits: float32 [B, K, N], of each sampled clip.
      long_logits: float32 [B, N], of the long-term stream alone. This and all following attributes are
        None in a network without a long-term stream or key expression.
      instant_logits: float32 [B, I, N], of each instant.
      instants: int32 [B, I], positions of the instants in the frame buffer.
      key_instants: int32 [B, M], positions in the buffer of the instants around which the video is
        re-sampled.
      key_logits: float32 [B, N], of the key clips.
      key_class: int32 [B], the class that the key instants were chosen for, if they are to be trained
        towards no other class.
      logit_shift: float32 [N], added to the logits of all heads in the loss (config.loss.logit_adjustment);
        None for nothing. Not of the network: `losses.per_video` sets it.
      features: float32 [B, D], what the last layer reads, before dropout: the mean over the clips.
    """

    video_logits: jax.Array
    clip_logits: jax.Array
    long_logits: jax.Array | None = None
    instant_logits: jax.Array | None = None
    instants: jax.Array | None = None
    key_instants: jax.Array | None = None
    key_logits: jax.Array | None = None
    key_class: jax.Array | None = None
    logit_shift: jax.Array | None = None
    features: jax.Array | None = None


@struct.dataclass
class Prediction:
    """The result of the predict step for a batch of videos.

    Attributes:
      index: int32 [B], as in Batch.
      mask: bool [B], as in Batch.
      logits: float32 [B, N], of the video.
      clip_logits: float32 [B, K, N].
      agreement: float32 [B] in [0, 1].
      consensus: int32 [B], the class with the highest mean probability over the clips.
      noise_score: float32 [B] in [0, 1], higher if the label is more likely wrong.
      key_instants: int32 [B, M], positions in the frame buffer; None in a network without key expression.
      instants: int32 [B, I], positions in the frame buffer of what is classified by itself: the instants of
        the network, or its clips of one frame; None where there are none.
      instant_logits: float32 [B, I, N].
    """

    index: jax.Array
    mask: jax.Array
    logits: jax.Array
    clip_logits: jax.Array
    agreement: jax.Array
    consensus: jax.Array
    noise_score: jax.Array
    key_instants: jax.Array | None
    instants: jax.Array | None = None
    instant_logits: jax.Array | None = None
