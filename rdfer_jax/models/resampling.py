"""Where clips, instants and key clips lie in a video's frame buffer.

Positions are whole frames of the buffer, in [0, F). They carry no gradient. Features are picked by a
product with one-hot rows: exact, and its gradient is a product too, where a gather's would be a scatter.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rdfer_jax import config

#: Start and length of the first views in evaluation, as shares of the video: the whole, the halves, the
#: middle, the first and the last three quarters. Further views are spread between them.
EVAL_VIEWS = ((0.0, 1.0), (0.0, 0.5), (0.5, 0.5), (0.25, 0.5), (0.0, 0.75), (0.25, 0.75))


def eval_clips(settings: config.Clips, buffer_frames: int) -> np.ndarray:
    """Returns the clips of every video in evaluation, int32 [K, T]. The first is the longest there is."""
    start_K, span_K = _eval_intervals(settings, buffer_frames)
    return np.asarray(_positions(np, start_K, span_K, 0.5, settings.frames, buffer_frames))


def train_clips(keys_B: jax.Array, settings: config.Clips, buffer_frames: int) -> jax.Array:
    """Draws clips for training, without a look at the label.

    Views: the first is the whole video, the others are sub-intervals whose length is drawn from
    [min_span, 1] and whose place is drawn from where they fit. Windows: one in each of K equal parts
    of the possible places.

    Args:
      keys_B: PRNG keys, one for each video.
      settings: what a clip is.
      buffer_frames: F.

    Returns:
      int32 [B, K, T].
    """
    clips = settings.number

    def draw(key: jax.Array) -> jax.Array:
        key_span, key_start, key_frame = jax.random.split(key, 3)
        u_K = jax.random.uniform(key_start, (clips,))
        if settings.kind == "views":
            span_K = jax.random.uniform(key_span, (clips,), minval=settings.min_span, maxval=1.0)
            span_K = span_K.at[0].set(1.0)
            start_K = u_K * (1 - span_K)
            shift = jax.random.uniform(key_frame, (clips, settings.frames))
        else:
            span = settings.frames / buffer_frames
            span_K = jnp.full(clips, span)
            start_K = (jnp.arange(clips) + u_K) / clips * (1 - span)
            shift = jnp.full((clips, settings.frames), 0.5)
        return _positions(jnp, start_K, span_K, shift, settings.frames, buffer_frames)

    return jax.vmap(draw)(keys_B)


def _eval_intervals(settings: config.Clips, buffer_frames: int) -> tuple[np.ndarray, np.ndarray]:
    clips = settings.number
    if settings.kind == "windows":
        span = settings.frames / buffer_frames
        start_K = (np.arange(clips) + 0.5) / clips * (1 - span)
        return start_K, np.full(clips, span)
    views = [(start, max(span, settings.min_span)) for start, span in EVAL_VIEWS[:clips]]
    more = clips - len(views)
    span = (1 + settings.min_span) / 2
    views += [((i + 0.5) / max(more, 1) * (1 - span), span) for i in range(more)]
    start_K, span_K = np.array(views).T
    return np.minimum(start_K, 1 - span_K), span_K


def _positions(xp, start_K, span_K, shift, frames, buffer_frames):
    """floor((start + (t + shift) span / T) F), clipped to the buffer; int32 [K, T]."""
    share_KT = start_K[:, None] + (xp.arange(frames) + shift) * span_K[:, None] / frames
    positions_KT = xp.floor(share_KT * buffer_frames + 1e-4).astype(np.int32)
    return xp.clip(positions_KT, 0, buffer_frames - 1)


def pick(features_BFX: jax.Array, positions_BP: jax.Array) -> jax.Array:
    """Picks frames of the buffer: [B, F, ...] and int [B, ...positions] -> [B, ...positions, ...]."""
    frames = features_BFX.shape[1]
    batch, places = positions_BP.shape[0], positions_BP.shape[1:]
    rest = features_BFX.shape[2:]
    onehot_BPF = jax.nn.one_hot(positions_BP.reshape(batch, -1), frames, dtype=features_BFX.dtype)
    picked = jnp.einsum(
        "bpf,bfx->bpx",
        onehot_BPF,
        features_BFX.reshape(batch, frames, -1),
        precision=jax.lax.Precision.HIGHEST,
    )
    return picked.reshape(batch, *places, *rest)


def spread(number: int, length: int) -> np.ndarray:
    """Positions of `number` (at most `length`) places spread evenly over a sequence, int32 [number]."""
    number = min(number, length)
    return np.floor((np.arange(number) + 0.5) * length / number).astype(np.int32)


def key_instants(
    scores_BI: jax.Array, instants_BI: jax.Array, number: int, min_gap: float
) -> jax.Array:
    """Picks the instants that show the key expression best, apart from each other.

    Greedy: the best instant, then the best of those at least min_gap frames from all picked before,
    and so on; when none is left, the best of those too near; an instant comes again only when every
    instant has been picked.

    Args:
      scores_BI: float [B, I] in [0, 1], probability of the key expression at each instant.
      instants_BI: int [B, I], positions of the instants in the buffer.
      number: M.
      min_gap: frames.

    Returns:
      int32 [B, M], positions in the buffer, best first.
    """
    scores_BI = jax.lax.stop_gradient(scores_BI)
    picked = []
    for _ in range(number):
        best_B1 = jnp.argmax(scores_BI, axis=-1, keepdims=True)
        place_B1 = jnp.take_along_axis(instants_BI, best_B1, axis=-1)
        near_BI = jnp.abs(instants_BI - place_B1) < min_gap
        chosen_BI = jnp.arange(scores_BI.shape[-1]) == best_B1
        # Penalties do not add up: 2 for near a picked one, 4 for picked itself.
        base_BI = jnp.where(near_BI & (scores_BI >= 0), scores_BI - 2, scores_BI)
        scores_BI = jnp.where(chosen_BI, base_BI - 4, base_BI)
        picked.append(place_B1)
    return jnp.concatenate(picked, axis=-1).astype(jnp.int32)


def key_clips(centres_BM: jax.Array, frames: int, buffer_frames: int) -> jax.Array:
    """Neighbouring frames around each key instant, shifted inward at the borders, int32 [B, M, frames]."""
    start_BM = jnp.clip(centres_BM - frames // 2, 0, buffer_frames - frames)
    return (start_BM[..., None] + jnp.arange(frames)).astype(jnp.int32)
