"""Eight simulated CPU devices for all tests, and what several test files share.

A test that means one device says so: `sharding.make_mesh(jax.devices()[:1])`.
"""

import os

# Before the first import of jax, which reads them once. The programs of the tests are small and run once
# or twice: compiling them with little effort halves the time that the tests take.
os.environ["JAX_PLATFORMS"] = "cpu"
_given = os.environ.get("XLA_FLAGS", "")
for _flag in (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
):
    if _flag.split("=")[0] not in _given:
        _given += " " + _flag
os.environ["XLA_FLAGS"] = _given.strip()

import pytest  # noqa: E402
import tiny  # noqa: E402
from absl import flags  # noqa: E402
from hypothesis import settings  # noqa: E402

# Grain's worker processes read absl flags, which only a command line parses.
flags.FLAGS.mark_as_parsed()

# A first example compiles, which takes longer than any deadline.
settings.register_profile("rdfer_jax", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("rdfer_jax")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Settings (config.Data) of a built data set; see tiny.build."""
    root = tmp_path_factory.mktemp("tfds")
    tiny.build(root)
    return tiny.data(root)
