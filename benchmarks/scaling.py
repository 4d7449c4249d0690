"""How a train step scales with devices, processes, videos and frames.

    python -m benchmarks.scaling [--config=configs/synthetic.py] [--set=model.trunk=resnet18]

Trains a few steps on the same random videos with 1, 2, 4 and 8 simulated devices, and with two processes.
For each run, prints the difference of its parameters from those of one device, and the collectives of the
compiled step: they should move the gradients once, the batch statistics and a few numbers, and nothing that
grows with the batch. Then compiles the step for more videos and more frames and prints the growth of its
FLOPs. Writes scaling.json. Simulated devices share the cores, so nothing is timed.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from benchmarks import harness
from benchmarks.hlo import collectives
from rdfer_jax import paths, sharding
from rdfer_jax.config import Config
from rdfer_jax.training.setup import ModelSetup
from rdfer_jax.types import Batch

#: Devices of each process of a run.
RUNS: Mapping[str, Sequence[int]] = {
    "1 device": (1,),
    "2 devices": (2,),
    "4 devices": (4,),
    "8 devices": (8,),
    "2 processes of 1": (1, 1),
}
NUM_CLASSES = 7


def settings(path: str, changes: Sequence[str], batch: int, frames: int = 0) -> Config:
    """Returns the settings of a file with changes, for a batch size and a number of frames."""
    overrides = harness.parse_settings(changes) | {"data.batch_size": batch}
    if frames:
        overrides |= {"data.frames": frames, "clips.frames": min(frames, 16)}
    return harness.load(path, overrides)


def arrays(config: Config) -> dict[str, np.ndarray]:
    """Returns random videos, the same every time."""
    rng = np.random.default_rng(0)
    batch, side = config.data.batch_size, config.data.image_size
    return {
        "frames": rng.integers(0, 256, (batch, config.data.frames, side, side, 3), np.uint8),
        "label": np.arange(batch, dtype=np.int32) % NUM_CLASSES,
        "index": np.arange(batch, dtype=np.int32),
        "mask": np.ones(batch, bool),
        "votes": np.zeros((batch, NUM_CLASSES), np.float32),
    }


def set_up(config: Config, mesh: jax.sharding.Mesh) -> ModelSetup:
    """Returns the set-up of a run whose training split is one batch."""
    return ModelSetup(config, mesh, NUM_CLASSES, num_train=config.data.batch_size)


def compiled(setup: ModelSetup) -> Any:
    """Returns the compiled train step."""
    step: Any
    step, arguments = setup.abstract_step()
    return step.lower(*arguments).compile()


def train_some(config: Config, steps: int, output: epath.Path) -> None:
    """Trains on all devices of all processes; the first one writes parameters and collectives."""
    mesh = sharding.make_mesh()
    setup = set_up(config, mesh)
    step, state, rows = compiled(setup), setup.new_state(), setup.local_batch_size
    mine = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
    layout = sharding.split_batch(mesh)
    batch = Batch(
        **{
            name: jax.make_array_from_process_local_data(layout, array[mine])
            for name, array in arrays(config).items()
        }
    )
    for _ in range(steps):
        state, _ = step(state, batch)
    if jax.process_index() == 0:
        leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)]
        statistics = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state.batch_stats))
        np.save(output.with_suffix(".npy"), np.concatenate(leaves))
        found = {
            "collectives": collectives(step.as_text()),
            "gradient_bytes": sum(leaf.nbytes for leaf in leaves),
            "statistics_bytes": statistics,
        }
        output.write_text(json.dumps(found))


def run(
    name: str, devices: Sequence[int], words: Sequence[str], output: epath.Path
) -> dict[str, Any]:
    """Runs one of RUNS in new processes; returns its results and its parameters."""
    path = output / f"{name.replace(' ', '_')}.json"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for process, count in enumerate(devices):
        arguments = [*words, f"--child={path}"]
        if len(devices) > 1:
            arguments.append(f"--join={address},{len(devices)},{process}")
        options = f"--xla_force_host_platform_device_count={count}"
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scaling", *arguments],
                env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": options},
            )
        )
    codes = [process.wait() for process in started]
    if any(codes):
        raise ValueError(f"{name}: exit codes {codes}")
    return json.loads(path.read_text()) | {"parameters": np.load(path.with_suffix(".npy"))}


def compare(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each run, compared with the first one, which has one device."""
    first = next(iter(found.values()))["parameters"]
    rows = []
    for name, one in found.items():
        total = sum(kind["bytes"] for kind in one["collectives"].values())
        rows.append(
            {
                "run": name,
                "difference": float(np.abs(one["parameters"] - first).max()),
                "collectives": one["collectives"],
                "bytes": total,
                "gradient_bytes": one["gradient_bytes"],
                "beyond_gradients": total - one["gradient_bytes"] if total else 0,
                "statistics_bytes": one["statistics_bytes"],
            }
        )
    return rows


