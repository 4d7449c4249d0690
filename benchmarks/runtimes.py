"""Speed of a network on JAX and on ONNX Runtime, one beside the other.

    python -m benchmarks.runtimes [--config=configs/synthetic.py] [--batch=8] [--repeats=9]

Times the network of the package and an untrained one of --config, the runtimes in turn, so that what else
the machine does hits both. Prints a table with the ratio: above 1, ONNX Runtime is faster. Needs the
extra `export`.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks import harness
from rdfer_jax import models, paths
from rdfer_jax.export import onnx_convert, runtime
from rdfer_jax.export.names import INPUT
from rdfer_jax.predict import predictor, trained
from rdfer_jax.state import TrainState


def measure(network: trained.Trained, batch: int, repeats: int) -> tuple[list[float], list[float]]:
    """Returns the seconds of each measurement with JAX and with ONNX Runtime, in turn."""
    function = network.function()
    session = runtime.Session(
        onnx_convert.convert(function, network.shape, INPUT).SerializeToString()
    )
    compiled = jax.jit(function)
    frames = np.random.default_rng(0).integers(0, 256, (batch, *network.shape), dtype=np.uint8)
    with_jax, with_onnx = [], []
    for _ in range(repeats + 1):
        with_jax.append(seconds(lambda: jax.device_get(compiled(frames))))
        with_onnx.append(seconds(lambda: session(frames)))
    return with_jax[1:], with_onnx[1:]  # the first ones compile


def untrained(path: str) -> trained.Trained:
    """Returns the network of a configuration with random weights."""
    config = trained.for_video(harness.load(path, {}))
    found = jax.jit(models.create(config, 7, "cpu").init)(jax.random.key(0))
    state = TrainState(
        seed=jnp.uint32(0), step=jnp.int32(0), params=found["params"],
        batch_stats=found.get("batch_stats", {}), opt_state=(), teacher=None, memory=None,
    )  # fmt: skip
    return trained.of_state(config, tuple("abcdefg"), {}, {"run": path}, state)


def seconds(work: Callable[[], Any]) -> float:
    """Returns how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(_: list[str]) -> None:
    """Measures, and prints the table."""
    options = flags.FLAGS
    rows = [["network", "JAX", "ONNX Runtime", "ratio"]]
    networks = {
        predictor.PACKAGED: trained.from_package(predictor.PACKAGED),
        options.config: untrained(options.config),
    }
    for name, network in networks.items():
        both = measure(network, options.batch, options.repeats)
        ratio = statistics.median(a / b for a, b in zip(*both, strict=True))
        times = [f"{1000 * min(seconds):.1f} ms" for seconds in both]
        rows.append([name, *times, f"{ratio:.2f}"])
    print(f"{harness.hardware()}, batch {options.batch}")
    print(harness.table(rows))


if __name__ == "__main__":
    paths.DEFINE_path("config", "configs/synthetic.py", "Settings of the untrained network.")
    flags.DEFINE_integer("batch", 8, "Windows in a batch.", lower_bound=1)
    flags.DEFINE_integer("repeats", 9, "Measurements of each.", lower_bound=1)
    app.run(main)
