"""Batches of a split on the host, read by Grain.

Every process uses the same global order of videos and takes its own rows of each global batch, so the
data of a run do not depend on the number of processes. The random generator of a video depends on its
position in that order, so the frames do not depend on the number of workers either.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from rdfer_jax import workarounds
from rdfer_jax.config import Data
from rdfer_jax.pipeline import workers
from rdfer_jax.pipeline.balanced import BalancedOrder, Reordered
from rdfer_jax.pipeline.decode import decode_frames
from rdfer_jax.pipeline.frame_cache import CachedFrames
from rdfer_jax.pipeline.sampling import chosen_frames, draw
from rdfer_jax.pipeline.source import TRUTH_KEYS, Split

log = logging.getLogger(__name__)

Element = dict[str, Any]


class Wanted(NamedTuple):
    """A video to read for a batch.

    Attributes:
      video: its index in the split.
      is_real: whether it counts; False for padding.
      u: float [G], what decides its frames, see sampling.chosen_frames; 0.5 takes the middle ones.
    """

    video: int
    is_real: bool
    u: np.ndarray | float = 0.5


@dataclasses.dataclass(frozen=True)
class Padded:
    """The videos of a split in order, padded to fill the last batch; padding is the first video again."""

    videos: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Wanted:
        is_real = position < self.videos
        return Wanted(position if is_real else 0, is_real)


@dataclasses.dataclass(frozen=True)
class Draw:
    """Draws what decides the frames of a video."""

    data: Data

    def __call__(self, wanted: Wanted, generator: np.random.Generator) -> Wanted:
        """Returns the video with u drawn from [0, 1)."""
        return wanted._replace(u=draw(self.data, generator))


@dataclasses.dataclass(frozen=True)
class ReadBatch:
    """Reads the records of a batch, and decodes their frames into the memory of the batch.

    Grain sees a batch from here on, and not its records, whose many frames it would look through.
    """

    split: Split
    data: Data

    def __call__(self, batch: Sequence[Wanted]) -> Element:
        """Returns frames uint8 [B, F, H, W, 3], label, index, mask, clip_id, num_frames, votes [B, ...].

        And the truth, if the records have it.
        """
        size = self.data.image_size
        frames_BF = np.empty((len(batch), self.data.frames, size, size, 3), np.uint8)
        rows = [
            self._read(wanted, frames_F) for wanted, frames_F in zip(batch, frames_BF, strict=True)
        ]
        return {"frames": frames_BF} | {
            key: np.stack([row[key] for row in rows]) for key in rows[0]
        }

    def _read(self, wanted: Wanted, frames_F: np.ndarray) -> Element:
        """Fills the frames of a video, uint8 [F, H, W, 3], and returns its other fields."""
        record = self.split[wanted.video]
        clip_id = record["clip_id"]
        clip_id = clip_id.decode() if isinstance(clip_id, bytes) else str(clip_id)
        stored = record["frames"]
        try:
            indices_F = chosen_frames(len(stored), self.data, wanted.u)
            if isinstance(stored, CachedFrames):
                stored.take(indices_F, frames_F)
            else:
                decode_frames(stored, indices_F, self.data.image_size, self.data.fit, frames_F)
        except ValueError as error:
            where = f"{self.split.directory}, split {self.split.name}"
            raise ValueError(f"{where}: clip {clip_id!r}: {error}") from None
        element = {
            "label": np.int32(record["label"]),
            "index": np.int32(wanted.video),
            "mask": np.bool_(wanted.is_real),
            "clip_id": clip_id,
            "num_frames": np.int32(len(stored)),
            "votes": np.asarray(record["votes"], np.float32),
        }
        return element | {key: np.asarray(record[key]) for key in TRUTH_KEYS if key in record}


def train_loader(
    split: Split,
    data: Data,
    *,
    seed: int,
    local_batch_size: int,
    process: int,
    processes: int,
    start: int = 0,
) -> grain.IterDataset[Element]:
    """Returns endless batches: every epoch has each video once, in a new order.

    With config.data.sampling = "balanced", an epoch of the same length has each class equally often; see
    `balanced.BalancedOrder`.

    Each step takes one global batch, so the step is the position in the data, and a run can be resumed
    with another number of workers, threads, devices or processes.

    Args:
      split: the split to read.
      data: the settings.
      seed: of the order and of the frame sampling.
      local_batch_size: videos per batch in one process.
      process: index of this process.
      processes: number of processes.
      start: number of global batches to skip.
    """
    source = Padded(len(split), len(split))
    if data.sampling == "balanced":
        order = BalancedOrder(split.given_labels, seed)
        log.info("%s", order.describe(split.classes))
        dataset = grain.MapDataset.source(Reordered(source, order)).seed(seed)
    else:
        dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(Draw(data))
    return _batches(dataset, split, data, local_batch_size, process, processes, start)


def eval_loader(
    split: Split,
    data: Data,
    *,
    local_batch_size: int,
    process: int,
    processes: int,
    rounds: int | None = 1,
) -> grain.IterDataset[Element]:
    """Returns batches that have every video exactly once, over all processes together.

    The last batch is padded with elements whose mask is False. All processes get `eval_batches` batches.
    The other arguments are those of `train_loader`.

    Args:
      rounds: number of passes over the split; None for endless passes.
    """
    batch_size = local_batch_size * processes
    length = eval_batches(len(split), batch_size) * batch_size
    dataset = grain.MapDataset.source(Padded(len(split), length)).repeat(rounds)
    return _batches(dataset, split, data, local_batch_size, process, processes)


def eval_batches(videos: int, batch_size: int) -> int:
    """Returns the number of global batches in one pass of `eval_loader`."""
    return -(-videos // batch_size)


def _batches(
    dataset: grain.MapDataset[Wanted],
    split: Split,
    data: Data,
    local_batch_size: int,
    process: int,
    processes: int,
    start: int = 0,
) -> grain.IterDataset[Element]:
    """Batches the videos, selects those of this process, reads them, and prefetches.

    Batching comes before the selection: with P processes, local batch s P + p holds the rows of process p
    in global batch s.
    """
    # A tuple, not arrays of numbers: Grain would look at each of them, and the batch is read later.
    dataset = dataset.batch(local_batch_size, drop_remainder=True, batch_fn=tuple)
    if processes > 1 or start:
        dataset = dataset[start * processes + process :: processes]
    batches = dataset.map(ReadBatch(split, data)).to_iter_dataset(
        grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.num_threads)
    )
    if data.num_workers:
        workarounds.remove_stale_segments()
        options = grain.MultiprocessingOptions(data.num_workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=workers.start_worker)
    return batches
