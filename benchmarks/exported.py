"""Does an exported network compute the same on this device, and as fast?

    python -m benchmarks.exported [--config=configs/dfew.py] [--batch=8] [--repeats=9]

Exports the network of the package and an untrained one of --config as StableHLO, as `rdfer export` does,
reads the bytes back, and runs them beside the network itself, in turn. Prints a table: above a ratio of 1,
the exported program is slower.
"""

import statistics
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax import export as jax_export

from benchmarks import harness, runtimes
from rdfer_jax import paths
from rdfer_jax.export import exporter
from rdfer_jax.predict import predictor, trained


def measure(network: trained.Trained, batch: int, repeats: int) -> dict[str, Any]:
    """Returns the seconds of each measurement of both, and the largest difference of their outputs."""
    function = network.function()
    compiled = jax.jit(function)
    program = jax_export.deserialize(bytearray(exporter.stablehlo(function, network.shape)))
    call = jax.jit(program.call)
    frames = np.random.default_rng(0).integers(0, 256, (batch, *network.shape), dtype=np.uint8)
    expected, found = jax.device_get((compiled(frames), call(frames)))
    seconds: dict[str, list[float]] = {"network": [], "exported": []}
    for _ in range(repeats):
        seconds["network"].append(runtimes.seconds(lambda: jax.device_get(compiled(frames))))
        seconds["exported"].append(runtimes.seconds(lambda: jax.device_get(call(frames))))
    differences = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), expected, found)
    return {**seconds, "difference": max(jax.tree.leaves(differences))}


def main(_: list[str]) -> None:
    """Measures, and prints the table."""
    options = flags.FLAGS
    rows = [["network", "itself, ms", "exported, ms", "ratio", "largest difference"]]
    networks = {
        predictor.PACKAGED: trained.from_package(predictor.PACKAGED),
        options.config: runtimes.untrained(options.config),
    }
    for name, network in networks.items():
        found = measure(network, options.batch, options.repeats)
        pairs = zip(found["exported"], found["network"], strict=True)
        times = [f"{1000 * min(found[kind]):.2f}" for kind in ("network", "exported")]
        ratio = statistics.median(a / b for a, b in pairs)
        rows.append([name, *times, f"{ratio:.2f}", f"{found['difference']:.1g}"])
    print(f"{harness.hardware()}, batch {options.batch}\n\n{harness.table(rows)}")


if __name__ == "__main__":
    paths.DEFINE_path("config", "configs/synthetic.py", "Settings of the untrained network.")
    flags.DEFINE_integer("batch", 8, "Windows in a batch.", lower_bound=1)
    flags.DEFINE_integer("repeats", 9, "Measurements of each.", lower_bound=1)
    app.run(main)
