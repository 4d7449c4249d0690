"""Set-up shared by all tests: eight simulated CPU devices, and a summary of the skipped tests.

A test that needs a single device asks for one: `sharding.make_mesh(jax.devices()[:1])`.
"""

import collections
import os
import shutil
import tempfile

# JAX reads these once, at its first import. The programs of the tests are small and run once or twice, so
# compiling with little optimization, and without MLIR, takes a third of the time.
os.environ["JAX_PLATFORMS"] = "cpu"
_xla_flags = os.environ.get("XLA_FLAGS", "")
for _flag in (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
):
    if _flag.split("=")[0] not in _xla_flags:
        _xla_flags += " " + _flag
os.environ["XLA_FLAGS"] = _xla_flags.strip()

# Tests that compile the same program share it, also with other workers and with the programs that they
# start, in a folder of this session. The first process of the session makes it and deletes it.
_programs = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.mkdtemp(prefix="rdfer_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import pytest  # noqa: E402
import tiny  # noqa: E402
from absl import flags  # noqa: E402
from hypothesis import settings  # noqa: E402

# Grain's worker processes read absl flags, which are usually parsed from a command line.
flags.FLAGS.mark_as_parsed()

# No deadline: the first example of a test may include compilation.
settings.register_profile("rdfer_jax", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("rdfer_jax")


def pytest_collection_modifyitems(items):
    """Puts the files with the most runs of whole programs first.

    pytest-xdist hands out files in this order (`--no-loadscope-reorder`). If long files came last, one
    worker would run alone at the end.
    """
    runs = collections.Counter(item.path for item in items if item.get_closest_marker("e2e"))
    items.sort(key=lambda item: -runs[item.path])


def pytest_unconfigure():
    """Deletes the compiled programs that the tests shared."""
    if _programs:
        shutil.rmtree(_programs, ignore_errors=True)


def pytest_sessionfinish(session):
    """Fails a run in which every test was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or session.config.option.collectonly:  # a worker of pytest-xdist has none
        return
    if session.exitstatus == pytest.ExitCode.OK and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(terminalreporter, config):
    """Prints how many tests were skipped for each reason."""
    if config.option.collectonly:
        return
    counts = collections.Counter(
        # longrepr of a skipped test is (path, line, "Skipped: reason")
        str(report.longrepr[-1]).removeprefix("Skipped: ").partition("\n")[0]
        if isinstance(report.longrepr, tuple)
        else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", [])
    )
    terminalreporter.section(f"{counts.total()} skipped")
    for reason, count in counts.most_common():
        terminalreporter.line(f"{count:5d}  {reason}")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """The settings (config.Data) of a small data set that has been built; see tiny.build."""
    root = tmp_path_factory.mktemp("tfds")
    tiny.build(root)
    return tiny.data(root)
