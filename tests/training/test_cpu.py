"""What a run does to its process to be fast on a CPU; each in a process of its own, as it stays done."""

import os
import platform
import subprocess
import sys

import pytest

from rdfer_jax.training import malloc

TOUCHES = """
import resource, threading
from rdfer_jax import memory

size = 40 * 2**20  # more than glibc keeps by itself; a name, so that nothing is made beforehand

def work():
    for _ in range(20):
        b"x" * size

if {kept}:
    assert malloc.keep_freed()
thread = threading.Thread(target=work)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ARENAS = """
import ctypes, re, tempfile, threading
from rdfer_jax import memory

if {kept}:
    assert malloc.keep_freed()
held = threading.Barrier(17)

def work():
    kept = bytearray(100_000)
    held.wait()
    held.wait()

for _ in range(16):
    threading.Thread(target=work).start()
held.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(len(re.findall(b"<heap nr=", file.read())))
held.wait()
"""
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can keep memory")
def test_memory_that_was_freed_is_not_mapped_again():
    pages = 40 * 2**20 // os.sysconf("SC_PAGESIZE")
    plain, kept = (printed(TOUCHES.format(kept=kept)) for kept in (False, True))
    if plain < 10 * pages:
        pytest.skip("this system gives huge pages unasked")
    assert kept < 3 * pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
def test_threads_take_memory_from_few_pools():
    plain, kept = (printed(ARENAS.format(kept=kept)) for kept in (False, True))
    assert kept <= malloc.ARENAS < plain


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the cores are not known")
def test_a_cpu_is_split_into_no_more_devices_than_cores():
    cores = len(os.sched_getaffinity(0))
    assert printed(DEVICES.format(count=0)) == 1
    assert printed(DEVICES.format(count=1)) == 1
    assert printed(DEVICES.format(count=cores + 3)) == cores
    asked = {"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}
    assert printed(DEVICES.format(count=2), **asked) == 5
