"""Prediction cuts faces as the build of the training data did, and says where it cannot."""

import logging
import types

import cv2
import numpy as np
import pytest
import tiny
from drawn_faces import drawn, in_scene, write_video
from etils import epath

from rdfer_jax import build as build_lib
from rdfer_jax import config as config_lib
from rdfer_jax.faces.cut import Cut
from rdfer_jax.media.images import decode_jpeg
from rdfer_jax.pipeline import source
from rdfer_jax.predict import predictor
from rdfer_jax.training import run_dir
from rdfer_jax.training.setup import ModelSetup
from rdfer_jax.types import Prediction

STORED = Cut("haar", 0.2, 0.3, False)


def choose(caplog, trained, **settings):
    with caplog.at_level(logging.INFO):
        cut = predictor.choose_cut(trained, config_lib.Predict(**settings))
    return cut, caplog.text


def test_faces_are_cut_as_in_the_training_data(caplog):
    cut, said = choose(caplog, STORED.to_json(64))
    assert cut == STORED and "as in the training data: haar, margin 0.3, upright" in said


def test_settings_can_replace_the_cut_of_the_training_data(caplog):
    cut, said = choose(caplog, STORED.to_json(64), as_trained=False, margin=0.25)
    assert cut == Cut("blazeface", 0.1, 0.25, True)
    assert "blazeface, margin 0.25, aligned by the eyes; in the training data, by haar" in said


def test_videos_that_are_cropped_already_are_not_cut_again(caplog):
    for trained in (STORED.to_json(64), {"by": "nobody"}):
        cut, said = choose(caplog, trained, detector="none")
        assert cut.detector == "none" and said == ""


def test_a_run_on_whole_frames_says_so(caplog):
    cut, said = choose(caplog, {"by": "nobody"})
    assert cut == Cut() and "trained on clips as they were given" in said
    assert "config.build.crop_faces=True" in said


@pytest.mark.parametrize("trained", [{}, {"by": "distributor"}])
def test_nothing_is_said_where_faces_were_cropped_or_nothing_is_known(caplog, trained):
    assert choose(caplog, trained) == (Cut(), "")


def test_haar_takes_the_place_of_a_network_that_cannot_be_read(caplog, monkeypatch):
    monkeypatch.delattr(cv2.dnn, "readNetFromTFLite")
    cut, detect = predictor._with_detector(Cut())
    assert cut.detector == "haar" and type(detect).__name__ == "_Haar"
    (line,) = caplog.messages
    assert "\n" not in line and "haar instead" in line and "opencv-python-headless" in line


def test_a_run_on_cut_faces_predicts_the_crops_that_it_was_trained_on(tmp_path, monkeypatch):
    """From the user's videos to the network's input: build, train, predict."""
    raw = tmp_path / "raw"
    for number in range(6):
        kind, part = ("glad", "tense")[number % 2], ("train", "test")[number // 4]
        frames = [in_scene(drawn(number), (30, 40 + 4 * i), (240, 360))[0] for i in range(8)]
        write_video(raw / part / kind / f"{number}.mp4", frames, fps=10)
    config = tiny.config(
        data={"dir": str(tmp_path / "tfds"), "name": "video_folder", "image_size": 32, "frames": 8},
        build={
            "source_dir": str(raw), "crop_faces": True, "short_side": 32, "face_margin": 0.2,
            "jpeg_quality": 100,
        },
        train={"duration": "1 steps", "tensorboard": False},
        predict={"batch_size": 2, "window": 10.0},
    )  # fmt: skip
    directory = epath.Path(build_lib.build(config))
    run = epath.Path(tmp_path / "run")
    run_dir.write_config(run, config)
    run_dir.write_data(run, "video_folder", ("glad", "tense"), 4, faces=source.faces(directory))
    nothing = types.SimpleNamespace(params={}, batch_stats={})  # only its input is looked at
    monkeypatch.setattr(ModelSetup, "restore", lambda *_: (0, nothing))
    trained = predictor.Predictor(run)
    assert trained.cut == Cut(margin=0.2)
    seen = []

    def predict(crops):
        seen.extend(crops)
        one, two = np.zeros(len(crops)), np.zeros((len(crops), 2))
        return Prediction(one, one, two, two[:, None], one, one, one, None)

    monkeypatch.setattr(trained, "_predict", predict)
    trained.file(raw / "train" / "glad" / "0.mp4")
    split = source.open_split(directory, "train")
    records = {record["clip_id"].decode(): record for record in split}
    stored = np.stack([decode_jpeg(j) for j in records["train/glad/0.mp4"]["frames"]])
    assert seen[0].shape == stored.shape == (8, 32, 32, 3)
    assert np.abs(seen[0].astype(int) - stored).mean() < 4  # JPEG
