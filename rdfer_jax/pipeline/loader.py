"""A split -> batches on the host, through Grain.

Every process sees the same global order of videos and takes its own rows of each global batch, so the
data of a run do not depend on the number of processes. Frames are sampled with a generator that is
tied to the position in that order, so they do not depend on the number of workers either.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from rdfer_jax import workarounds
from rdfer_jax.config import Data
from rdfer_jax.pipeline import workers
from rdfer_jax.pipeline.decode import decode_frames
from rdfer_jax.pipeline.frame_cache import CachedFrames
from rdfer_jax.pipeline.sampling import frame_indices
from rdfer_jax.pipeline.source import TRUTH_KEYS, Split

Element = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Padded:
    """The positions of a split, followed by as many again as fill up the last batch.

    A padding position stands for the first record, with mask False.
    """

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
    """Record -> element: samples the buffer's frames, decodes only these, keeps what else is known."""

    data: Data
    where: str

    def __call__(self, record: Mapping[str, Any], generator: np.random.Generator | None) -> Element:
        """Returns frames uint8 [F, H, W, 3], label, index, mask, clip_id, votes, and the truth."""
        clip_id = record["clip_id"]
        clip_id = clip_id.decode() if isinstance(clip_id, bytes) else str(clip_id)
        stored = record["frames"]
        try:
            indices_F = frame_indices(len(stored), self.data.frames, generator)
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
        """Like a call, with the frames in the middle of their parts of the video."""
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
    """Returns endless batches: every epoch holds each video once, in an order of its own.

    A step takes one global batch, so that the step says where in the data a run is, and a run can go on
    with any number of workers, threads, devices and processes.

    Args:
      split: what to read.
      data: how.
      seed: of the order and of the frames.
      local_batch_size: videos of a batch in one process.
      process: this process, of `processes`.
      processes: number of processes.
      start: global batches that were taken before.
    """
    source = Padded(split, len(split))
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
    """Returns batches in which every video comes exactly once, over all processes together.

    The last batch is filled up with elements whose mask is False. All processes get equally many
    batches, `eval_batches`. Arguments as in train_loader, but for

    Args:
      rounds: how often the whole split comes, one round after the other; None is for ever.
    """
    batch_size = local_batch_size * processes
    length = eval_batches(len(split), batch_size) * batch_size
    dataset = grain.MapDataset.source(Padded(split, length))
    dataset = dataset.map(ToElement(data, _where(split)).evaluate).repeat(rounds)
    return _batches(dataset, data, local_batch_size, process, processes)


def eval_batches(videos: int, batch_size: int) -> int:
    """Returns the number of global batches that a round of `eval_loader` has."""
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
    """Batches, keeps this process's share, and reads ahead.

    Batching comes before the slice by process: local batch s P + p holds the rows p of the global
    batch s.
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