def growth(
    path: str, changes: Sequence[str], batches: Sequence[int], frames: Sequence[int]
) -> list[Any]:
    """Returns the FLOPs of a step for each number of videos, and for each number of frames."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    cases = [("videos", batch, settings(path, changes, batch)) for batch in batches]
    cases += [("frames", n, settings(path, changes, batches[0], n)) for n in frames]
    rows: list[dict[str, Any]] = []
    for what, number, config in cases:
        flops = compiled(set_up(config, mesh)).cost_analysis()["flops"]
        first = next((row for row in rows if row["of"] == what), None)
        rows.append(
            {
                "of": what,
                "number": number,
                "flops": flops,
                "times": flops / first["flops"] if first else 1.0,
                "expected": number / first["number"] if first else 1.0,
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]], grown: Sequence[Mapping[str, Any]]) -> str:
    """Returns both as Markdown tables."""
    runs = [
        ["run", "parameters differ by", "collectives of a step", "bytes", "beyond the gradients"]
    ]
    for row in rows:
        kinds = ", ".join(f"{kind['count']} {name}" for name, kind in row["collectives"].items())
        sizes = [f"{row[name]:,}" for name in ("bytes", "beyond_gradients")]
        runs.append([row["run"], f"{row['difference']:.1e}", kinds or "none", *sizes])
    steps = [["step over", "GFLOP", "times the first", "proportional"]]
    for row in grown:
        numbers = [f"{row['flops'] / 1e9:.1f}", f"{row['times']:.2f}", f"{row['expected']:.0f}"]
        steps.append([f"{row['number']} {row['of']}", *numbers])
    return (
        f"{harness.table(runs)}\n\ngradients: {rows[0]['gradient_bytes']:,} bytes; batch statistics: "
        f"{rows[0]['statistics_bytes']:,} bytes\n\n{harness.table(steps)}"
    )


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes; or, with --child, is one process of a run."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    absl_logging.set_verbosity(absl_logging.WARNING)
    options = flags.FLAGS
    if options.child:
        if options.join:
            address, processes, process = options.join.split(",")
            jax.distributed.initialize(address, int(processes), int(process))
        train_some(
            settings(options.config, options.set, options.batch),
            options.steps,
            epath.Path(options.child),
        )
        return
    jax.config.update("jax_platforms", "cpu")
    output = epath.Path(options.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    words = [f"--config={options.config}", f"--batch={options.batch}", f"--steps={options.steps}"]
    words += [f"--set={change}" for change in options.set]
    rows = compare({name: run(name, devices, words, output) for name, devices in RUNS.items()})
    batches, frames = ([int(n) for n in given] for given in (options.videos, options.frames))
    grown = growth(options.config, options.set, batches, frames)
    print(table(rows, grown))
    report = {"commit": harness.commit(), "runs": rows, "growth": grown}
    (output / "scaling.json").write_text(harness.to_json(report))


if __name__ == "__main__":
    paths.DEFINE_path("config", "configs/synthetic.py", "File of the settings.")
    flags.DEFINE_multi_string("set", [], "Further settings, such as model.trunk=resnet18.")
    flags.DEFINE_integer("batch", 16, "Videos in a step, a multiple of 8.", lower_bound=8)
    flags.DEFINE_integer("steps", 3, "Steps of training.", lower_bound=1)
    flags.DEFINE_list("videos", "2,8,32", "Videos of a step whose FLOPs are counted.")
    flags.DEFINE_list("frames", "16,64,256", "Frames of a video whose FLOPs are counted.")
    paths.DEFINE_path("output", "runs/scaling", "Folder for everything.")
    flags.DEFINE_string("child", "", "Internal.")
    flags.DEFINE_string("join", "", "Internal.")
    app.run(main)
