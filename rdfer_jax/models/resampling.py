"""Positions of clips, instants and key clips in a video's frame buffer.

Positions are whole frames of the buffer, in [0, F), and have no gradient. Where the buffer holds snippets
of consecutive frames (`pipeline.sampling`), clips and key clips are made of whole snippets. Features are
picked by a product with one-hot rows: it is exact, and its gradient is a product too, where that of a
gather is a scatter.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rdfer_jax import config

#: Start and length of the first views in evaluation, as fractions of the video: the whole video, its
#: halves, its middle, and its first and last three quarters. Further views are spread between them.
EVAL_VIEWS = ((0.0, 1.0), (0.0, 0.5), (0.5, 0.5), (0.25, 0.5), (0.0, 0.75), (0.25, 0.75))


def eval_clips(settings: config.Clips, buffer_frames: int, snippet: int = 1) -> np.ndarray:
    """Returns the clips of a video in evaluation, int32 [K, T]. None is longer than the first."""
    frames, places = settings.frames // snippet, buffer_frames // snippet
    if settings.kind == "snippets":
        number = settings.eval_number or settings.number
        return np.asarray(whole(_chosen_snippets(np, np.full(number, 0.5), places), snippet))
    start_K, span_K = _eval_intervals(settings, buffer_frames)
    return np.asarray(whole(_positions(np, start_K, span_K, 0.5, frames, places), snippet))


def train_clips(
    keys_B: jax.Array, settings: config.Clips, buffer_frames: int, snippet: int = 1
) -> jax.Array:
    """Samples clips for training, independently of the label.

    Views: the first is the whole video; the others are random sub-intervals, with their length uniform in
    [min_span, 1] and their start uniform over the video. Windows: one in each of K equal parts of the
    possible starts. Snippets: one of each of K equal parts of the buffer's snippets.

    Args:
      keys_B: PRNG keys, one for each video.
      settings: kind, number and length of the clips.
      buffer_frames: F, a multiple of snippet.
      snippet: r, number of consecutive frames that stay together; settings.frames is a multiple of it.

    Returns:
      int32 [B, K, T].
    """
    clips = settings.number
    frames, places = settings.frames // snippet, buffer_frames // snippet

    def sample(key: jax.Array) -> jax.Array:
        key_span, key_start, key_frame = jax.random.split(key, 3)
        u_K = jax.random.uniform(key_start, (clips,))
        if settings.kind == "snippets":
            return whole(_chosen_snippets(jnp, u_K, places), snippet)
        if settings.kind == "views":
            span_K = jax.random.uniform(key_span, (clips,), minval=settings.min_span, maxval=1.0)
            span_K = span_K.at[0].set(1.0)
            start_K = u_K * (1 - span_K)
            shift = jax.random.uniform(key_frame, (clips, frames))
        else:
            span = frames / places
            span_K = jnp.full(clips, span)
            start_K = (jnp.arange(clips) + u_K) / clips * (1 - span)
            shift = jnp.full((clips, frames), 0.5)
        return whole(_positions(jnp, start_K, span_K, shift, frames, places), snippet)

    return jax.vmap(sample)(keys_B)


def _eval_intervals(settings: config.Clips, buffer_frames: int) -> tuple[np.ndarray, np.ndarray]:
    clips = settings.eval_number or settings.number
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


def _chosen_snippets(xp, u_K, snippets):
    """Returns floor((k + u) / K G) of G snippets, the place of the one that clip k is; int32 [K, 1]."""
    share_K = (xp.arange(len(u_K)) + u_K) / len(u_K)
    place_K = xp.floor(share_K * snippets).astype(np.int32)
    return xp.minimum(place_K, snippets - 1)[:, None]


def _positions(xp, start_K, span_K, shift, frames, buffer_frames):
    """Returns floor((start + (t + shift) span / T) F), clipped to the buffer; int32 [K, T]."""
    share_KT = start_K[:, None] + (xp.arange(frames) + shift) * span_K[:, None] / frames
    positions_KT = xp.floor(share_KT * buffer_frames + 1e-4).astype(np.int32)
    return xp.clip(positions_KT, 0, buffer_frames - 1)


def whole(snippets: Any, snippet: int) -> Any:
    """Returns the positions of all frames of the snippets: int32 [..., S] -> [..., S r]."""
    if snippet == 1:
        return snippets
    frames = snippets[..., None] * snippet + np.arange(snippet, dtype=np.int32)
    return frames.reshape(*snippets.shape[:-1], snippets.shape[-1] * snippet)


def pick(features_BFX: jax.Array, positions_BP: jax.Array) -> jax.Array:
    """Returns frames of the buffer: [B, F, ...] and int [B, ...positions] -> [B, ...positions, ...]."""
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
    """Returns `number` (at most `length`) positions spread evenly over a sequence, int32 [number]."""
    number = min(number, length)
    return np.floor((np.arange(number) + 0.5) * length / number).astype(np.int32)


def key_instants(
    scores_BI: jax.Array, instants_BI: jax.Array, number: int, min_gap: float
) -> jax.Array:
    """Picks the instants with the highest scores, some frames apart from each other.

    Greedy: the best instant, then the best of those at least min_gap frames away from all picked ones, and
    so on. If none is left, the best of those that are closer. An instant is picked again only after every
    instant has been picked.

    Args:
      scores_BI: float [B, I] in [0, 1], probability of the key expression at each instant.
      instants_BI: int [B, I], positions of the instants in the buffer.
      number: M.
      min_gap: in frames.

    Returns:
      int32 [B, M], positions in the buffer, best first.
    """
    scores_BI = jax.lax.stop_gradient(scores_BI)
    # 0: far from all picked instants; 1: near one of them; 1 + n: picked n times.
    level_BI = jnp.zeros_like(instants_BI)
    picked = []
    for _ in range(number):
        allowed_BI = level_BI == jnp.min(level_BI, axis=-1, keepdims=True)
        best_B1 = jnp.argmax(jnp.where(allowed_BI, scores_BI, -1), axis=-1, keepdims=True)
        position_B1 = jnp.take_along_axis(instants_BI, best_B1, axis=-1)
        near_BI = jnp.abs(instants_BI - position_B1) < min_gap
        is_best_BI = jnp.arange(scores_BI.shape[-1]) == best_B1
        level_BI = jnp.where(near_BI | is_best_BI, jnp.maximum(level_BI, 1), level_BI) + is_best_BI
        picked.append(position_B1)
    return jnp.concatenate(picked, axis=-1).astype(jnp.int32)


def key_clips(
    centers_BM: jax.Array, frames: int, buffer_frames: int, snippet: int = 1
) -> jax.Array:
    """Returns the frames around each key instant, shifted inward at the borders, int32 [B, M, frames].

    With snippet > 1, of which frames and buffer_frames are multiples, that is the snippet of the instant
    and those next to it.
    """
    count = frames // snippet
    first_BM = jnp.clip(centers_BM // snippet - count // 2, 0, buffer_frames // snippet - count)
    return whole((first_BM[..., None] + jnp.arange(count)).astype(jnp.int32), snippet)
