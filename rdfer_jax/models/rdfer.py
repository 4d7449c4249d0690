"""The network of RDFER: a trunk, two streams over the clips' features, and key expression re-sampling."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rdfer_jax import config
from rdfer_jax.models import resampling
from rdfer_jax.models.streams import Instants, LongTerm, ShortTerm
from rdfer_jax.types import Outputs


class KeyContext(NamedTuple):
    """Intermediate results of the pass over the sampled clips that the pass over the key clips needs.

    Attributes:
      buffer: what clips are picked from: the features [B, F, D] of every frame, or the pixels
        [B, F, H, W, 3] if the trunk reads clips.
      long: [B, W], long-term representation of the first clip.
      gate: [B, 1, W], gate of the first clip; None if gates are off.
    """

    buffer: jax.Array
    long: jax.Array
    gate: jax.Array | None


class RDFER(nn.Module):
    """Frames of videos -> logits of each sampled clip, and of the video around its key expression.

    Attributes:
      num_classes: N.
      trunk: turns frames into features: a frame trunk, which reads the whole buffer once, or one with
        frames_per_feature > 1, which reads the pixels of each clip.
      model: settings of the streams.
      key: settings of the key expression re-sampling.
      dtype: of the computation; parameters and logits are float32.
      snippet: r; the buffer holds snippets of r consecutive frames, and clips are made of whole snippets.
        With r > 1, movement is seen within snippets alone, by the trunk and by the short-term stream, and
        the long-term stream and the instants read the middle of each snippet: two rates, as the pathways
        of SlowFast networks (Feichtenhofer et al. 2019, arXiv 1812.03982). A video transformer attends over
        all snippets of a clip.
      two_rates: False if each clip is a single snippet, which both streams and the instants read frame by
        frame.
    """

    num_classes: int
    trunk: nn.Module
    model: config.Model
    key: config.KeyClips
    dtype: jnp.dtype
    snippet: int = 1
    two_rates: bool = True

    @property
    def has_key(self) -> bool:
        """Whether the network localizes the key expression; a single stream does not."""
        return self.model.streams == "both"

    def setup(self):
        """Creates the submodules."""
        model = self.model
        together = self._per_snippet if self.snippet > 1 and self.two_rates else 0
        self.short = ShortTerm(
            model.width, model.short_layers, model.short_kernel, self.dtype, together
        )
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
        train: bool,
        clip_frames_BKTHWC: jax.Array | None = None,
    ) -> tuple[Outputs, KeyContext | None]:
        """Reads the sampled clips of a batch of videos, all in one vectorized pass.

        Args:
          frames_BFHWC: float [B, F, H, W, 3], normalized.
          clips_BKT: int32 [B, K, T], positions of the clips' frames in the buffer. The first clip spans
            the video.
          train: whether to apply dropout and to normalize by the statistics of the batch.
          clip_frames_BKTHWC: float, normalized, what the clips show, such as frames with a transform of
            their own; None: the frames of the video.

        Returns:
          The outputs without key_instants and key_logits, and what `read_key_clips` needs. Instants are
          all frames of the buffer, or the features of the first clip if the trunk reads clips; with
          snippets, the middle one of each snippet. A network
          with a single stream has video_logits, clip_logits and features alone, and no context.
        """
        buffer_BFX = frames_BFHWC
        if self._reads_frames and (clip_frames_BKTHWC is None or self.has_key):
            buffer_BFX = self._features(frames_BFHWC, train)
        if clip_frames_BKTHWC is None:
            features_BKSD = self._read(buffer_BFX, clips_BKT, train)
        else:
            features_BKSD = self._read_pixels(clip_frames_BKTHWC, train)
        if self.model.streams == "short":
            return self._classify_clips([self.short(features_BKSD, None)], train), None
        slow_BKSD = features_BKSD[:, :, self._middles]
        places_I = resampling.spread(self.model.instants, slow_BKSD.shape[2])
        long_logits_BKN, long_BKW, gates_BKW = self.long(slow_BKSD[:, :, places_I])
        if self.model.streams == "long":
            return self._classify_clips([long_BKW], train), None
        gate_BKW = gates_BKW if self.model.gate else None
        short_BKW = self.short(features_BKSD, gate_BKW)
        outputs = self._classify_clips([short_BKW, long_BKW], train)

        if self._reads_frames:
            features_BID = buffer_BFX[:, self._middles]
            instants_I = jnp.arange(buffer_BFX.shape[1])[self._middles]
            instants_BI = jnp.broadcast_to(instants_I, features_BID.shape[:2])
        else:
            features_BID = features_BKSD[:, 0, self._middles]
            instants_BI = self._times(clips_BKT[:, 0])[:, self._middles]
        outputs = dataclasses.replace(
            outputs,
            long_logits=jnp.mean(long_logits_BKN, axis=1),
            instant_logits=self.instants(features_BID),
            instants=instants_BI,
        )
        gate_B1W = None if gate_BKW is None else gate_BKW[:, :1]
        return outputs, KeyContext(buffer_BFX, long_BKW[:, 0], gate_B1W)

    def read_key_clips(
        self, outputs: Outputs, context: KeyContext, key_class_B: jax.Array, train: bool
    ) -> Outputs:
        """Localizes the key expression and reads the clips around it.

        Args:
          outputs: result of `__call__`.
          context: result of `__call__`.
          key_class_B: int [B], the class whose expression to look for.
          train: as in `__call__`, with the same dropout rng.

        Returns:
          The complete outputs. With config.key.enabled off, the video's logits stay those of its clips.
        """
        assert outputs.instant_logits is not None and outputs.instants is not None
        buffer_frames = context.buffer.shape[1]
        probs_BIN = jax.nn.softmax(outputs.instant_logits)
        key_class_B1N = jax.nn.one_hot(key_class_B, self.num_classes)[:, None]
        key_instants_BM = resampling.key_instants(
            jnp.sum(probs_BIN * key_class_B1N, axis=-1),
            outputs.instants,
            self.key.number,
            self.key.min_gap * buffer_frames,
        )
        video_logits_BN = key_logits_BN = outputs.video_logits
        if self.key.enabled:
            if train and self.model.dropout:
                # `apply` restarts the sequence of dropout keys, whose first one `__call__` used.
                self.drop.make_rng("dropout")
            key_clips_BMT = resampling.key_clips(
                key_instants_BM, self.key.frames, buffer_frames, self.snippet
            )
            features_BMSD = self._read(context.buffer, key_clips_BMT, train)
            short_BW = jnp.mean(self.short(features_BMSD, context.gate), axis=1)
            key_logits_BN = self._classify([short_BW, context.long], train)
            video_logits_BN = (video_logits_BN + key_logits_BN) / 2
        return dataclasses.replace(
            outputs,
            video_logits=video_logits_BN,
            key_instants=key_instants_BM,
            key_logits=key_logits_BN,
        )

    @property
    def _reads_frames(self) -> bool:
        return self.trunk.frames_per_feature == 1

    @property
    def _per_snippet(self) -> int:
        """The features of a snippet, of which the long-term stream reads one."""
        return max(self.snippet // self.trunk.frames_per_feature, 1) if self.two_rates else 1

    @property
    def _middles(self) -> slice:
        """The middle feature of each snippet."""
        return slice(self._per_snippet // 2, None, self._per_snippet)

    def _features(self, frames_NFHWC: jax.Array, train: bool) -> jax.Array:
        """Returns the features [N, S, D] of frames, of which the trunk does not mix different snippets."""
        if self.snippet == 1 or not self._reads_frames:
            return self.trunk(frames_NFHWC, train).astype(self.dtype)
        videos, _, *image = frames_NFHWC.shape
        features = self.trunk(frames_NFHWC.reshape(-1, self.snippet, *image), train)
        return features.reshape(videos, -1, features.shape[-1]).astype(self.dtype)

    def _read(self, buffer_BFX: jax.Array, positions_BPT: jax.Array, train: bool) -> jax.Array:
        """Returns the features [B, P, S, D] of clips at positions int [B, P, T] of the buffer."""
        picked = resampling.pick(buffer_BFX, positions_BPT)
        if self._reads_frames:
            return picked
        return self._read_pixels(picked, train)

    def _read_pixels(self, frames_BPTHWC: jax.Array, train: bool) -> jax.Array:
        """Returns the features [B, P, S, D] of clips, each read by itself."""
        batch, clips = frames_BPTHWC.shape[:2]
        features = self._features(
            frames_BPTHWC.reshape(batch * clips, *frames_BPTHWC.shape[2:]), train
        )
        return features.reshape(batch, clips, *features.shape[1:])

    def _times(self, clip_BT: jax.Array) -> jax.Array:
        """Returns the buffer position of each feature of a clip: that of its middle frame."""
        per_feature = self.trunk.frames_per_feature
        return clip_BT[:, np.arange(per_feature // 2, clip_BT.shape[1], per_feature)]

    def _classify_clips(self, streams: list[jax.Array], train: bool) -> Outputs:
        """Returns the outputs of the clips alone; the video's logits are their mean."""
        clip_logits_BKN = self._classify(streams, train)
        features_BKD = jnp.concatenate(streams, -1).astype(jnp.float32)
        return Outputs(
            video_logits=jnp.mean(clip_logits_BKN, axis=1),
            clip_logits=clip_logits_BKN,
            features=jnp.mean(features_BKD, axis=1),
        )

    def _classify(self, streams: list[jax.Array], train: bool) -> jax.Array:
        features_D = self.drop(jnp.concatenate(streams, -1), deterministic=not train)
        return self.head(features_D.astype(jnp.float32))
