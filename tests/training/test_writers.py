"""What a run writes while it trains: metrics.jsonl, TensorBoard files, the progress bar."""

import importlib.util
import io
import json
import logging
import math
import struct
import sys

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2

from rdfer_jax.training import writers


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
    monkeypatch.setattr(writers.paths, "is_local", lambda path: False)
    _write(tmp_path, [1, 2])
    with writers.MetricWriter(tmp_path, resume_step=1, tensorboard=False) as writer:
        writer.write_scalars(2, {"loss": 0.0})
        writer.flush()
        assert _steps(tmp_path) == [1, 2]
        writer.write_scalars(3, {"loss": 0.0})
    assert _steps(tmp_path) == [1, 2, 3]


def test_refuses_what_it_cannot_write(tmp_path):
    with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
        with pytest.raises(ValueError, match=r"'loss': expected a scalar, got shape \(2,\)"):
            writer.write_scalars(1, {"loss": np.ones(2)})
        with pytest.raises(
            ValueError, match=r"expected names other than step and time, got \['step'\]"
        ):
            writer.write_scalars(1, {"step": 2})
        with pytest.raises(
            ValueError, match=r"image 'faces': expected uint8 \[H, W, 3\], got float32 \(4, 4, 3\)"
        ):
            writer.write_images(1, {"faces": np.zeros((4, 4, 3), np.float32)})
        writer.write_images(1, {"faces": np.zeros((4, 4, 3), np.uint8)})
    assert _steps(tmp_path) == []


def test_disabled_writer_leaves_no_trace(tmp_path):
    with writers.MetricWriter(tmp_path / "run", enabled=False) as writer:
        writer.write_scalars(1, {"loss": 1.0})
        writer.write_images(1, {"faces": np.zeros((4, 4, 3), np.uint8)})
        writer.flush()
    assert not (tmp_path / "run").exists()


def test_says_once_where_the_metrics_are_without_tensorboard(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    caplog.set_level(logging.INFO)
    with writers.MetricWriter(tmp_path) as writer:
        assert not writer.shows_images
        writer.write_scalars(1, {"loss": 1.0})
        writer.write_scalars(2, {"loss": 1.0})
    (message,) = caplog.messages
    assert message == f"metrics are written to {tmp_path / 'metrics.jsonl'}"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def events(path):
    """Yields the events of a TensorBoard file: [length, CRC of it, data, CRC of them] each."""
    masked_crc = record_writer.masked_crc32c
    content = path.read_bytes()
    while content:
        head, (length, head_crc) = content[:8], struct.unpack("<QI", content[:12])
        data, (data_crc,) = (
            content[12 : 12 + length],
            struct.unpack_from("<I", content, 12 + length),
        )
        assert (masked_crc(head), masked_crc(data)) == (head_crc, data_crc)
        yield event_pb2.Event.FromString(data)
        content = content[16 + length :]


def test_tensorboard_files_hold_what_was_written(tmp_path):
    image = np.random.default_rng(0).integers(256, size=(5, 4, 3), dtype=np.uint8)
    with writers.MetricWriter(tmp_path) as writer:
        assert writer.shows_images
        writer.write_scalars(1, {"loss": jnp.float32(0.5), "clips": np.int32(7)})
        writer.write_scalars(2, {"loss": 0.25})
        writer.write_images(2, {"faces": image})
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = [(event.step, value) for event in events(path) for value in event.summary.value]
    scalars = [(step, v.tag, v.simple_value) for step, v in found if not v.HasField("image")]
    assert scalars == [(1, "loss", 0.5), (1, "clips", 7.0), (2, "loss", 0.25)]
    ((step, picture),) = [(step, v) for step, v in found if v.HasField("image")]
    assert (step, picture.tag) == (2, "faces")
    png = np.frombuffer(picture.image.encoded_image_string, np.uint8)
    np.testing.assert_array_equal(cv2.imdecode(png, cv2.IMREAD_COLOR_RGB), image)


METRICS = {"loss": 1.2348, "agreement": 0.8123, "clean": 0.61, "hard": 0.27, "noisy": 0.12}


def test_format_metrics():
    expected = "loss 1.235, agreement 0.81, clean/hard/noisy 61/27/12 %"
    assert writers.format_metrics(METRICS) == expected
    assert writers.format_metrics({"accuracy": jnp.float32(0.5)}) == "accuracy 0.50"
    assert writers.format_metrics({}) == ""


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
