"""The start-up benchmark: what is timed, in which order, and what its table says."""

import json

import pytest
from etils import epath

from benchmarks import startup


def test_times_until_the_first_loss_is_written(tmp_path, monkeypatch):
    commands = []

    def run(words, **_):
        commands.append(words)
        lines = [
            {"step": 0, "time": 100.5},
            {"step": 1, "time": 107.0, "loss": 2.0},
            {"step": 2, "time": 109.0, "loss": 1.0},
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))

    monkeypatch.setattr(startup.subprocess, "run", run)
    monkeypatch.setattr(startup.time, "time", lambda: 100.0)
    where = epath.Path(tmp_path)
    taken = startup.seconds_to_first_step("configs/x.py", {"seed": 3}, where, where / "cache")
    assert taken == pytest.approx(7.0)
    (words,) = commands
    assert {"--config=configs/x.py", f"--workdir={tmp_path}", "--config.seed=3"} <= set(words)
    assert f"--config.compile_cache={tmp_path / 'cache'}" in words
    assert "--config.train.duration=2 steps" in words


def test_a_warm_start_finds_what_the_cold_one_before_it_left(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        startup,
        "seconds_to_first_step",
        lambda config, settings, workdir, cache: asked.append((workdir, cache)) or len(asked),
    )
    found = startup.measure("x", {}, epath.Path(tmp_path), rounds=2)
    assert found == {"cold": [1, 3], "warm": [2, 4]}
    assert [cache.name for _, cache in asked] == ["cache0", "cache0", "cache1", "cache1"]
    assert len({workdir for workdir, _ in asked}) == 4
    assert startup.table(found).splitlines()[2:] == [
        "| none | 2.0 | 100% |",
        "| of the run before | 3.0 | 150% |",
    ]
