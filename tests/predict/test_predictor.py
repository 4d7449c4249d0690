"""A user's own videos, from frames to files."""

import csv
import dataclasses
import functools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from importlib import resources

import av
import cv2
import drawn_faces
import jsonschema
import numpy as np
import pytest
import raw_trees
import tiny
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from rdfer_jax import class_shares, plots
from rdfer_jax import config as config_lib
from rdfer_jax.class_shares import ClassShares
from rdfer_jax.faces import detect
from rdfer_jax.faces.kept import KeptCrops
from rdfer_jax.media.files import MediaError
from rdfer_jax.media.sources import Array, VideoFile
from rdfer_jax.pipeline import source
from rdfer_jax.pipeline.decode import decode_frame
from rdfer_jax.predict import annotate, command, files, progress, stream, windows
from rdfer_jax.predict import predictor as predict_lib
from rdfer_jax.predict import timeline as timeline_lib
from rdfer_jax.predict.result import NO_FACE, TOO_BRIEF, Face, VideoPrediction, Window
from rdfer_jax.predict.timeline import timeline
from rdfer_jax.training import evaluate, run_dir, train

pytestmark = pytest.mark.slow


SCHEMA = json.loads(
    resources.files("rdfer_jax.predict").joinpath("prediction.schema.json").read_text("utf-8")
)


@given(
    st.lists(st.booleans(), min_size=1, max_size=60),
    st.floats(0.3, 4.0),
    st.floats(0.1, 3.0),
)
def test_windows_cover_every_stretch_with_the_face_and_nothing_else(present, length, stride):
    present, times = np.array(present), np.arange(len(present)) / 10
    found = windows.windows(present, times, length, stride)
    covered = np.zeros(len(present), bool)
    for window in found:
        assert present[window].all() and (np.diff(window) == 1).all()
        assert times[window[-1]] - times[window[0]] <= length + 1e-5
        covered[window] = True
    # What is not covered lies in a stretch that is too short, or between windows far apart.
    edges = np.flatnonzero(np.diff(np.concatenate([[0], present, [0]])))
    for start, end in edges.reshape(-1, 2):
        if end - start < min(stream.LEAST_FRAMES, len(present)):
            assert not covered[start:end].any()
        elif length >= 0.3 and stride <= length:
            assert covered[start:end].all()


def test_windows_begin_every_stride_and_end_with_the_stretch():
    times = np.arange(48) / 10
    found = windows.windows(np.ones(48, bool), times, 2.0, 1.0)
    assert [(times[w[0]], times[w[-1]]) for w in found] == [
        (0.0, 2.0), (1.0, 3.0), (2.0, 4.0), (2.7, 4.7),
    ]  # fmt: skip


def test_a_jump_in_time_ends_a_window_and_costs_nothing():
    times = np.concatenate([np.arange(20), 1e8 + np.arange(20)]) / 10
    found = windows.windows(np.ones(40, bool), times, 1.0, 0.5)
    assert len(found) < 10
    assert all(len(np.unique(window < 20)) == 1 for window in found)
    np.testing.assert_array_equal(np.unique(np.concatenate(found)), np.arange(40))
    apart = np.arange(30) * 1e7  # each frame on its own
    assert windows.windows(np.ones(30, bool), apart, 3.0, 1.0) == []
    slow = np.arange(30) * 2.0  # few frames, but evenly so
    assert len(windows.windows(np.ones(30, bool), slow, 10.0, 5.0)) == 11


# A trained network, as small as they can be, and what evaluation says of its test split.


def trained(root, **data):
    tiny.build(root)
    config = tiny.config(
        data={"dir": str(root), "eval_batch_size": 8, **data},
        train={"duration": "3 steps", "tensorboard": False},
        predict={"detector": "none", "batch_size": 2, "window": 100.0},
    )
    train.train(config, root / "run")
    return root, config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def predictor(run):
    return predict_lib.Predictor(run[0] / "run")


def test_a_run_remembers_how_the_faces_of_its_data_were_cut(run):
    assert run_dir.read(run[0] / "run").faces == tiny.FACES


