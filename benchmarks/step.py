"""Throughput of the train and predict steps, compared with PyTorch and with the device's peak.

    python -m benchmarks.step                                  # small batches, on a CPU
    python -m benchmarks.step --batch=128 --rounds=10          # on a GPU
    python -m benchmarks.step --family=videomae --frames=16 --batch=32

Each contestant of a family trains and predicts videos of 16 and of 64 frames: `paper` is the default
network and M3DFEL beside M3DFEL in PyTorch, at 112 pixels; `videomae` is a VideoMAE-B that reads one clip,
beside the same in PyTorch, at 224. Contestants take turns, so that other load on the machine affects all of
them. FLOPs are those of the compiled predict step; a train step counts as three of them. Utilization is
relative to a large matrix product, measured in the same run. PyTorch is left out if it is not installed.
Prints a table and writes step.json.
"""

import statistics
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from benchmarks import harness
from configs import dfew, dfew_m3dfel, dfew_videomae_b
from rdfer_jax import config as config_lib
from rdfer_jax import paths, sharding
from rdfer_jax.config import Config
from rdfer_jax.steps import make_predict_step
from rdfer_jax.training.setup import ModelSetup
from rdfer_jax.types import Batch

NUM_CLASSES = 7
#: No changes to the settings.
NOTHING: Mapping[str, Any] = types.MappingProxyType({})
#: Sides of the square matrices whose product is the limit, by platform.
MATMUL = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


class Entry(NamedTuple):
    """A network of ours in a family: title in the table, config, and whether to recompute its blocks."""

    title: str
    config: Any
    remat: bool = False


M3DFEL = Entry("M3DFEL, rdfer_jax", dfew_m3dfel)
#: Family -> its networks, and the height and width of the frames. The PyTorch one is in `theirs`.
FAMILIES: dict[str, tuple[tuple[Entry, ...], int]] = {
    "paper": (
        (
            Entry("rdfer_jax", dfew),
            Entry("rdfer_jax, remat", dfew, remat=True),
            M3DFEL,
        ),
        112,
    ),
    "videomae": (
        (
            Entry("VideoMAE-B, rdfer_jax", dfew_videomae_b),
            Entry("VideoMAE-B, rdfer_jax, remat", dfew_videomae_b, remat=True),
        ),
        224,
    ),
}


class Contestant(NamedTuple):
    """One network in one framework.

    Attributes:
      name: of the network and framework.
      frames: of a video.
      train, predict: run one step on a batch and wait for the device.
      flops: of predicting one video; None if unknown.
      memory: bytes of a train step, arguments and temporaries; None if unknown.
    """

    name: str
    frames: int
    train: Callable[[], Any]
    predict: Callable[[], Any]
    flops: float | None = None
    memory: int | None = None


def paper_scale(
    entry: Entry, frames: int, batch: int, size: int, changes: Mapping[str, Any] = NOTHING
) -> Config:
    """Returns the settings of one of our networks for videos of that length, with some changes.

    The default network reads its clips; the others read the video once, as their PyTorch twins do.
    """
    settings = entry.config.get_config()
    settings.data.frames, settings.data.batch_size = frames, batch
    settings.data.image_size = max(size, settings.data.image_size)
    settings.augment.size, settings.model.remat = size, entry.remat
    settings.clips.frames = min(settings.clips.frames, frames)
    if entry.config is not dfew:
        settings.clips.number, settings.clips.frames = 1, frames
        settings.key.enabled = False
    settings.update_from_flattened_dict(changes)
    return config_lib.resolve(settings)


def ours(name: str, config: Config) -> Contestant:
    """Compiles a configured network."""
    batch_size, frames = config.data.batch_size, config.data.frames
    mesh = sharding.make_mesh(jax.devices()[:1])
    setup = ModelSetup(config, mesh, NUM_CLASSES, num_train=batch_size)
    step: Any
    step, arguments = setup.abstract_step()
    train_step = step.lower(*arguments).compile()
    predict_step = jax.jit(make_predict_step(config, setup.network)).lower(*arguments).compile()
    rng = np.random.default_rng(0)
    arrays = {
        "frames": rng.integers(0, 256, arguments[1].frames.shape, np.uint8),
        "label": np.arange(batch_size, dtype=np.int32) % NUM_CLASSES,
        "index": np.arange(batch_size, dtype=np.int32),
        "mask": np.ones(batch_size, bool),
        "votes": np.zeros((batch_size, NUM_CLASSES), np.float32),
    }
    batch = Batch(**jax.device_put(arrays, sharding.split_batch(mesh)))
    held = [setup.new_state()]

    def train_once() -> None:
        held[0], metrics = train_step(held[0], batch)
        jax.block_until_ready(metrics)

    def predict_once() -> None:
        jax.block_until_ready(predict_step(held[0], batch))

    cost: Any = predict_step.cost_analysis()
    memory: Any = train_step.memory_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return Contestant(name, frames, train_once, predict_once, cost["flops"] / batch_size, used)


