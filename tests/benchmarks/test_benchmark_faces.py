"""The comparison of detectors counts what is there."""

import json
import time

import cv2
import numpy as np
import pytest
from drawn_faces import drawn, in_scene, write_video
from etils import epath

from benchmarks import faces as benchmark
from rdfer_jax.faces.tracks import Scan, Track
from rdfer_jax.media import sources
from rdfer_jax.media.video import Frame

CHANGES = benchmark.CHANGES

SIZE = (240, 320)


@pytest.fixture
def videos(tmp_path):
    """A face that is there for half of the time, and none."""
    scene, wall = in_scene(drawn(5), (40, 90), SIZE)[0], np.full((*SIZE, 3), 120, np.uint8)
    write_video(tmp_path / "in" / "face.mp4", [scene] * 4 + [wall] * 4, fps=10)
    write_video(tmp_path / "in" / "none.mp4", [wall] * 3, fps=10)
    return sources.find(tmp_path / "in")


def test_faces_are_counted_by_video_change_and_detector(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SHOWN", 4)
    monkeypatch.setattr(benchmark, "CHANGES", {k: CHANGES[k] for k in ("as it is", "light, + 100")})
    found = benchmark.run(videos, ["blazeface"], 10.0, 0.1, epath.Path(tmp_path))
    assert len(found) == 2 * len(benchmark.CHANGES)
    assert [r["change"] for r in found[:2]] == ["as it is", "light, + 100"]
    for r in found[:2]:
        assert (r["video"], r["frames"], r["with_face"], r["faces"]) == ("face.mp4", 8, 4, 1), r
    for r in found[2:]:
        assert (r["video"], r["frames"], r["with_face"], r["faces"]) == ("none.mp4", 3, 0, 0), r
    assert all(r["milliseconds"] > 0 for r in found)
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 4
    picture = cv2.imread(str(pictures[0]))
    assert picture.shape == (2 * 240, 2 * 320, 3)
    red = (picture[..., 2] > 180) & (picture[..., :2] < 90).all(axis=-1)
    assert red[:240].sum() > 500 > red[240:].sum()  # frames 0 and 2 of 0, 2, 4, 7 show the face
    text = benchmark.table(found)
    assert "| face.mp4 | as it is | blazeface | 8 | 4 (50%) | 0 | 1 |" in text
    json.dumps(found)


def test_only_the_detector_is_timed(monkeypatch):
    def detect(image, near, small):
        start = time.thread_time()
        while time.thread_time() < start + 0.01:
            pass
        return []

    def frames():
        for number in range(3):
            start = time.thread_time()
            while time.thread_time() < start + 0.03:
                pass
            yield Frame(number, number / 10, np.zeros((8, 8, 3), np.uint8))

    monkeypatch.setattr(benchmark, "create", lambda *_: detect)
    found, milliseconds = benchmark.measure(frames(), "any", 0.1, 1.0)
    assert len(found.times) == 3 and 10 <= milliseconds < 30


def test_found_and_bridged_frames_of_all_faces_are_counted_once():
    def track(found, present):
        boxes = np.where(np.array(present, bool)[:, None], 1.0, np.nan) * np.ones((5, 4))
        return Track(boxes, np.zeros((5, 0, 2)), np.array(found, bool))

    tracks = [track([1, 0, 1, 0, 0], [1, 1, 1, 0, 0]), track([1, 0, 0, 1, 0], [1, 0, 0, 1, 0])]
    row = benchmark.row(Scan((8, 8), np.arange(5), np.arange(5) / 10, tracks), 2.0)
    assert row == {"frames": 5, "with_face": 3, "bridged": 1, "faces": 2, "milliseconds": 2.0}
