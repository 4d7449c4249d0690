import io
import json
import logging
import math
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rdfer_jax.training import writers


@pytest.fixture
def no_tensorboard(monkeypatch):
    monkeypatch.setattr(writers, "_is_installed", lambda name: False)


def _write(workdir, steps, **options):
    with writers.MetricWriter(workdir, tensorboard=False, **options) as writer:
        for step in steps:
            writer.write_scalars(step, {"loss": step / 10})


def _steps(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]


def test_lines_are_valid_json_and_on_disk_at_once(tmp_path):
    writer = writers.MetricWriter(tmp_path / "new" / "run", tensorboard=False)
    writer.write_scalars(
        np.int64(3),
        {
            "loss": jnp.float32(0.5),
            "bf16": jnp.bfloat16(0.25),
            "clips": np.int32(7),
            "python": 2,
            "nan": math.nan,
            "inf": -jnp.inf,
        },
    )

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    # Read before the writer is closed.
    (line,) = (tmp_path / "new" / "run" / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert list(row)[:2] == ["step", "time"]
    assert row.pop("time") > 1.6e9
    assert row == {
        "step": 3,
        "loss": 0.5,
        "bf16": 0.25,
        "clips": 7,
        "python": 2,
        "nan": None,
        "inf": None,
    }
    writer.close()
    writer.close()


def test_a_second_writer_appends(tmp_path):
    _write(tmp_path, [1, 2])
    _write(tmp_path, [3])
    assert _steps(tmp_path) == [1, 2, 3]


def test_resume_drops_the_steps_after_the_checkpoint(tmp_path):
    _write(tmp_path, [10, 20, 30, 40])
    _write(tmp_path, [30, 40, 50], resume_step=20)
    assert _steps(tmp_path) == [10, 20, 30, 40, 50]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("resume_step", [None, 20])
@pytest.mark.parametrize("cut", range(1, 12))
def test_half_written_last_line_of_a_killed_run(tmp_path, cut, resume_step):
    _write(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole.splitlines()[0][:-cut])
    assert [row["step"] for row in writers.read_metrics(tmp_path)] == [10, 20]
    _write(tmp_path, [30], resume_step=resume_step)
    assert _steps(tmp_path) == [10, 20, 30]


def test_last_line_without_its_line_end_is_kept(tmp_path):
    _write(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().rstrip("\n"))
    _write(tmp_path, [30])
    assert _steps(tmp_path) == [10, 20, 30]


def test_read_joins_the_lines_of_a_step(tmp_path):
    with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write_scalars(2, {"loss": 0.2})
        writer.write_scalars(1, {"loss": 0.1})
        writer.write_scalars(2, {"war": 0.5, "loss": math.nan})
    rows = writers.read_metrics(tmp_path)
    assert [{**row, "time": 0} for row in rows] == [
        {"step": 1, "time": 0, "loss": 0.1},
        {"step": 2, "time": 0, "loss": None, "war": 0.5},
    ]
    with pytest.raises(FileNotFoundError):
        writers.read_metrics(tmp_path / "elsewhere")


def test_object_store_is_written_whole(tmp_path, monkeypatch):
    # Such a file cannot be appended to; opening it for that must not happen.
    monkeypatch.setattr(writers, "_is_remote", lambda path: True)
    _write(tmp_path, [1, 2])
    with writers.MetricWriter(tmp_path, resume_step=1, tensorboard=False) as writer:
        writer.write_scalars(2, {"loss": 0.0})
        writer.flush()
        assert _steps(tmp_path) == [1, 2]
        writer.write_scalars(3, {"loss": 0.0})
    assert _steps(tmp_path) == [1, 2, 3]


def test_refuses_what_it_cannot_write(tmp_path):
    with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
        with pytest.raises(ValueError, match="'loss' must be a scalar"):
            writer.write_scalars(1, {"loss": np.ones(2)})
        with pytest.raises(ValueError, match="step"):
            writer.write_scalars(1, {"step": 2})
        with pytest.raises(ValueError, match="'faces' must be uint8"):
            writer.write_images(1, {"faces": np.zeros((4, 4, 3), np.float32)})
        writer.write_images(1, {"faces": np.zeros((4, 4, 3), np.uint8)})
    assert _steps(tmp_path) == []


def test_disabled_writer_leaves_no_trace(tmp_path):
    with writers.MetricWriter(tmp_path / "run", enabled=False) as writer:
        writer.write_scalars(1, {"loss": 1.0})
        writer.write_images(1, {"faces": np.zeros((4, 4, 3), np.uint8)})
        writer.flush()
    assert not (tmp_path / "run").exists()


def test_says_once_that_tensorboard_is_off(tmp_path, no_tensorboard, caplog):
    caplog.set_level(logging.INFO)
    with writers.MetricWriter(tmp_path) as writer:
        writer.write_scalars(1, {"loss": 1.0})
        writer.write_scalars(2, {"loss": 1.0})
    (said,) = caplog.messages
    assert "TensorBoard is off: tensorflow and tensorboard not installed" in said


def test_tensorboard_gets_what_the_file_gets(tmp_path, monkeypatch):
    calls = []

    class Recorder:
        def __getattr__(self, name):
            return lambda *values: calls.append((name, *values))

    monkeypatch.setattr(writers, "_tensorboard_writer", lambda logdir: Recorder())
    image = np.zeros((4, 4, 3), np.uint8)
    with writers.MetricWriter(tmp_path) as writer:
        writer.write_scalars(1, {"loss": jnp.float32(0.5)})
        writer.write_images(1, {"faces": image})
    assert calls == [
        ("write_scalars", 1, {"loss": 0.5}),
        ("write_images", 1, {"faces": image}),
        ("flush",),
        ("close",),
    ]


def test_real_tensorboard_writes_event_files(tmp_path):
    for name in ("tensorflow", "tensorboard"):
        if not writers._is_installed(name):
            pytest.skip(f"{name} is not installed")
    # In a process of its own, so that TensorFlow stays out of this one.
    program = f"""
import numpy as np
from rdfer_jax import writers
with writers.MetricWriter({str(tmp_path)!r}) as writer:
    writer.write_scalars(1, {{"loss": 0.5}})
    writer.write_images(1, {{"faces": np.zeros((4, 4, 3), np.uint8)}})
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    (event_file,) = (tmp_path / "tensorboard").iterdir()
    events = event_file.read_bytes()
    assert b"loss" in events
    assert b"faces" in events


METRICS = {"loss": 1.2348, "agreement": 0.8123, "clean": 0.61, "hard": 0.27, "noisy": 0.12}


def test_describe():
    expected = "loss 1.235, agreement 0.81, clean/hard/noisy 61/27/12 %"
    assert writers.describe(METRICS) == expected
    assert writers.describe({"accuracy": jnp.float32(0.5)}) == "accuracy 0.50"
    assert writers.describe({}) == ""


def test_progress_is_silent_in_a_pipe(capsys):
    with writers.Progress(10, start_step=2) as progress:
        progress.update(3, METRICS)
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    handlers = [logging.StreamHandler(terminal)]
    monkeypatch.setattr(logging.getLogger(), "handlers", list(handlers))
    with writers.Progress(10, start_step=2) as progress:
        for step in range(3, 11):
            progress.update(step, METRICS)
        logging.getLogger().warning("evaluated")
    assert logging.getLogger().handlers == handlers
    lines = [line.strip() for line in terminal.getvalue().splitlines()]
    assert "evaluated" in lines  # On a line of its own, not behind the bar.
    assert "10/10" in lines[-1]
    assert "steps/s" in lines[-1] or "s/ steps" in lines[-1]
    assert "agreement 0.81" in lines[-1]


def test_disabled_progress_is_silent_on_a_terminal_too(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with writers.Progress(10, enabled=False) as progress:
        progress.update(3, METRICS)
    assert terminal.getvalue() == ""
