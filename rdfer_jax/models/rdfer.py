"""The whole network: trunk once, clips in feature space, two streams, key expression re-sampling."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rdfer_jax import config
from rdfer_jax.models import resampling
from rdfer_jax.models.streams import Instants, LongTerm, ShortTerm
from rdfer_jax.types import Outputs


class RDFER(nn.Module):
    """Frames of videos -> logits of each sampled clip, and of the video around its key expression.

    Attributes:
      num_classes: N.
      trunk: what turns frames into features: a frame trunk, read once over the whole buffer, or one
        with frames_per_feature > 1, read over each clip's pixels.
      model: settings of the streams.
      key: settings of the key expression re-sampling.
      dtype: of the computation; parameters and logits are float32.
    """

    num_classes: int
    trunk: nn.Module
    model: config.Model
    key: config.KeyClips
    dtype: jnp.dtype

    def setup(self):
        """Names the parts."""
        model = self.model
        self.short = ShortTerm(model.width, model.short_layers, model.short_kernel, self.dtype)
        self.long = LongTerm(
            self.num_classes, model.width, model.long_layers, model.long_heads, self.dtype
        )
        self.instants = Instants(self.num_classes, model.width, self.dtype)
        self.drop = nn.Dropout(model.dropout)
        self.head = nn.Dense(self.num_classes, dtype=jnp.float32)

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
          clips_BKT: int32 [B, K, T], positions of the clips' frames in the buffer. The first clip spans
            the video. The key expression is looked for at every frame of the buffer, or at the features
            of the first clip where the trunk reads clips.
          choose_key: clip_logits_BKN -> int [B], the class of the key expression.
          train: whether to drop features and to use the batch's own statistics.

        Returns:
          The outputs; logits of all clips come from one vectorised pass.
        """
        read, features_BFD = self._reader(frames_BFHWC, train)
        features_BKSD = read(clips_BKT)
        if self.model.streams == "short":
            return _only_clips(self._classify([self.short(features_BKSD, None)], train))
        places_I = resampling.spread(self.model.instants, features_BKSD.shape[2])
        long_logits_BKN, long_BKW, gate_BKW = self.long(features_BKSD[:, :, places_I])
        if self.model.streams == "long":
            return _only_clips(self._classify([long_BKW], train))
        gates = self.model.gate
        short_BKW = self.short(features_BKSD, gate_BKW if gates else None)
        clip_logits_BKN = self._classify([short_BKW, long_BKW], train)

        buffer_frames = frames_BFHWC.shape[1]
        if features_BFD is None:
            instants_BI, features_BID = self._times(clips_BKT[:, 0]), features_BKSD[:, 0]
        else:
            features_BID = features_BFD
            instants_BI = jnp.broadcast_to(jnp.arange(buffer_frames), features_BID.shape[:2])
        instant_logits_BIN = self.instants(features_BID)
        key_class_B = jax.lax.stop_gradient(choose_key(clip_logits_BKN))
        probs_BIN = jax.nn.softmax(instant_logits_BIN)
        scores_BI = jnp.sum(
            probs_BIN * jax.nn.one_hot(key_class_B, self.num_classes)[:, None], axis=-1
        )
        key_instants_BM = resampling.key_instants(
            scores_BI, instants_BI, self.key.number, self.key.min_gap * buffer_frames
        )
        video_logits_BN = jnp.mean(clip_logits_BKN, axis=1)
        key_logits_BN = video_logits_BN
        if self.key.enabled:
            key_clips_BMT = resampling.key_clips(key_instants_BM, self.key.frames, buffer_frames)
            short_BMW = self.short(read(key_clips_BMT), gate_BKW[:, :1] if gates else None)
            short_BW = jnp.mean(short_BMW, axis=1)
            key_logits_BN = self._classify([short_BW, long_BKW[:, 0]], train)
            video_logits_BN = (video_logits_BN + key_logits_BN) / 2
        return Outputs(
            video_logits=video_logits_BN,
            clip_logits=clip_logits_BKN,
            long_logits=jnp.mean(long_logits_BKN, axis=1),
            instant_logits=instant_logits_BIN,
            instants=instants_BI,
            key_instants=key_instants_BM,
            key_logits=key_logits_BN,
        )

    def _reader(
        self, frames_BFHWC: jax.Array, train: bool
    ) -> tuple[Callable[[jax.Array], jax.Array], jax.Array | None]:
        """Returns a function from positions int [B, P, T] to features [B, P, S, D].

        And the features [B, F, D] of every frame, where the trunk reads single frames.
        """
        if self.trunk.frames_per_feature == 1:
            features_BFD = self.trunk(frames_BFHWC, train).astype(self.dtype)
            return lambda positions_BPT: resampling.pick(features_BFD, positions_BPT), features_BFD

        def read(positions_BPT: jax.Array) -> jax.Array:
            batch, clips, length = positions_BPT.shape
            pixels = resampling.pick(frames_BFHWC, positions_BPT)
            pixels = pixels.reshape(batch * clips, length, *frames_BFHWC.shape[2:])
            features = self.trunk(pixels, train).astype(self.dtype)
            return features.reshape(batch, clips, *features.shape[1:])

        return read, None

    def _times(self, clip_BT: jax.Array) -> jax.Array:
        """Buffer position of each feature of a clip: of the middle one of its frames."""
        per_feature = self.trunk.frames_per_feature
        return clip_BT[:, np.arange(per_feature // 2, clip_BT.shape[1], per_feature)]

    def _classify(self, streams: list[jax.Array], train: bool) -> jax.Array:
        features_D = self.drop(jnp.concatenate(streams, -1), deterministic=not train)
        return self.head(features_D.astype(jnp.float32))


def _only_clips(clip_logits_BKN: jax.Array) -> Outputs:
    """The outputs of a single stream, which knows of no key expression."""
    return Outputs(video_logits=jnp.mean(clip_logits_BKN, axis=1), clip_logits=clip_logits_BKN)
