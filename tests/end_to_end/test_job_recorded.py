"""The paper-scale configs on generated trees in the official layouts, and on real videos."""

from pathlib import Path

import jobs
import numpy as np
import pytest
import raw_trees

REAL_VIDEOS = jobs.ROOT.parent / "shared" / "real_videos"

SHORT = jobs.SMALL | {"train.duration": "3 steps", "train.save_every": "3 steps"}


def build_train(config: str, name: str, source: Path, tmp_path: Path, **more) -> dict:
    """Builds a data set, trains three steps on it and evaluates; returns the results."""
    settings = SHORT | {"data.dir": tmp_path / "tfds", "compile_cache": tmp_path / "cache"} | more
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
    settings = SHORT | {"data.dir": tmp_path / "tfds", "compile_cache": tmp_path / "cache"}
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


@pytest.mark.skipif(not REAL_VIDEOS.is_dir(), reason="the real videos are not beside this checkout")
def test_real_videos(tmp_path):
    source = tmp_path / "mine"
    for name, videos in (
        ("one", ("single_face.mp4", "face_noface.mov")),
        ("many", ("WolfgangLanger_Pexels.mp4", "no_face.mp4")),
    ):
        for part, video in zip(("train", "test"), videos, strict=True):
            (source / part / name).mkdir(parents=True)
            (source / part / name / video).symlink_to(REAL_VIDEOS / video)
    found = build_train(
        "configs/video_folder.py",
        "video_folder",
        source,
        tmp_path,
        **{"data.validation_percent": 0},
    )
    assert found["num_examples"] == 2 and list(found["recall_per_class"]) == ["many", "one"]
