"""Selection of the frames that fill a video's buffer."""

import numpy as np

from rdfer_jax.config import Data


def chosen_frames(num_frames: int, data: Data, u_G: np.ndarray | float = 0.5) -> np.ndarray:
    """Returns what `frames_at` does, with the sizes of the settings."""
    return frames_at(num_frames, data.frames, u_G, data.snippet, data.stride)


def draw(data: Data, generator: np.random.Generator) -> np.ndarray:
    """Returns random u for chosen_frames, float [G] in [0, 1)."""
    return generator.random(data.frames // data.snippet)


def frame_indices(
    num_frames: int,
    buffer_frames: int,
    generator: np.random.Generator | None = None,
    snippet: int = 1,
    stride: int = 1,
) -> np.ndarray:
    """Returns indices of the frames that fill a video's buffer: F / r snippets of r frames, s apart.

    A snippet extends over e = (r - 1) s + 1 frames of the video. Snippets are spread over the video, one in
    each of G = F / r equal parts. Snippet g starts at

        floor((g + u) n / G - u (e - 1)), at least 0 and at most n - e

    with u = 0.5, which centers it in its part, or u sampled uniformly from [0, 1) for each g if a generator
    is given. With r = 1 that is one frame from each of F equal parts; with G = 1 one snippet from a random
    start, as VideoMAE trains. A video with fewer than F frames repeats its nearest frames: with r = 1 each
    by itself, otherwise because its snippets overlap. The last frame of a video with fewer than e frames is
    repeated to the end of the snippet.

    Args:
      num_frames: n, number of frames of the video.
      buffer_frames: F, a multiple of r.
      generator: samples u, in training.
      snippet: r, number of frames.
      stride: s, frames of the video from one frame of a snippet to the next.

    Returns:
      int64 [F], in [0, n). The starts of the snippets are ascending.

    Raises:
      ValueError: the video has no frames, or F is not a multiple of r.
    """
    snippets = buffer_frames // snippet
    u_G = 0.5 if generator is None else generator.random(snippets)
    return frames_at(num_frames, buffer_frames, u_G, snippet, stride)


def frames_at(
    num_frames: int,
    buffer_frames: int,
    u_G: np.ndarray | float,
    snippet: int = 1,
    stride: int = 1,
) -> np.ndarray:
    """Returns what frame_indices does, given u: float [G], or one number for all snippets.

    Raises:
      ValueError: the video has no frames, or F is not a multiple of r.
    """
    if num_frames < 1:
        raise ValueError(f"expected at least one frame, got {num_frames}")
    if buffer_frames % snippet:
        raise ValueError(f"expected a multiple of snippet = {snippet} frames, got {buffer_frames}")
    snippets = buffer_frames // snippet
    last = (snippet - 1) * stride
    start_G = (np.arange(snippets) + u_G) * num_frames / snippets - u_G * last
    start_G = np.sort(np.floor(start_G).astype(np.int64).clip(0, max(num_frames - last - 1, 0)))
    frames_Gr = start_G[:, None] + np.arange(snippet) * stride
    return np.minimum(frames_Gr.reshape(-1), num_frames - 1)
