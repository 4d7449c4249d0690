"""A suite of benchmarks: what finishes is kept, what fails or takes too long is told."""

import json
import re
import subprocess
import sys

import pytest
from etils import epath

from benchmarks import all_gpu, all_tpu, suite, training_run
from benchmarks.suite import Part

NOTHING = Part("Nothing", "harness", ["--output={output}"], [], 60)
MISSING = Part("Missing", "no_such_benchmark", [], [], 60)
SLOW = Part("Slow", "step", [], [], 0.05, {"SOME_FLAG": "1"})


def test_each_part_says_how_it_ended(tmp_path):
    rows = suite.run([NOTHING, MISSING, SLOW], epath.Path(tmp_path), "a machine", 600, False)
    assert [row["status"] for row in rows] == ["done", "failed", "cut short"]
    assert rows[0]["command"] == f"python -m benchmarks.harness --output={tmp_path}/0_harness"
    assert "No module named benchmarks.no_such_benchmark" in rows[1]["text"]
    assert rows[2]["command"].startswith("SOME_FLAG=1 python -m benchmarks.step")
    report = json.loads((tmp_path / "all.json").read_text())
    assert [part["status"] for part in report["parts"]] == ["done", "failed", "cut short"]
    written = (tmp_path / "all.md").read_text()
    assert written.startswith("a machine, commit") and "## Slow" in written


def test_what_finished_is_written_before_the_next_part_runs(tmp_path, monkeypatch):
    real = suite._run

    def run(words, environment, limit):
        if words[0] == "benchmarks.no_such_benchmark":
            raise KeyboardInterrupt
        return real(words, environment, limit)

    monkeypatch.setattr(suite, "_run", run)
    with pytest.raises(KeyboardInterrupt):
        suite.run([NOTHING, MISSING], epath.Path(tmp_path), "a machine", 600, False)
    assert len(json.loads((tmp_path / "all.json").read_text())["parts"]) == 1


def test_no_part_starts_when_the_time_is_over(tmp_path):
    rows = suite.run([NOTHING], epath.Path(tmp_path), "a machine", 0, True)
    assert rows[0]["status"] == "left out" and rows[0]["seconds"] == 0


def test_the_suites_fit_their_time_and_write_apart():
    for parts in (all_gpu.PARTS, all_tpu.PARTS):
        assert len({part.title for part in parts}) == len(parts)
        assert sum(part.seconds for part in parts) <= 60 * suite.MINUTES
        for part in parts:
            assert (epath.Path(suite.__file__).parent / f"{part.module}.py").exists()


@pytest.mark.e2e
def test_help_lists_the_flags_that_scripts_share():
    command = [sys.executable, "-m", "benchmarks.all_gpu", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert set(re.findall(r"^  --(\S+):", printed, re.MULTILINE)) == {
        "minutes", "output", "[no]tiny",
    }  # fmt: skip


def test_speed_is_that_of_all_windows_but_the_first(tmp_path):
    rows = [
        {"videos_per_second": 1.0, "input_wait": 1.0},
        {"videos_per_second": 10.0, "input_wait": 0.5},
        {"test_war": 0.5},
        {"videos_per_second": 40.0, "input_wait": 0.0},
    ]
    text = "".join(json.dumps({"step": i, "time": 0.0} | row) + "\n" for i, row in enumerate(rows))
    (tmp_path / "metrics.jsonl").write_text(text)
    found = training_run.speed(epath.Path(tmp_path))
    # As many videos in each window: 1 / 10 and 1 / 40 seconds for each.
    assert found["videos_per_second"] == pytest.approx(2 / (1 / 10 + 1 / 40))
    assert found["input_wait"] == pytest.approx(0.5 * 0.8)