def theirs(family: str, frames: int, batch: int, size: int) -> Iterator[Contestant]:
    """Yields the network of a family in PyTorch (compiled on a GPU), if PyTorch is installed."""
    if not harness.has_torch():
        return
    from benchmarks import torch_m3dfel, torch_steps, torch_vit

    name, model = {
        "paper": ("M3DFEL", lambda: torch_m3dfel.M3DFEL(NUM_CLASSES, frames)),
        "videomae": ("VideoMAE-B", lambda: torch_vit.VideoMAE(NUM_CLASSES, frames, size)),
    }[family]
    on_gpu = jax.devices()[0].platform == "gpu"
    steps = torch_steps.steps(model(), batch, frames, size, compiled=on_gpu)
    yield Contestant(f"{name}, PyTorch", frames, *steps)


def matmul_rate() -> float:
    """Returns the FLOP/s of a large matrix product, in the dtype of the networks."""
    platform = jax.devices()[0].platform
    side = MATMUL.get(platform, 2048)
    dtype = jnp.float32 if platform == "cpu" else jnp.bfloat16
    a = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * side**3 / min(seconds(lambda: jax.block_until_ready(product(a)), 5, warm=2))


def seconds(step: Callable[[], Any], repeats: int, warm: int = 1) -> list[float]:
    """Returns the seconds of each call, without the warm-up calls."""
    found = []
    for i in range(warm + repeats):
        start = time.perf_counter()
        step()
        if i >= warm:
            found.append(time.perf_counter() - start)
    return found


def measure(contestants: Sequence[Contestant], batch: int, rounds: int) -> list[dict[str, Any]]:
    """Times all contestants in turns and returns a row for each: videos/s, medians over the rounds."""
    kinds = ("train", "predict")
    times: dict[tuple[int, str], list[float]] = {
        (i, kind): [] for i in range(len(contestants)) for kind in kinds
    }
    for turn in range(rounds + 1):  # the first is to warm up
        for (i, kind), found in times.items():
            taken = seconds(getattr(contestants[i], kind), 1, warm=0)
            if turn:
                found += taken
    rows = []
    for i, one in enumerate(contestants):
        row: dict[str, Any] = {"name": one.name, "frames": one.frames, "batch": batch}
        row |= {kind: batch / statistics.median(times[i, kind]) for kind in kinds}
        row |= {"gflops": None if one.flops is None else one.flops / 1e9}
        row |= {"memory_per_video": None if one.memory is None else one.memory / batch}
        rows.append(row)
    return rows


def compare(rows: Sequence[dict[str, Any]], rate: float) -> list[dict[str, Any]]:
    """Adds to each row the ratio to PyTorch at the same length, and the utilization."""
    found = []
    for row in rows:
        peers = [r for r in rows if "PyTorch" in r["name"] and r["frames"] == row["frames"]]
        more: dict[str, Any] = {}
        for kind, passes in (("train", 3), ("predict", 1)):
            more[f"{kind}_ratio"] = row[kind] / peers[0][kind] if peers else None
            flops = row["gflops"]
            more[f"{kind}_mfu"] = None if flops is None else passes * flops * 1e9 * row[kind] / rate
        found.append(row | more)
    return found


def table(rows: Sequence[dict[str, Any]], rate: float) -> str:
    """Returns the results as a Markdown table."""
    heads = (
        "network",
        "frames",
        "trained videos/s",
        "x PyTorch",
        "utilization",
        "predicted videos/s",
        "x PyTorch",
        "utilization",
        "GFLOP a video",
        "MiB a video",
    )

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines: list[Sequence[str]] = [heads]
    for row in rows:
        memory = row["memory_per_video"]
        lines.append(
            [
                row["name"],
                str(row["frames"]),
                *(
                    cell(row[f"{kind}{what}"], form)
                    for kind in ("train", "predict")
                    for what, form in (("", ".2f"), ("_ratio", ".2f"), ("_mfu", ".1%"))
                ),
                cell(row["gflops"], ".2f"),
                cell(None if memory is None else memory / 2**20, ".0f"),
            ]
        )
    return f"{harness.table(lines)}\n\nlarge matrix product: {rate / 1e9:.0f} GFLOP/s"


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    options = flags.FLAGS
    rows = []
    entries, size = FAMILIES[options.family]
    size = options.size or size
    changes = harness.parse_settings(options.set)
    for frames in map(int, options.frames):
        contestants = [
            ours(entry.title, paper_scale(entry, frames, options.batch, size, changes))
            for entry in entries
        ]
        contestants += theirs(options.family, frames, options.batch, size)
        rows += measure(contestants, options.batch, options.rounds)
    rate = matmul_rate()
    rows = compare(rows, rate)
    print(f"{harness.hardware()}\n\n{table(rows, rate)}")
    output = epath.Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "hardware": harness.hardware(),
        "commit": harness.commit(),
        "matmul_flops_per_second": rate,
        "rows": rows,
    }
    output.write_text(harness.to_json(found))


if __name__ == "__main__":
    flags.DEFINE_enum("family", "paper", list(FAMILIES), "Networks to compare.")
    flags.DEFINE_integer("batch", 2, "Videos per step.", lower_bound=1)
    flags.DEFINE_multi_string("set", [], "Setting of our networks, such as model.dtype=float32.")
    flags.DEFINE_integer("size", 0, "Height and width of the frames; 0: the family's.")
    flags.DEFINE_list("frames", "16,64", "Frames of a video, multiples of 4.")
    flags.DEFINE_integer("rounds", 5, "Timed rounds.", lower_bound=1)
    paths.DEFINE_path("output", "runs/step.json", "File to write.")
    app.run(main)