def test_a_clip_of_the_data_set_is_predicted_as_in_evaluation(run, predictor):
    root, config = run
    expected = np.load(root / "run" / "predictions.npz")
    split = source.open_split(source.find(config.data), "test")
    for index in range(len(split)):
        images = np.stack([decode_frame(jpeg, 16, "crop") for jpeg in split[index]["frames"]])
        record = predictor.frames(images, fps=10.0)
        (face,) = record.faces
        (window,) = face.windows
        logits = expected["logits"][index].astype(np.float64)
        probs = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(window.probs, probs, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(face.probs, probs, rtol=1e-4, atol=1e-6)
        assert window.agreement == pytest.approx(expected["agreement"][index], abs=1e-4)
        assert set(window.key_numbers) == set(expected["key_frames"][index].tolist())
        assert window.key_times == tuple(number / 10 for number in window.key_numbers)
        np.testing.assert_allclose(face.timeline.sum(axis=1), 1)
        assert record.with_face == len(images)
        jsonschema.validate(record.to_json(), SCHEMA)


def test_a_run_is_calibrated_by_what_its_test_split_showed(run, predictor):
    root, config = run
    path, images = root / "run" / "results.json", np.zeros((6, 16, 16, 3), np.uint8)
    plain = predictor.frames(images).faces[0].windows[0].probs
    results = path.read_text()
    assert json.loads(results)["temperature"] is None  # too few clips
    try:
        path.write_text(json.dumps(json.loads(results) | {"temperature": 2.0}))
        calibrated = predict_lib.Predictor(root / "run")
        own = predict_lib.Predictor(
            root / "run", settings=dataclasses.replace(config.predict, temperature=1.0)
        )
    finally:
        path.write_text(results)
    half = np.sqrt(plain) / np.sqrt(plain).sum()
    for one, expected in ((calibrated, half), (own, plain)):
        found = one.frames(images).faces[0].windows[0].probs
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert calibrated.made_by() != predictor.made_by()


def test_evaluation_gives_the_scores_for_the_class_shares_of_a_review(run, tmp_path):
    root, config = run
    saved = np.load(root / "run" / "predictions.npz")
    classes = saved["classes"].tolist()
    before, after = np.random.default_rng(0).dirichlet(np.ones(len(classes)), 2)
    class_shares.write(tmp_path / "shares.csv", classes, ClassShares(before, *[after] * 4))
    asked = dataclasses.replace(
        config,
        predict=dataclasses.replace(config.predict, class_shares=str(tmp_path / "shares.csv")),
    )
    results = (root / "run" / "results.json").read_text()
    try:
        found = evaluate.evaluate(asked, root / "run")
    finally:
        (root / "run" / "results.json").write_text(results)
    best = (np.log(special.softmax(saved["logits"], axis=-1)) + np.log(after / before)).argmax(-1)
    assert found["class_shares"]["war"] == pytest.approx(np.mean(best == saved["label"]))
    assert found["war"] == json.loads(results)["war"]
    assert f"{found['class_shares']['war']:.4f}" in evaluate.describe(found)


def test_snippets_are_read_at_the_videos_own_rate(tmp_path):
    """As in evaluation, which reads every frame, where single frames are read ten times a second."""
    root, config = trained(tmp_path, snippet=2)
    predictor = predict_lib.Predictor(root / "run")
    expected = np.load(root / "run" / "predictions.npz")
    split = source.open_split(source.find(config.data), "test")
    for index in range(len(split)):
        images = np.stack([decode_frame(jpeg, 16, "crop") for jpeg in split[index]["frames"]])
        record = predictor.frames(images, fps=25.0)
        logits = expected["logits"][index].astype(np.float64)
        probs = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(record.faces[0].probs, probs, rtol=1e-4, atol=1e-6)
        keys = set(record.faces[0].windows[0].key_numbers)
        assert keys == set(expected["key_frames"][index].tolist())


def test_windows_are_predicted_each_on_its_own(predictor):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (50, 16, 16, 3), np.uint8)
    settings = dataclasses.replace(predictor.settings, window=1.9, stride=1.0, smooth=0.0)
    predictor.settings, before = settings, predictor.settings
    try:
        record = predictor.frames(images, fps=10.0)
        parts = [predictor.frames(images[i : i + 20], fps=10.0).faces[0] for i in (0, 10, 20, 30)]
    finally:
        predictor.settings = before
    (face,) = record.faces
    assert [(w.start, w.end) for w in face.windows] == [
        (0.0, 1.9), (1.0, 2.9), (2.0, 3.9), (3.0, 4.9),
    ]  # fmt: skip
    total, count = np.zeros((50, len(tiny.CLASSES))), np.zeros((50, 1))
    for window, first, part in zip(face.windows, (0, 10, 20, 30), parts, strict=True):
        (alone,) = part.windows
        np.testing.assert_allclose(window.probs, alone.probs, rtol=1e-4, atol=1e-6)
        assert [n - first for n in window.key_numbers] == list(alone.key_numbers)
        total[first : first + 20] += part.timeline
        count[first : first + 20] += 1
    np.testing.assert_allclose(face.timeline, total / count, rtol=1e-4, atol=1e-6)
    assert np.ptp(face.timeline[:10], axis=0).max() > 1e-4  # it moves within a window
    best = max(face.windows, key=lambda w: w.probs[face.expression])
    assert [time for time, _ in face.thumbnails] == list(best.key_times)
    for time, image in face.thumbnails:
        np.testing.assert_array_equal(image, images[round(time * 10)])
    # A portrait from the middle of each tenth of the 4.9 seconds, enlarged.
    middles = (np.arange(10) + 0.5) * 0.49
    np.testing.assert_allclose([time for time, _ in face.portraits], middles, atol=0.051)
    for time, image in face.portraits:
        small = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).astype(float)
        away = [np.abs(small - frame).mean() for frame in images]
        assert int(np.argmin(away)) == round(time * 10)


