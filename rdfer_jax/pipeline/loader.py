"""Batches of a split on the host, read by Grain.

Every process uses the same global order of videos and takes its own rows of each global batch, so the
data of a run do not depend on the number of processes. The random generator of a video depends on its
position in that order, so the frames do not depend on the number of workers either.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from rdfer_jax import workarounds
from rdfer_jax.config import Data
from rdfer_jax.pipeline import workers
from rdfer_jax.pipeline.balanced import BalancedOrder, Reordered
from rdfer_jax.pipeline.decode import decode_frames
from rdfer_jax.pipeline.frame_cache import CachedFrames
from rdfer_jax.pipeline.sampling import chosen_frames
from rdfer_jax.pipeline.source import TRUTH_KEYS, Split

log = logging.getLogger(__name__)

Element = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Padded:
    """A split, padded to fill the last batch; padding is the first record with mask False."""

    split: Split
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Element:
        real = position < len(self.split)
        index = position if real else 0
        record = dict(self.split[index])
        return record | {"index": np.int32(index), "mask": np.bool_(real)}


@dataclasses.dataclass(frozen=True)
class ToElement:
    """Converts a record to an element: samples and decodes its frames, and keeps its other fields."""

    data: Data
    where: str

    def __call__(self, record: Mapping[str, Any], generator: np.random.Generator | None) -> Element:
        """Returns frames uint8 [F, H, W, 3], label, index, mask, clip_id, votes, and the truth if known."""
        clip_id = record["clip_id"]
        clip_id = clip_id.decode() if isinstance(clip_id, bytes) else str(clip_id)
        stored = record["frames"]
        try:
            indices_F = chosen_frames(len(stored), self.data, generator)
            if isinstance(stored, CachedFrames):
                frames = stored.take(indices_F)
            else:
                frames = decode_frames(stored, indices_F, self.data.image_size, self.data.fit)
        except ValueError as error:
            raise ValueError(f"{self.where}: clip {clip_id!r}: {error}") from None
        element = {
            "frames": frames,
            "label": np.int32(record["label"]),
            "index": record["index"],
            "mask": record["mask"],
            "clip_id": clip_id,
            "num_frames": np.int32(len(stored)),
            "votes": np.asarray(record["votes"], np.float32),
        }
        return element | {key: np.asarray(record[key]) for key in TRUTH_KEYS if key in record}

    def evaluate(self, record: Mapping[str, Any]) -> Element:
        """Returns the element with the middle frame of each part of the video."""
        return self(record, None)


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
    source = Padded(split, len(split))
    if data.sampling == "balanced":
        order = BalancedOrder(split.given_labels, seed)
        log.info("%s", order.describe(split.classes))
        dataset = grain.MapDataset.source(Reordered(source, order)).seed(seed)
    else:
        dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(ToElement(data, _where(split)))
    return _batches(dataset, data, local_batch_size, process, processes, start)


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
    dataset = grain.MapDataset.source(Padded(split, length))
    dataset = dataset.map(ToElement(data, _where(split)).evaluate).repeat(rounds)
    return _batches(dataset, data, local_batch_size, process, processes)


def eval_batches(videos: int, batch_size: int) -> int:
    """Returns the number of global batches in one pass of `eval_loader`."""
    return -(-videos // batch_size)


def _where(split: Split) -> str:
    return f"{split.directory}, split {split.name}"


def _batches(
    dataset: grain.MapDataset,
    data: Data,
    local_batch_size: int,
    process: int,
    processes: int,
    start: int = 0,
) -> grain.IterDataset[Element]:
    """Batches the elements, selects those of this process, and prefetches.

    Batching comes before the selection: with P processes, local batch s P + p holds the rows of process p
    in global batch s.
    """
    dataset = dataset.batch(local_batch_size, drop_remainder=True)
    if processes > 1 or start:
        dataset = dataset[start * processes + process :: processes]
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=data.num_threads, prefetch_buffer_size=data.num_threads)
    )
    if data.num_workers:
        workarounds.remove_stale_segments()
        options = grain.MultiprocessingOptions(data.num_workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=workers.start_worker)
    return batches
