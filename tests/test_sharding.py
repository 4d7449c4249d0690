"""Devices of a CPU; in a process of its own, because JAX counts them once."""

import os
import subprocess
import sys

import pytest

DEVICES = """
import jax
from rdfer_jax import sharding
sharding.split_cpu({count})
print(jax.device_count())
"""


def printed(code, **environment):
    given = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=given | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the cores are not known")
def test_a_cpu_is_split_into_no_more_devices_than_cores():
    cores = len(os.sched_getaffinity(0))
    assert printed(DEVICES.format(count=0)) == 1
    assert printed(DEVICES.format(count=1)) == 1
    assert printed(DEVICES.format(count=cores + 3)) == cores
    asked = {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}
    assert printed(DEVICES.format(count=2), **asked) == 5
