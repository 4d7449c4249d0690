"""The benchmark of long videos: its films, what it measures, what it says."""

import cProfile
import json
import os
import pstats
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import raw_trees
import tiny
from etils import epath

from benchmarks import predict as benchmark
from rdfer_jax import config as config_lib
from rdfer_jax.faces.detect import create
from rdfer_jax.faces.tracks import track
from rdfer_jax.media.sources import VideoFile
from rdfer_jax.predict import predictor

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path):
    raw_trees.write_video(tmp_path / "a.mp4", frames=10, label=1, size=64, fps=20)
    return VideoFile(epath.Path(tmp_path / "a.mp4"))


def test_a_film_plays_the_video_again_and_again_at_its_rate(source, tmp_path):
    film = VideoFile(epath.Path(tmp_path / "film.mp4"))
    benchmark.write_film(source, film.path, 1.3, (96, 160))
    before, after = list(source.frames()), list(film.frames())
    assert len(after) == 26
    np.testing.assert_allclose([f.time for f in after], np.arange(26) / 20, atol=2e-3)
    for frame in after:
        assert frame.image.shape == (96, 160, 3)
        # Scaled to 96 x 96, in the middle; black to either side.
        played = cv2.resize(before[frame.number % 10].image, (96, 96)).astype(int)
        assert np.abs(frame.image[:, 32:128] - played).mean() < 6
        assert frame.image[:, :28].max() < 30 > frame.image[:, 132:].max()
    assert not list(tmp_path.glob("part-*"))


def python(code):
    return [sys.executable, "-c", code]


def test_a_process_is_measured_whatever_this_one_holds():
    held = np.ones(300 << 20, np.uint8)  # getrusage would count it as the child's
    small = benchmark.measure(python("import time; time.sleep(0.2)"))
    large = benchmark.measure(python("x = b'1' * (200 << 20); import time; time.sleep(0.2)"))
    assert held.all() and small["peak_bytes"] < 100 << 20
    assert 198 << 20 < large["peak_bytes"] - small["peak_bytes"] < 215 << 20
    assert small["seconds"] >= 0.2 > small["cpu_seconds"]
    busy = "import time\nwhile time.process_time() < 0.4: pass"
    assert benchmark.measure(python(busy))["cpu_seconds"] >= 0.4


def test_a_process_that_fails_is_told_with_what_it_printed():
    with pytest.raises(RuntimeError, match=r"(?s)failed:.*no such run"):
        benchmark.measure(python("import sys; sys.exit('no such run')"))


def test_a_profile_is_cut_into_parts(source):
    detect, profile = create("blazeface", 0.1), cProfile.Profile()
    boxes, spent = [], 0.0
    with profile:
        for frame in source.frames():
            start = time.perf_counter()
            boxes.append(detect(cv2.resize(frame.image, (400, 400))))
            spent += time.perf_counter() - start
        track(boxes, np.arange(10) / 20)
    stats = pstats.Stats(profile)
    found = benchmark.parts(stats)
    assert sum(found.values()) == pytest.approx(stats.total_tt)
    rest = found.pop("the rest")  # little, and on a busy machine less than the clock can tell
    assert abs(rest) < 0.3 * stats.total_tt
    done = ["decode", "convert colors", "detect faces", "track them"]
    assert [name for name, seconds in found.items() if seconds > 0] == done
    assert 0.7 * spent < found["detect faces"] <= spent


def test_a_profile_counts_cpu_time_and_survives_an_exit(tmp_path):
    (tmp_path / "busy.py").write_text(
        "import sys, time\ndef work():\n    while time.process_time() < 0.5: pass\n"
        "assert sys.argv[1:] == ['--now']\ntime.sleep(0.4)\nwork()\nsys.exit(3)\n"
    )
    command = [*python(benchmark.PROFILER), str(tmp_path / "out"), "-m", "busy", "--now"]
    ended = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    stats = pstats.Stats(str(tmp_path / "out"))
    assert ended.returncode == 3
    (spent,) = [row[3] for (_, _, name), row in stats.stats.items() if name == "work"]
    assert 0.1 < spent < 0.5 and stats.total_tt < 0.7  # not the time asleep


def made_film(seconds, took, peak):
    return {
        "film_seconds": seconds, "seconds": took, "cpu_seconds": 1.5 * took, "peak_bytes": peak << 20,
        "analyzed_frames": 10 * seconds, "frames_with_face": 9 * seconds,
    }  # fmt: skip


def test_the_table_says_how_fast_it_is_and_how_memory_grows():
    report = {
        "films": [made_film(60, 40.0, 800), made_film(600, 300.0, 1000)],
        "profile": {"detect faces": 30.0, "the rest": 10.0}, "hardware": "h", "commit": "c",
    }  # fmt: skip
    rows = {line[:24].strip(): line[24:].split() for line in benchmark.table(report).splitlines()}
    assert rows["frames per second"] == ["15.0", "20.0"]
    assert rows["times real time"] == ["1.50", "2.00"]
    assert rows["peak memory, MiB"] == ["800", "1000"]
    assert rows["peak memory / shortest"] == ["1.00", "1.25"]
    assert rows["detect faces"] == ["30.0", "s", "75%"]


def test_each_film_is_predicted_once_and_the_shortest_is_profiled(source, tmp_path, monkeypatch):
    ran = []

    def measure(arguments):
        ran.append(arguments)
        flags = dict(text.split("=", 1) for text in arguments if text[:2] == "--" and "=" in text)
        length = len(list(VideoFile(epath.Path(flags["--input"])).frames())) / 20
        place = epath.Path(flags["--output"]) / "film"
        place.mkdir(parents=True, exist_ok=True)
        record = {"analyzed_frames": round(10 * length), "frames_with_face": 1, "more": 0}
        (place / "prediction.json").write_text(json.dumps(record))
        if benchmark.PROFILER in arguments:
            profiled = arguments[arguments.index(benchmark.PROFILER) + 1]
            cProfile.run("sum(range(10))", profiled)
        return {"seconds": length / 2, "cpu_seconds": length, "peak_bytes": 7}

    monkeypatch.setattr(benchmark, "measure", measure)
    settings, size = ["--config=c.py", "--config.predict.fps=5"], (32, 64)
    found = benchmark.run(source, tmp_path / "run", tmp_path, [2.0, 1.0], settings, size)
    assert [f["film_seconds"] for f in found["films"]] == [1.0, 2.0]
    assert [f["analyzed_frames"] for f in found["films"]] == [10, 20]
    assert [benchmark.PROFILER in arguments for arguments in ran] == [False, False, True]
    assert ran[2][-8:] == ran[0][-8:] != ran[1][-8:]
    assert {f"--workdir={tmp_path / 'run'}", "--mode=predict", *settings} < set(ran[0])
    assert all("--force" in arguments for arguments in ran)  # not what was predicted before


def test_an_untrained_run_predicts(tmp_path):
    config = tiny.config(predict={"detector": "none", "window": 100.0})
    benchmark.write_untrained(config, epath.Path(tmp_path / "run"))
    record = predictor.Predictor(
        tmp_path / "run", settings=config_lib.Predict(detector="none")
    ).frames(np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), np.uint8), fps=10.0)
    assert record.model["step"] == 0 and record.faces[0].probs.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"other settings:\n  config.model.width"):
        other = tiny.config(model={"width": 32})
        benchmark.write_untrained(other, epath.Path(tmp_path / "run"))
