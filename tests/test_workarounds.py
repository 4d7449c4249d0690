"""The workarounds do what they say. Those that cannot be undone run in a process of their own."""

import logging
import os
import platform
import subprocess
import sys
from multiprocessing import shared_memory

import pytest

from rdfer_jax import workarounds

TOUCHES = """
import resource, threading
from rdfer_jax import workarounds

size = 40 * 2**20  # more than glibc keeps by default; a name, so that Python folds no constant

def work():
    for _ in range(20):
        b"x" * size

if {kept}:
    assert workarounds.tune_glibc_malloc()
thread = threading.Thread(target=work)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ARENAS = """
import ctypes, re, tempfile, threading
from rdfer_jax import workarounds

if {kept}:
    assert workarounds.tune_glibc_malloc()
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


def printed(code):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_not_mapped_again():
    pages = 40 * 2**20 // os.sysconf("SC_PAGESIZE")
    plain, kept = (printed(TOUCHES.format(kept=kept)) for kept in (False, True))
    if plain < 10 * pages:
        pytest.skip("this system uses huge pages by default")
    assert kept < 3 * pages


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_threads_share_few_arenas():
    plain, kept = (printed(ARENAS.format(kept=kept)) for kept in (False, True))
    assert kept <= workarounds.ARENAS < plain


@pytest.mark.skipif(not workarounds.SHARED_MEMORY.is_dir(), reason="no folder of shared memory")
def test_segments_of_ended_processes_are_removed_and_those_of_others_stay():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f"{workarounds.segment_prefix(pid)}test" for pid in (ended.pid, os.getppid())]
    segments = [shared_memory.SharedMemory(name, create=True, size=8) for name in names]
    try:
        code = "from rdfer_jax import workarounds; workarounds.remove_stale_segments()"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert [(workarounds.SHARED_MEMORY / name).exists() for name in names] == [False, True]
    finally:
        segments[1].unlink()
        for segment in segments:
            segment.close()


@pytest.mark.parametrize(
    ("text", "lost", "killed"),
    [
        ("INTERNAL: Gloo AllGather failed: Connection reset by peer", True, False),
        ("UNAVAILABLE: failed to connect to all addresses", True, False),
        ("DEADLINE_EXCEEDED: Barrier timed out", True, False),
        ("Task 1 heartbeat timeout", True, False),
        ("Worker process was terminated unexpectedly with exit code -9", False, True),
        ("No space left on device", False, False),
    ],
)
def test_errors_without_a_class_are_told_apart_by_their_text(text, lost, killed):
    error = RuntimeError(text)
    assert workarounds.reports_lost_peer(error) == lost
    assert workarounds.reports_killed_worker(error) == killed


@pytest.mark.parametrize("before", [False, True])
def test_the_absl_logger_is_silent_inside_only(before, monkeypatch):
    logger = logging.getLogger("absl")
    monkeypatch.setattr(logger, "disabled", before)
    with pytest.raises(ZeroDivisionError), workarounds.silence_orbax():
        assert logger.disabled
        _ = 1 / 0
    assert logger.disabled == before
