"""Selection of the frames that fill a video's buffer."""

import numpy as np


def frame_indices(
    num_frames: int, buffer_frames: int, generator: np.random.Generator | None = None
) -> np.ndarray:
    """Returns indices of the frames that fill a video's buffer: one from each of F equal parts.

    Index i is floor((i + u) n / F), with u = 0.5, or sampled uniformly from [0, 1) for each i if a
    generator is given. A video with fewer than F frames repeats its nearest frames.

    Args:
      num_frames: n, number of frames of the video.
      buffer_frames: F.
      generator: samples u, in training.

    Returns:
      int64 [F], ascending, in [0, n).

    Raises:
      ValueError: the video has no frames.
    """
    if num_frames < 1:
        raise ValueError(f"expected at least one frame, got {num_frames}")
    u = 0.5 if generator is None else generator.random(buffer_frames)
    index = np.floor((np.arange(buffer_frames) + u) * num_frames / buffer_frames)
    return np.minimum(index.astype(np.int64), num_frames - 1)
