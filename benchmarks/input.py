"""Frames per second of the input pipeline, compared with bare decoding and a PyTorch DataLoader.

    python -m benchmarks.input --workers=0,1,2                # frames of 256 pixels, read at 112
    python -m benchmarks.input --workers=0,4,8,16 --clips=512

Renders synthetic clips and writes their frames as JPEG files, as data sets are distributed. Builds them
twice: with their bytes kept, and at the short side --stored, as the configurations of the published data
sets do. Then the same frames are read at --size by
- bare decoding: one process per core decodes and shrinks bytes in memory, which is the upper limit;
- rdfer_jax: records, sampling and batches, with each number of worker processes (0: threads);
- rdfer_jax with config.data.frame_cache, for which frames were decoded once, before;
- PyTorch's DataLoader with PIL, as in the published code of this field: a file for each frame. Left out if
  torch is not installed.
They take turns. Prints a table and writes input.json.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from benchmarks import harness
from data import builder
from data.synthetic_faces import clips as drawing
from data.synthetic_faces.parameters import CLASSES, Parameters
from rdfer_jax import paths, processes, workarounds
from rdfer_jax.config import Data
from rdfer_jax.media.images import encode_jpeg
from rdfer_jax.pipeline import loader, source
from rdfer_jax.pipeline.decode import decode_frames
from rdfer_jax.pipeline.feed import close
from rdfer_jax.pipeline.sampling import chosen_frames, draw

#: Epochs per timed reading: many more batches than a loader prefetches.
EPOCHS = 8


def write_clips(root: epath.Path, clips: int, frames: int, side: int) -> None:
    """Writes root/<class>/<clip>/<frame>.jpg, synthetic faces of side x side pixels, unless they exist."""
    parameters = Parameters(
        num_train=max(clips, len(CLASSES)), num_test=1, num_frames=frames, image_size=side
    )
    for i in range(clips):
        folder = root / CLASSES[i % len(CLASSES)] / f"{i:05d}"
        if folder.exists():
            continue
        folder.mkdir(parents=True)
        pictures = drawing.render_clip(parameters, "train", i).frames
        for number, picture in enumerate(pictures):
            (folder / f"{number:05d}.jpg").write_bytes(encode_jpeg(picture, 95))


def built(root: epath.Path, side: int, data_dir: epath.Path) -> source.Split:
    """Builds the written clips at a short side, and opens them. At their own side they keep their bytes."""
    directory = builder.build(
        "video_folder",
        data_dir,
        variant=f"side{side}",
        options={"source_dir": str(root), "short_side": side, "test_percent": 0.0},
    )
    return source.open_split(directory, "train")


class Bare:
    """Decodes the sampled frames of EPOCHS epochs in each of several processes, one per core."""

    def __init__(self, directory: epath.Path, data: Data, cores: int):
        self._pool = concurrent.futures.ProcessPoolExecutor(
            cores,
            multiprocessing.get_context("spawn"),
            initializer=_load,
            initargs=(os.fspath(directory), data),
        )
        self._cores = cores
        self()

    def __call__(self) -> int:
        """Decodes them in every process; returns the total number of frames."""
        return sum(self._pool.map(_decode, range(self._cores)))

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown()


_loaded: list[Any] = []


def _load(directory: str, data: Data) -> None:
    cv2.setNumThreads(1)
    processes.exit_with_parent()
    rng = np.random.default_rng(0)
    for record in source.open_split(epath.Path(directory), "train"):
        jpegs = record["frames"]
        _loaded.append((jpegs, chosen_frames(len(jpegs), data, draw(data, rng)), data))


def _decode(_: int) -> int:
    for _ in range(EPOCHS):
        for jpegs, indices_F, data in _loaded:
            decode_frames(jpegs, indices_F, data.image_size, data.fit)
    return EPOCHS * sum(len(np.unique(indices_F)) for _, indices_F, _ in _loaded)


def ours(split: source.Split, data: Data, workers: int) -> "Reading":
    """Returns a reader of our pipeline that reads EPOCHS epochs at a time from an endless stream."""
    data = dataclasses.replace(data, num_workers=workers)
    clips = len(split)
    # As many clips as real data sets have: with a hundred, Grain needs 0.14 ms to find the next one.
    split = split.select(np.tile(np.arange(clips), -(-10_000 // clips)))
    batches = loader.train_loader(
        split, data, seed=0, local_batch_size=data.batch_size, process=0, processes=1
    )
    iterator = iter(batches)
    next(iterator)  # the workers have started
    return Reading(iterator, EPOCHS * max(1, clips // data.batch_size))


class Reading:
    """Reads a number of batches of a stream whenever it is called, and returns the number of frames."""

    def __init__(self, iterator: Iterator[Any], batches: int):
        self._iterator, self._batches = iterator, batches

    def __call__(self) -> int:
        """Reads them."""
        frames = (next(self._iterator)["frames"] for _ in range(self._batches))
        return sum(batch.shape[0] * batch.shape[1] for batch in frames)

    def close(self) -> None:
        """Ends the workers."""
        close(self._iterator)


def theirs(root: epath.Path, data: Data, workers: int) -> Reading:
    """Returns a reader of PyTorch's pipeline with PIL, as `ours` does."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Clips(Dataset):
        def __init__(self) -> None:
            self.folders = sorted(path for path in root.glob("*/*") if path.is_dir())

        def __len__(self) -> int:
            return len(self.folders)

        def __getitem__(self, index: int) -> dict[str, Any]:
            files = sorted(self.folders[index].iterdir())
            chosen = chosen_frames(len(files), data, draw(data, np.random.default_rng()))
            size = (data.image_size, data.image_size)
            pictures = [
                np.asarray(
                    Image.open(os.fspath(files[i]))
                    .convert("RGB")
                    .resize(size, Image.Resampling.BILINEAR)
                )
                for i in chosen
            ]
            return {"frames": torch.from_numpy(np.stack(pictures))}

    def endless() -> Iterator[Any]:
        batches = DataLoader(
            Clips(),
            batch_size=data.batch_size,
            shuffle=True,
            num_workers=workers,
            drop_last=True,
            persistent_workers=workers > 0,
        )
        while True:
            yield from batches

    iterator = endless()
    next(iterator)
    return Reading(iterator, EPOCHS * max(1, len(list(root.glob("*/*"))) // data.batch_size))


def measure(contestants: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Lets all contestants take turns; returns the frames per second of each, median over the rounds.

    Each reads twice per turn, and the second reading is timed: by then it has used up what it prefetched
    during the turns of the others.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, read in contestants.items():
            read()
            start = time.perf_counter()
            frames = read()
            rates[name].append(frames / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def rows(rates: dict[str, float]) -> list[dict[str, Any]]:
    """Returns a row for each of our readers: its rate, share of the limit, and ratio to the peer.

    Args:
      rates: frames per second by "<side>, bare", "<side>, <workers>", "<side> cached, <workers>" and
        "PyTorch, <workers>". Threads are compared with the fastest of PyTorch's.
    """
    peers = {name.split(", ")[1]: rate for name, rate in rates.items() if "PyTorch" in name}
    result = []
    for name, rate in rates.items():
        side, workers = name.split(", ")
        if side == "PyTorch" or workers == "bare":
            continue
        stored, _, cached = side.partition(" ")
        limit = rates[f"{stored}, bare"]
        peer = max(peers.values(), default=None) if workers == "0" else peers.get(workers)
        result.append(
            {
                "stored_side": int(stored),
                "cached": bool(cached),
                "workers": int(workers),
                "frames_per_second": rate,
                "limit": limit,
                "share_of_limit": rate / limit,
                "peer": peer,
                "times_peer": None if peer is None else rate / peer,
            }
        )
    return result


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    heads = ["stored at", "workers", "frames/s", "limit", "share", "PyTorch and PIL", "times"]
    lines = [heads]
    for row in rows:
        peer = (
            ["", ""] if row["peer"] is None else [f"{row['peer']:.0f}", f"{row['times_peer']:.2f}"]
        )
        lines.append(
            [
                f"{row['stored_side']} px" + ", decoded once" * row["cached"],
                str(row["workers"] or "threads"),
                f"{row['frames_per_second']:.0f}",
                f"{row['limit']:.0f}",
                f"{row['share_of_limit']:.0%}",
                *peer,
            ]
        )
    return harness.table(lines)


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    workarounds.tune_glibc_malloc()  # as rdfer_jax.main does
    options = flags.FLAGS
    output, cores = epath.Path(options.output), harness.cores()
    root = output / f"clips{options.clips}x{options.length}at{options.side}"
    write_clips(root, options.clips, options.length, options.side)
    data = Data(
        frames=options.frames,
        image_size=options.size,
        batch_size=options.batch,
        num_threads=cores,
    )
    workers = [int(count) for count in options.workers]
    contestants: dict[str, Bare | Reading] = {}
    for side in sorted({options.side, options.stored}, reverse=True):
        split = built(root, side, output / "tfds")
        contestants[f"{side}, bare"] = Bare(split.directory, data, cores)
        contestants |= {f"{side}, {count}": ours(split, data, count) for count in workers}
        if side == options.side:
            cached = split.with_cache(dataclasses.replace(data, frame_cache=str(output / "frames")))
            contestants |= {
                f"{side} cached, {count}": ours(cached, data, count) for count in workers
            }
    if harness.has_torch():
        contestants |= {f"PyTorch, {count}": theirs(root, data, count) for count in workers}
    rates = measure(contestants, options.rounds)
    for reading in contestants.values():
        reading.close()
    results = rows(rates)
    print(f"{harness.hardware()}\n\n{table(results)}")
    report = {
        "hardware": harness.hardware(),
        "commit": harness.commit(),
        "rates": rates,
        "rows": results,
    }
    (output / "input.json").write_text(harness.to_json(report))


if __name__ == "__main__":
    flags.DEFINE_integer("clips", 128, "Number of synthetic clips.", lower_bound=8)
    flags.DEFINE_integer("length", 32, "Frames of each clip.", lower_bound=1)
    flags.DEFINE_integer("side", 256, "Height and width of the frames, in pixels.", lower_bound=16)
    flags.DEFINE_integer("stored", 128, "Short side that a build stores, in pixels.", lower_bound=8)
    flags.DEFINE_integer("frames", 16, "Frames that are sampled from each clip.", lower_bound=1)
    flags.DEFINE_integer("size", 112, "Height and width of the decoded frames.", lower_bound=8)
    flags.DEFINE_integer("batch", 16, "Clips in a batch.", lower_bound=1)
    flags.DEFINE_list("workers", "0,1,2", "Numbers of worker processes to compare.")
    flags.DEFINE_integer("rounds", 3, "Turns of each contestant.", lower_bound=1)
    paths.DEFINE_path("output", "runs/input", "Folder for everything.")
    app.run(main)