def test_portraits_show_a_face_only_where_it_is_and_at_least_once():
    times, present = np.arange(100) / 10, np.zeros(100, bool)
    present[40:60] = True
    assert windows.portrait_places(present, times) == [44, 54]  # of every other frame
    present[:] = False
    present[77] = True
    assert windows.portrait_places(present, times) == [77]
    assert windows.portrait_places(np.ones(3, bool), times[:3]) == [0, 1, 2]


def test_a_video_is_read_once_and_again_only_for_crops_that_are_missing(run, tmp_path, monkeypatch):
    root, _ = run
    path = epath.Path(tmp_path / "a.mp4")
    raw_trees.write_video(path, frames=40, label=1, size=64)
    settings = config_lib.Predict(detector="none")
    predictor = predict_lib.Predictor(root / "run", settings=settings)
    reads, frames = [], VideoFile.frames
    monkeypatch.setattr(VideoFile, "frames", lambda *a: reads.append(a) or frames(*a))
    once = predictor.video(VideoFile(path))
    assert len(reads) == 1 and once.faces
    monkeypatch.setattr(KeptCrops, "watch", lambda *_: None)
    twice = predictor.video(VideoFile(path))
    assert len(reads) == 3
    assert once.to_json() == twice.to_json()
    pairs = zip(once.faces, twice.faces, strict=True)
    for one, two in pairs:
        for name in ("thumbnails", "portraits"):
            for (_, a), (_, b) in zip(getattr(one, name), getattr(two, name), strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_folder_of_videos_leaves_files_and_names_what_failed(run, tmp_path, caplog):
    root, _ = run
    raw_trees.write_video(tmp_path / "in" / "a.mp4", frames=30, label=1, size=64)
    raw_trees.write_video(tmp_path / "in" / "deep" / "a.mp4", frames=12, label=2, size=64)
    (tmp_path / "in" / "bad.mp4").write_bytes(b"no video")
    settings = config_lib.Predict(detector="none", annotate=True, batch_size=2)
    with caplog.at_level(logging.INFO):
        rows = command.predict(root / "run", tmp_path / "in", tmp_path / "out", settings=settings)
    assert "3 videos: 2 predicted, 0 without a face, 1 not readable" in caplog.text
    assert "bad.mp4: not a video" in caplog.text
    written = list(csv.DictReader((tmp_path / "out" / "summary.csv").open()))
    assert [row["folder"] for row in written] == ["a.mp4", "", "a.mp4-2"]
    assert [bool(row["problem"]) for row in written] == [False, True, False]
    for row, frames in ((rows[0], 30), (rows[2], 12)):
        folder = tmp_path / "out" / row["folder"]
        record = json.loads((folder / "prediction.json").read_text())
        jsonschema.validate(record, SCHEMA)
        assert record["faces"][0]["expression"] == row["expression"]
        assert record["model"] == {"run": "run", "checkpoint": "last", "step": 3}
        assert cv2.imread(str(folder / "timeline.png")).shape[2] == 3
        lines = list(csv.DictReader((folder / "frames.csv").open()))
        assert [int(line["frame"]) for line in lines] == [
            at["frame"] for at in record["faces"][0]["timeline"]
        ]
        drawn = list(VideoFile(folder / "annotated.mp4").frames())
        assert len(drawn) == frames and drawn[0].image.shape == (64, 64, 3)
        assert drawn[-1].time == pytest.approx((frames - 1) / 25, abs=0.05)


def test_an_interrupted_batch_goes_on_and_ends_as_if_it_had_not_been(
    run, tmp_path, caplog, monkeypatch
):
    root, _ = run
    for number in range(3):
        raw_trees.write_video(
            tmp_path / "in" / f"{number}.mp4", frames=12 + number, label=number, size=64
        )
    settings = config_lib.Predict(detector="none", batch_size=2)
    real, read = predict_lib.Predictor.video, []

    def video(self, source, progress):
        read.append(source.path.name)
        if len(read) == 3:
            raise KeyboardInterrupt
        return real(self, source, progress)

    monkeypatch.setattr(predict_lib.Predictor, "video", video)

    def predict(output="out", settings=settings, **options):
        read.clear()
        caplog.clear()
        with caplog.at_level(logging.INFO):
            command.predict(
                root / "run", tmp_path / "in", tmp_path / output, settings=settings, **options
            )
        return (tmp_path / output / "summary.csv").read_text()

    with pytest.raises(KeyboardInterrupt):
        predict()
    assert not (tmp_path / "out" / "summary.csv").exists()
    first = (tmp_path / "out" / "0.mp4" / "timeline.png").stat().st_mtime_ns
    table = predict()
    assert read == ["2.mp4"]
    assert "3 of 3: " in caplog.text and "1 predicted" in caplog.text
    assert "2 already predicted (--force predicts them again)" in caplog.text
    assert (tmp_path / "out" / "0.mp4" / "timeline.png").stat().st_mtime_ns == first
    monkeypatch.setattr(predict_lib.Predictor, "video", real)
    assert predict("whole") == table
    for name in ("0.mp4", "2.mp4"):
        one, two = (tmp_path / out / name / "prediction.json" for out in ("out", "whole"))
        assert one.read_text() == two.read_text()

    def again(**options):
        predict(**options)
        found = re.search(r"3 videos: (\d) predicted", caplog.text)
        return int(found[1])

    assert again() == 0
    assert again(settings=dataclasses.replace(settings, stride=0.5)) == 3
    assert again() == 3  # the results of other settings took their place
    os.utime(tmp_path / "in" / "1.mp4", (1, 1))
    assert again() == 1
    (tmp_path / "out" / "0.mp4" / "frames.csv").unlink()
    (tmp_path / "out" / "2.mp4" / "complete.json").write_text("{")
    assert again() == 2
    assert again(force=True) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")  # noqa: PTH110
def test_a_full_disk_ends_a_batch_in_one_line_and_the_next_command_goes_on(
    run, tmp_path, monkeypatch
):
    root, _ = run
    for number in range(2):
        raw_trees.write_video(tmp_path / "in" / f"{number}.mp4", frames=12, label=number, size=64)
    settings = config_lib.Predict(detector="none", batch_size=2, annotate=True)
    monkeypatch.setattr(command, "Predictor", functools.cache(predict_lib.Predictor))

    def predict(output):
        command.predict(root / "run", tmp_path / "in", tmp_path / output, settings=settings)

    predict("whole")
    out = tmp_path / "out"
    inside = ("frames.csv", "timeline.png", "annotated.mp4", "complete.json")
    for place in (*(f"1.mp4/{name}" for name in inside), "summary.csv"):
        path = out / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        is_video = path.suffix == ".mp4"
        part = path.with_name(f"part-{path.name}" if is_video else f".{path.name}.new")
        part.symlink_to("/dev/full")
        with pytest.raises(
            OSError, match=r"out: results.* cannot be written .*No space left"
        ) as error:
            predict("out")
        assert "\n" not in str(error.value)
        assert not path.exists() and not part.is_symlink()
        assert (out / "0.mp4" / "complete.json").exists()
        assert not (out / "summary.csv").exists()
    predict("out")
    for place in ("summary.csv", *(f"{n}.mp4/{name}" for n in "01" for name in files.RESULTS)):
        assert (out / place).read_bytes() == (tmp_path / "whole" / place).read_bytes()

    def full(self, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress.Progress, "_write", full)
    with pytest.raises(OSError, match="No space left"):  # not a fault of each of the videos
        predict("another")


#: Predicts in.mp4 here, and is killed while it looks at a frame.
KILLED = """
import os, signal, sys
from rdfer_jax import config
from rdfer_jax.faces import detect
from rdfer_jax.predict import command, progress

real, looks = detect.whole_frame, []

def whole_frame(*arguments, **named):
    looks.append(arguments)
    if len(looks) == 130:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)

detect.whole_frame = whole_frame
progress.EVERY = 2.0
command.predict(sys.argv[1], "in.mp4", "out", settings=config.Predict(detector="none", batch_size=2))
"""


def counted(monkeypatch, ends):
    """Counts looks at frames and batches of the network; stops when as many are reached as `ends` says."""
    counts = {"look": 0, "batch": 0}

    def counting(name, real):
        def call(*arguments, **named):
            counts[name] += 1
            if counts[name] == ends[name]:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        return call

    monkeypatch.setattr(detect, "whole_frame", counting("look", detect.whole_frame))
    batch = counting("batch", predict_lib.Predictor._predict)
    monkeypatch.setattr(predict_lib.Predictor, "_predict", batch)
    return counts


def test_an_interrupted_film_goes_on_and_ends_as_if_it_had_not_been(run, tmp_path, monkeypatch):
    root, _ = run
    raw_trees.write_video(tmp_path / "in.mp4", frames=500, label=1, size=32)
    monkeypatch.setattr(progress, "EVERY", 2.0)
    ends = {"look": 130, "batch": 0}
    counts = counted(monkeypatch, ends)
    settings = config_lib.Predict(detector="none", batch_size=2)
    predictor = predict_lib.Predictor(root / "run", settings=settings)
    folder = epath.Path(tmp_path / "out")

    def predict(digest="same"):
        counts.update(look=0, batch=0)
        with progress.Progress(folder, digest) as known:
            return predictor.video(VideoFile(epath.Path(tmp_path / "in.mp4")), known)

    with pytest.raises(KeyboardInterrupt):
        predict()
    path = folder / progress.NAME
    with path.open("a") as file:
        file.write('{"found": [[1, ')  # a line that was cut off
    ends |= {"look": 0, "batch": 4}
    with pytest.raises(KeyboardInterrupt):
        predict()
    assert counts["look"] == 79  # of 200: those of twelve seconds are known
    ends["batch"] = 0
    resumed = predict()
    assert counts == {"look": 0, "batch": 6}  # of nine
    for digest in ("other", ""):  # of something else, nothing is known
        whole = predict(digest)
        assert counts == {"look": 200, "batch": 9}
    assert resumed.to_json() == whole.to_json()
    for one, two in zip(resumed.faces, whole.faces, strict=True):
        np.testing.assert_array_equal(one.timeline, two.timeline)
    path.write_text("{}")
    predict()
    assert counts["look"] == 200


def test_people_keep_their_rows_through_cuts_also_if_the_command_was_interrupted(
    run, tmp_path, monkeypatch
):
    root, _ = run
    face = drawn_faces.drawn(3)
    red, blue = (face * np.array(tint) for tint in ((1, 0.6, 0.6), (0.6, 0.6, 1)))
    a, _ = drawn_faces.in_scene(red.astype(np.uint8))
    b, _ = drawn_faces.in_scene(blue.astype(np.uint8), at=(30, 70))
    b[:, :40] = 255
    drawn_faces.write_video(tmp_path / "in.mp4", [a] * 12 + [b] * 10 + [a] * 12, fps=10)

    def colors(images):
        return np.array([image.mean(axis=(0, 1)) / 50 for image in images])

    monkeypatch.setattr(predict_lib, "_embedder", lambda _: colors)
    settings = config_lib.Predict(batch_size=2, faces="all", identities=True)

    def predict(output):
        return command.predict(
            root / "run", tmp_path / "in.mp4", tmp_path / output, settings=settings
        )

    with monkeypatch.context() as patched:
        counted(patched, {"look": 0, "batch": 2})
        with pytest.raises(KeyboardInterrupt):
            predict("out")
    assert (tmp_path / "out" / "in.mp4" / progress.NAME).exists()
    rows = predict("out")
    assert [(row["face"], row["frames_with_face"]) for row in rows] == [(1, 24), (2, 10)]
    assert predict("whole") == rows
    for name in ("prediction.json", "frames.csv", "timeline.png"):
        one, two = (tmp_path / output / "in.mp4" / name for output in ("out", "whole"))
        assert one.read_bytes() == two.read_bytes(), name
    record = json.loads((tmp_path / "out" / "in.mp4" / "prediction.json").read_text())
    jsonschema.validate(record, SCHEMA)
    assert record["identities"] is True
    statuses = [[seen["status"] for seen in face["timeline"]] for face in record["faces"]]
    assert statuses[0] == ["found"] * 12 + ["absent"] * 10 + ["found"] * 12


@pytest.mark.e2e
def test_a_command_that_was_killed_goes_on_within_the_film(run, tmp_path, monkeypatch, caplog):
    root, _ = run
    monkeypatch.chdir(tmp_path)
    raw_trees.write_video(tmp_path / "in.mp4", frames=500, label=1, size=32)
    killed = [sys.executable, "-c", KILLED, str(root / "run")]
    assert subprocess.run(killed, check=False).returncode == -signal.SIGKILL
    path = tmp_path / "out" / "in.mp4" / progress.NAME
    assert path.exists()
    counts = counted(monkeypatch, {"look": 0, "batch": 0})
    settings = config_lib.Predict(detector="none", batch_size=2)
    with caplog.at_level(logging.INFO):
        command.predict(root / "run", "in.mp4", "out", settings=settings)
    assert counts["look"] == 79 and not path.exists()
    assert "in.mp4: the faces of 121 frames are known already" in caplog.text
    command.predict(root / "run", "in.mp4", "whole", settings=settings)
    for name in files.RESULTS:
        one, two = (tmp_path / out / "in.mp4" / name for out in ("out", "whole"))
        assert one.read_bytes() == two.read_bytes()


def write_frames(path, times, codec="libvpx"):
    """Writes frames at times in seconds, as Matroska."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(times):
            image = np.full((32, 32, 3), 40 + 5 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_no_input_ends_a_batch(run, tmp_path, caplog, monkeypatch):
    root, _ = run
    inputs, out = tmp_path / "in", tmp_path / "out"
    good = inputs / "good.mp4"
    raw_trees.write_video(good, frames=12, label=1, size=64)
    for name in ("caf\udce9.mp4", "new\nline.mp4", "no suffix", "UPPER.MP4", 245 * "x" + ".mp4"):
        shutil.copy(good, inputs / name)
    (inputs / "cut.avi").write_bytes(b"")
    raw_trees.write_video(inputs / "cut.avi", frames=40, label=1, size=64)
    (inputs / "cut.avi").write_bytes((inputs / "cut.avi").read_bytes()[:-4000])
    (inputs / "empty.mp4").write_bytes(b"")
    (inputs / "text.mp4").write_text("text")
    (inputs / "gone.mp4").symlink_to("nowhere")
    os.mkfifo(inputs / "pipe.mp4")
    shutil.copy(good, inputs / "strange.mp4")
    write_frames(inputs / "jump.mkv", [*np.arange(10) / 10, *(1e7 + np.arange(10) / 10)])
    for number, size in enumerate((32, 48, 16)):
        path = inputs / "sizes" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw_trees.picture(number, 3, 1, size, ".png"))
    video = predict_lib.Predictor.video

    def stumble(self, source, known):
        return 1 // 0 if "strange" in source.name else video(self, source, known)

    monkeypatch.setattr(predict_lib.Predictor, "video", stumble)
    settings = config_lib.Predict(detector="none", annotate=True, batch_size=2, fps=25.0)
    with caplog.at_level(logging.INFO):
        rows = command.predict(root / "run", inputs, out, settings=settings)
    problems = {row["video"].removeprefix(f"{inputs}/"): row["problem"] for row in rows}
    assert {name for name, problem in problems.items() if not problem} == {
        *("good.mp4", r"caf\xe9.mp4", r"new\nline.mp4", "no suffix", "UPPER.MP4"),
        *(245 * "x" + ".mp4", "cut.avi", "jump.mkv", "sizes"),
    }
    for name, problem in {
        "empty.mp4": "an empty file",
        "text.mp4": "not a video that FFmpeg can read",
        "gone.mp4": "cannot be read (No such file or directory)",
        "pipe.mp4": "not a file",
        "strange.mp4": "ZeroDivisionError: integer division or modulo by zero",
    }.items():
        assert problems[name] == f"{inputs}/{name}: {problem}"
    assert "14 videos: 9 predicted, 0 without a face, 5 not readable" in caplog.text
    written = list(csv.DictReader((out / "summary.csv").open(encoding="utf-8")))
    assert len(written) == 14
    for row in written:
        assert bool(row["folder"]) == (not row["problem"])
        if row["folder"]:
            assert (out / row["folder"] / "annotated.mp4").exists()
            record = json.loads((out / row["folder"] / "prediction.json").read_text())
            jsonschema.validate(record, SCHEMA)
            assert record["damage"] == row["damage"]
    assert [row["video"].removeprefix(f"{inputs}/") for row in written if row["damage"]] == [
        "cut.avi"
    ]
    jump = json.loads((out / "jump.mkv" / "prediction.json").read_text())
    spans = [(window["start"], window["end"]) for window in jump["faces"][0]["windows"]]
    assert spans == [(0.0, 0.9), (1e7, 1e7 + 0.9)]
    assert (
        jump["faces"][0]["key_expression"]["end"] < 1
        or jump["faces"][0]["key_expression"]["start"] > 1
    )


def test_frames_may_be_a_list_without_a_rate(predictor):
    images = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)
    expected = predictor.frames(images, 25.0).faces[0]
    for sequence in (list(images), tuple(images)):
        np.testing.assert_array_equal(
            predictor.frames(sequence, None).faces[0].probs, expected.probs
        )
    for wrong, told in (
        (iter(images), "got a generator|got a .*iterator"),
        ([images[0], images[0].astype(float)], r"got float64 \[16, 16, 3\] as number 1 of a list"),
        ([images[0], "a.png"], "got a str as number 1 of a list"),
        ([], "got an empty list"),
        (None, "got a NoneType"),
        (images[..., 0], r"got uint8 \[6, 16, 16\]"),
    ):
        with pytest.raises(MediaError, match=told):
            predictor.frames(wrong)


def test_a_video_without_a_face_is_said_and_not_guessed(run, tmp_path, caplog):
    root, _ = run
    raw_trees.write_video(tmp_path / "a.mp4", frames=20, label=1, size=64)
    with caplog.at_level(logging.INFO):
        (row,) = command.predict(
            root / "run", tmp_path / "a.mp4", tmp_path / "out",
            settings=config_lib.Predict(detector="haar", annotate=True),
        )  # fmt: skip
    assert row["problem"] == "no face was found" and "expression" not in row
    assert "1 videos: 0 predicted, 1 without a face" in caplog.text
    record = json.loads((tmp_path / "out" / "a.mp4" / "prediction.json").read_text())
    jsonschema.validate(record, SCHEMA)
    assert record["faces"] == [] and record["frames_with_face"] == 0
    lines = list(csv.DictReader((tmp_path / "out" / "a.mp4" / "frames.csv").open()))
    assert {line["status"] for line in lines} == {"absent"} and len(lines) == 8
    assert not (tmp_path / "out" / "a.mp4" / "annotated.mp4").exists()


def test_results_among_the_videos_are_not_read_again(run, tmp_path, caplog):
    root, _ = run
    for name in ("a.mp4", "b.avi"):
        raw_trees.write_video(tmp_path / name, frames=8, label=1, size=64)
    settings = config_lib.Predict(detector="none", window=0.5, annotate=True)
    for _ in range(2):
        with caplog.at_level(logging.INFO):
            rows = command.predict(root / "run", tmp_path, tmp_path / "out", settings=settings)
        assert [row["video"] for row in rows] == [str(tmp_path / "a.mp4"), str(tmp_path / "b.avi")]
    assert (tmp_path / "out" / "a.mp4" / "annotated.mp4").exists()
    assert "results of this program, such as out" in caplog.text
    with pytest.raises(
        MediaError, match=r"a.mp4: the results need a folder .* choose another --output"
    ):
        command.predict(root / "run", tmp_path, tmp_path, settings=settings)


def test_a_folder_that_cannot_take_results_is_refused_before_any_work(run, tmp_path, monkeypatch):
    root, _ = run
    raw_trees.write_video(tmp_path / "a.mp4", frames=4, label=1, size=32)
    monkeypatch.setattr(predict_lib.Predictor, "video", None)
    settings = config_lib.Predict(detector="none")
    inside = tmp_path / "a.mp4" / "out"
    with pytest.raises(OSError, match=rf"{inside}: cannot be written to .*choose another --output"):
        command.predict(root / "run", tmp_path / "a.mp4", inside, settings=settings)
    with (
        run_dir.run_lock(epath.Path(tmp_path / "out"), "output"),
        pytest.raises(ValueError, match=r"out: another run is using .* or choose another --output"),
    ):
        command.predict(root / "run", tmp_path / "a.mp4", tmp_path / "out", settings=settings)
    with pytest.raises(FileNotFoundError, match="not the folder of a training run"):
        command.predict(tmp_path / "typo", tmp_path / "a.mp4", settings=settings)
    assert not (tmp_path / "typo").exists()


def test_nothing_to_predict_with_or_nothing_that_can_be_read_is_an_error(run, tmp_path):
    root, _ = run
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match="none of the 1 videos could be read"):
        command.predict(root / "run", tmp_path / "bad.mp4", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file"):
        predict_lib.Predictor(tmp_path)
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config.json: not JSON .*Restore it"):
        run_dir.read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="does not fit this version"):
        run_dir.read(tmp_path)


# Records made by hand: what is derived from them, and how it is written.

TIMES = np.arange(10) / 10


def made_record(**changes):
    timeline = np.full((10, 2), np.nan)
    timeline[2:8, 0] = [0.2, 0.6, 0.9, 0.5, 0.4, 0.1]
    timeline[:, 1] = 1 - timeline[:, 0]
    boxes = np.full((10, 4), np.nan)
    boxes[2:8] = [5, 6, 20, 24]
    found = ~np.isnan(boxes[:, 0])
    found[5] = False
    windows = (
        Window(0.2, 0.5, np.array([0.9, 0.1]), 0.8, (4, 3), (0.4, 0.3)),
        Window(0.4, 0.7, np.array([0.4, 0.6]), 0.6, (6,), (0.6,)),
    )
    thumbnails = ((0.4, np.zeros((8, 8, 3), np.uint8)), (0.3, np.zeros((8, 8, 3), np.uint8)))
    face = Face(boxes, found, timeline, windows, thumbnails)
    record = VideoPrediction(
        "dir/a.mp4", (48, 64), ("happy", "sad"),
        {"run": "r", "checkpoint": "last", "step": 1}, np.arange(10) * 3, TIMES, (face,), 1, 0,
    )  # fmt: skip
    return dataclasses.replace(record, **changes)


def test_the_whole_is_the_mean_of_the_windows_and_the_key_stretch_lies_around_its_peak():
    (face,) = made_record().faces
    np.testing.assert_allclose(face.probs, [0.65, 0.35])
    assert face.expression == 0 and face.agreement == pytest.approx(0.7)
    assert face.best_window.start == 0.2
    # At least 0.45, half of the peak of 0.9: frames 3 to 5.
    assert face.key_span(TIMES) == (pytest.approx(0.3), pytest.approx(0.5))


def test_a_key_expression_ends_at_a_jump_in_time_and_the_picture_shows_a_gap():
    times = TIMES + 1e3 * (np.arange(10) >= 5)
    record = made_record(times=times)
    assert record.faces[0].key_span(times) == (pytest.approx(0.3), pytest.approx(0.4))
    edges, is_frame = timeline_lib._edges(times)
    assert len(edges) == 12 and is_frame.tolist() == [True] * 5 + [False] + [True] * 5
    assert edges[5] == pytest.approx(0.45) and edges[6] == pytest.approx(1000.45)
    assert plots.to_rgb(timeline(record)).shape[0] > 200


def test_a_record_in_json_and_csv_says_where_there_is_no_face():
    record = made_record()
    told = record.to_json()
    jsonschema.validate(told, SCHEMA)
    (face,) = told["faces"]
    status = [at["status"] for at in face["timeline"]]
    assert status == ["absent"] * 2 + ["found"] * 3 + ["bridged"] + ["found"] * 2 + ["absent"] * 2
    assert face["timeline"][0]["box"] is None and face["timeline"][0]["probabilities"] is None
    assert face["timeline"][4]["probabilities"] == {"happy": 0.9, "sad": 0.1}
    assert face["key_expression"] == {
        "start": 0.3, "end": 0.5, "frames": [{"frame": 4, "time": 0.4}, {"frame": 3, "time": 0.3}],
    }  # fmt: skip
    assert (told["frames_with_face"], told["other_faces"]) == (6, 1)
    rows = list(csv.DictReader(files.frames_csv(record).splitlines()))
    assert [row["status"] for row in rows] == status
    assert [row["happy"] for row in rows][:4] == ["", "", "0.2000", "0.6000"]
    assert [row["frame"] for row in rows] == [str(3 * i) for i in range(10)]


def test_a_summary_says_why_there_is_nothing():
    (row,) = files.summary(made_record(), "a.mp4")
    assert (row["expression"], row["probability"], row["faces"]) == ("happy", 0.65, 2)
    none = made_record(faces=(), other_faces=0)
    assert [row["problem"] for row in files.summary(none, "a")] == [NO_FACE]
    brief = made_record(faces=(), other_faces=0, faces_too_brief=1)
    assert [row["problem"] for row in files.summary(brief, "a")] == [TOO_BRIEF]
    assert "no face was found; face in 0 of 10 frames" in files.describe(none)
    assert "1 other face not predicted" in files.describe(made_record())


def test_a_summary_has_a_row_for_each_face(tmp_path):
    (face,) = made_record().faces
    later = np.where(np.arange(10)[:, None] < 6, np.nan, face.boxes)
    sad = dataclasses.replace(face.windows[1], probs=np.array([0.2, 0.8]))
    other = dataclasses.replace(face, boxes=later, windows=(sad,))
    rows = files.summary(made_record(faces=(face, other), other_faces=0), "a")
    files.write_summary(rows, epath.Path(tmp_path / "summary.csv"))
    written = list(csv.DictReader((tmp_path / "summary.csv").open()))
    shown = ("face", "expression", "probability", "frames_with_face", "faces")
    assert [tuple(row[name] for name in shown) for row in written] == [
        ("1", "happy", "0.65", "6", "2"),
        ("2", "sad", "0.8", "2", "2"),
    ]


@pytest.mark.parametrize("changes", [{}, {"faces": ()}])
def test_the_timeline_is_a_picture(changes):
    drawn = plots.to_rgb(timeline(made_record(**changes)))
    assert drawn.shape[0] > 200 and np.ptp(drawn) > 100


def test_an_annotated_video_has_the_box_where_the_face_is(tmp_path):
    record = made_record(numbers=np.arange(10), times=np.arange(10) / 25)
    images = np.full((10, 48, 64, 3), 255, np.uint8)
    annotate.write(Array(images, 25.0), record, tmp_path / "a.mp4")
    drawn = np.stack([f.image for f in VideoFile(tmp_path / "a.mp4").frames()])
    assert drawn.shape == images.shape
    color = drawn[:, 20, 5].astype(int)  # the left side of the box
    assert (np.ptp(color[2:8], axis=-1) > 60).all() and (np.ptp(color[[0, 1, 8, 9]]) < 40).all()


def test_several_faces_have_their_numbers_in_the_annotated_video(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(annotate, "_write", lambda _, text, *__: written.append(text))
    record = made_record(numbers=np.arange(10), times=np.arange(10) / 25)
    (face,) = record.faces
    images = np.full((10, 48, 64, 3), 255, np.uint8)
    for faces, expected in (((face,), {"happy"}), ((face, face), {"1: happy", "2: happy"})):
        written.clear()
        several = dataclasses.replace(record, faces=faces)
        annotate.write(Array(images, 25.0), several, tmp_path / "a.mp4")
        assert {text.rpartition(" ")[0] for text in written} >= expected
        assert all((": " in text) == (len(faces) > 1) for text in written)


def test_videos_of_one_name_get_folders_of_their_own():
    names = ["x/caf\u00e9.mp4", "y/cafe\u0301.mp4"]  # one name on macOS
    assert files.folders(names) == ["caf\u00e9.mp4", "cafe\u0301.mp4-2"]
    assert files.folders(["x/a.mp4", "y/a.mp4", "b", "z/a.mp4"]) == [
        "a.mp4", "a.mp4-2", "b", "a.mp4-3",
    ]  # fmt: skip
    many = files.folders([f"{number}/video.mp4" for number in range(20_000)])  # in time
    assert many[-1] == "video.mp4-20000" and len(set(many)) == len(many)


def test_boxes_have_the_color_of_the_class():
    image, face = np.zeros((48, 64, 3), np.uint8), made_record().faces[0]
    annotate.draw_face(image, face, 4, ("happy", "sad"))
    assert image[20, 5].tolist() == [0xE6, 0x9F, 0x00]  # red first
