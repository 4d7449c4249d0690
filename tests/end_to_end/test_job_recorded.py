"""The paper-scale configs on generated trees in the official layouts, and on real videos."""

import os
from pathlib import Path

import jobs
import numpy as np
import pytest
import raw_trees

pytestmark = pytest.mark.e2e


REAL_VIDEOS = Path(os.environ.get("REAL_VIDEOS", ""))

SHORT = jobs.SMALL | {"train.duration": "3 steps", "train.save_every": "3 steps"}


def build_train(config: str, name: str, source: Path, tmp_path: Path, **more) -> dict:
    """Builds a data set, trains three steps on it and evaluates; returns the results."""
    settings = SHORT | {"data.dir": tmp_path / "tfds"} | more
    built = jobs.run(config, settings | {"build.source_dir": source}, mode="build")
    assert name in built or "clips" in built, built
    jobs.run(config, settings, workdir=tmp_path / "run")
    trained = jobs.results(tmp_path / "run")
    assert trained["step"] == 3 and np.sum(trained["confusion_matrix"]) == trained["num_examples"]
    return trained


def test_dfew(tmp_path):
    raw_trees.make_dfew(tmp_path / "DFEW")
    found = build_train("configs/dfew.py", "dfew", tmp_path / "DFEW", tmp_path)
    assert found["split"] == "fold1"
    assert list(found["recall_per_class"]) == [
        "happy", "sad", "neutral", "angry", "surprise", "disgust", "fear",
    ]  # fmt: skip
    settings = SHORT | {"data.dir": tmp_path / "tfds"}
    jobs.run("configs/dfew.py", settings, workdir=tmp_path / "run", mode="eval")
    found.pop("best_on_validation", None)
    assert jobs.results(tmp_path / "run") == found


def test_ferv39k(tmp_path):
    raw_trees.make_ferv39k(tmp_path / "FERV39k")
    found = build_train("configs/ferv39k.py", "ferv39k", tmp_path / "FERV39k", tmp_path)
    assert found["split"] == "test" and len(found["recall_per_class"]) == 7


def test_mafw(tmp_path):
    raw_trees.make_mafw(tmp_path / "MAFW")
    found = build_train("configs/mafw.py:2", "mafw", tmp_path / "MAFW", tmp_path)
    assert found["split"] == "fold2" and len(found["recall_per_class"]) == 11


@pytest.mark.real
@pytest.mark.skipif("REAL_VIDEOS" not in os.environ, reason="no folder of videos in REAL_VIDEOS")
def test_real_videos(tmp_path):
    source = tmp_path / "mine"
    videos = sorted(path for path in REAL_VIDEOS.iterdir() if path.suffix in (".mp4", ".mov"))
    assert len(videos) >= 4, f"expected at least four videos (.mp4, .mov) in {REAL_VIDEOS}"
    places = [(part, name) for name in ("one", "many") for part in ("train", "test")]
    for (part, name), video in zip(places, videos, strict=False):
        (source / part / name).mkdir(parents=True)
        (source / part / name / video.name).symlink_to(video.resolve())
    found = build_train(
        "configs/video_folder.py",
        "video_folder",
        source,
        tmp_path,
        **{"data.validation_percent": 0},
    )
    assert found["num_examples"] == 2 and list(found["recall_per_class"]) == ["many", "one"]
