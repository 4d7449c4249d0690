"""Streams, live sources, and networks that ONNX Runtime runs."""

import copy
import csv
import dataclasses
import functools
import http.server
import logging
import threading
import time
import types

import numpy as np
import pytest
from drawn_faces import drawn, in_scene, write_video

from rdfer_jax import config as config_lib
from rdfer_jax import main
from rdfer_jax.export import exporter
from rdfer_jax.faces import follow, tracks
from rdfer_jax.faces.boxes import Box, Detection
from rdfer_jax.media.sources import Array
from rdfer_jax.media.video import Frame
from rdfer_jax.predict import live, predictor, stream

WHOLE = config_lib.Predict(detector="none", window=1.5, stride=0.5, mirror=False)


@pytest.fixture(scope="module")
def film():
    """Six seconds of a drawn face that changes, uint8 [60, H, W, 3], at ten frames a second."""
    faces = [drawn(index, 64) for index in (0, 3, 5)]
    return np.stack([faces[place // 20] for place in range(60)])


@pytest.fixture(scope="module")
def packaged():
    return predictor.Predictor(settings=WHOLE)


def frames_of(images, fps=10.0):
    return (Frame(number, number / fps, image) for number, image in enumerate(images))


@pytest.mark.slow
def test_a_stream_says_of_the_last_window_what_a_whole_video_says_of_it(film, packaged):
    moments = list(packaged.stream(frames_of(film)))
    assert moments[0].number == 2  # with three frames of the face
    np.testing.assert_allclose(np.diff([moment.time for moment in moments]), 0.5, atol=1e-9)
    ready = [moment for moment in moments if moment.time > 1.5]
    windows = packaged.frames(film[2:], 10.0).faces[0].windows
    assert len(windows) >= len(ready) >= 8
    for moment, window in zip(ready, windows, strict=False):
        (face,) = moment.faces
        assert moment.time == pytest.approx(window.end + 0.2)
        np.testing.assert_allclose(face.probs, window.probs, atol=1e-6)
        assert face.agreement == pytest.approx(window.agreement, abs=1e-6)
        assert face.expression == packaged.classes[int(face.probs.argmax())]
        assert face.confidence == face.probs.max()
    assert np.ptp([moment.faces[0].probs for moment in ready], axis=0).max() > 0.05


@pytest.mark.slow
def test_a_stream_reads_no_further_than_it_says_and_keeps_one_window(film, packaged):
    given = []

    def source():
        for frame in frames_of(np.concatenate([film] * 3)):
            given.append(frame.number)
            yield frame

    running = stream.Stream(
        packaged.network, packaged._detect, packaged.cut, WHOLE, packaged.fps, 1.0
    )
    for moment in running.moments(source()):
        assert given[-1] == moment.number
        assert sum(map(len, running._crops.values())) <= 16
    assert len(given) == 180


@pytest.mark.slow
@pytest.mark.parametrize(("every", "expected"), [(0.5, 12), (2.0, 3)])
def test_small_faces_are_searched_as_often_as_the_setting_says(film, packaged, every, expected):
    searches = []

    def detect(image, near=(), small=True):
        searches.append(small and not near)
        return [Detection(Box(0, 0, *image.shape[1::-1]))]

    predictor = copy.copy(packaged)
    predictor._detect = detect
    predictor.settings = dataclasses.replace(WHOLE, small_every=every)
    predictor.frames(film, 10.0)
    assert sum(searches) == expected
    list(predictor.stream(frames_of(film)))
    assert sum(searches) == 2 * expected


class Scripted:
    """A detector that finds given faces."""

    def __init__(self, script):
        self.script, self.calls = script, -1

    def __call__(self, image, near=(), small=True):
        if not near:
            self.calls += 1
        return [Detection(Box(*box)) for box in self.script[self.frame]]


def followed(script, fps=10.0):
    detect = Scripted(script)
    follower = follow.Follower(detect)
    found = []
    for place in range(len(script)):
        detect.frame = place
        found.append(follower(np.zeros((8, 8, 3), np.uint8), place / fps))
    return follower, found


def test_faces_are_told_apart_as_in_a_whole_video():
    rng = np.random.default_rng(0)
    script = [
        [(10 + 2 * t, 10, 40, 40), (100 - 2 * t + rng.normal(), 60, 30, 30)] for t in range(30)
    ]
    _, found = followed(script)
    whole = tracks.track(
        [[Detection(Box(*b)) for b in boxes] for boxes in script], np.arange(30) / 10
    )
    assert [[seen.number for seen in now] for now in found[2:]] == [[1, 2]] * 28
    for number, track in enumerate(whole):
        near = [np.abs(found[t][number].box - track.boxes[t]).max() for t in range(2, 30)]
        assert max(near) < 5  # averaged over the past, not around


def test_a_face_that_flickers_is_none_and_one_that_is_long_gone_is_another():
    face = (10, 10, 40, 40)
    _, found = followed([[face], [face], [], [], [face]] + [[]] * 20)
    assert [len(now) for now in found[:6]] == [0, 0, 0, 0, 1, 0]
    follower, found = followed([[face]] * 5 + [[]] * 20 + [[face]] * 5 + [[]] * 60 + [[face]] * 5)
    numbers = [now[0].number if now else None for now in found]
    assert set(numbers[27:30]) == {1} and set(numbers[-3:]) == {2}
    assert len(follower._chains) == 1 and len(follower._chains[0].seen) <= 11


def test_frames_that_nobody_takes_are_dropped_and_counted():
    def source():
        for number in range(50):
            time.sleep(0.004)
            yield Frame(number, number / 250, np.zeros((1, 1, 3), np.uint8))

    newest, taken = live.Newest(source()), []
    for frame in newest:
        taken.append(frame.number)
        time.sleep(0.03)
    assert taken == sorted(set(taken)) and taken[-1] == 49
    assert newest.dropped == 50 - len(taken) > 20

    def broken():
        yield Frame(0, 0.0, np.zeros((1, 1, 3), np.uint8))
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(live.Newest(broken()))


@pytest.mark.slow
def test_a_file_is_played_as_if_live(tmp_path, capfd):
    scenes = [in_scene(drawn(3), (20, 60))[0]] * 75
    write_video(tmp_path / "film.mp4", scenes, fps=25)
    start = time.monotonic()
    main.main(["live", f"--input={tmp_path / 'film.mp4'}", f"--output={tmp_path / 'rows.csv'}"])
    assert time.monotonic() - start >= 2.9  # at its own pace
    rows = list(csv.DictReader((tmp_path / "rows.csv").open()))
    assert rows and {row["face"] for row in rows} == {"1"}
    classes = predictor.Predictor().classes
    for row in rows:
        probs = [float(row[name]) for name in classes]
        assert sum(probs) == pytest.approx(1, abs=1e-3)
        assert row["expression"] == classes[int(np.argmax(probs))]
        assert abs(float(row["left"]) + float(row["width"]) / 2 - 140) < 30
        assert 0 <= float(row["latency"]) < 60 and int(row["dropped"]) >= 0
    printed = capfd.readouterr()
    assert "latency at most" in printed.err and "frames dropped" in printed.err
    assert not printed.out  # no terminal


@pytest.mark.slow
def test_ctrl_c_ends_it_and_keeps_the_rows(tmp_path, film, monkeypatch, capfd):
    write_video(tmp_path / "film.mp4", film, fps=10)
    real = predictor.Predictor.stream

    def stopped(self, frames, watch=None):
        yield next(iter(real(self, frames)))
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor.Predictor, "stream", stopped)
    flags = ["--config=faces", "--config.predict.detector=none", f"--output={tmp_path / 'a.csv'}"]
    with pytest.raises(SystemExit) as end:
        main.main(["live", f"--input={tmp_path / 'film.mp4'}", *flags])
    assert end.value.code == 130 and "stopped by Ctrl-C" in capfd.readouterr().err
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 2


def test_a_full_disk_ends_it_in_one_line(tmp_path, film, monkeypatch):
    write_video(tmp_path / "film.mp4", film, fps=10)
    known = types.SimpleNamespace(classes=("sad", "happy"))
    monkeypatch.setattr(live, "Predictor", lambda *arguments: known)
    full = "^error: /dev/full: cannot be written .No space left"
    with pytest.raises(SystemExit, match=full) as end:
        main.main(["live", f"--input={tmp_path / 'film.mp4'}", "--output=/dev/full"])
    assert "\n" not in str(end.value)


def test_a_line_says_what_is_seen_and_how_late():
    face = stream.LiveFace(2, np.zeros(4), np.array([0.2, 0.8]), "sad", 0.8, 0.93)
    moment = stream.Moment(61.5, 615, (face,))
    text = live.line(moment, 0.043, 7)
    assert text == "    61.5 s  face 2: sad 80%, agreement 0.93  (latency 43 ms, 7 frames dropped)"
    assert "no face" in live.line(stream.Moment(0.0, 0, ()), 0.0, 0)


def test_what_cannot_be_read_or_shown_is_told_in_a_line(tmp_path):
    with pytest.raises(SystemExit, match=r"error: --input=rtsp://127.0.0.1:9/x: no such stream"):
        main.main(["live", "--input=rtsp://127.0.0.1:9/x"])
    with pytest.raises(SystemExit, match=r"error: .*none\.mp4"):
        main.main(["live", f"--input={tmp_path / 'none.mp4'}"])
    if not live.has_windows():
        with pytest.raises(SystemExit, match=r"error: --show: this OpenCV .* cannot open windows"):
            main.main(["live", "--input=0", "--show"])


class FakeCapture:
    """A camera of 50 frames a second that keeps what nobody reads, as FFmpeg does; then it is unplugged."""

    def __init__(self, place, last=60):
        self.start, self.number, self.last = time.monotonic(), 0, last

    def isOpened(self):  # noqa: N802
        return True

    def read(self):
        self.number += 1
        time.sleep(max(0, self.start + self.number / 50 - time.monotonic()))
        return self.number <= self.last, np.full((4, 4, 3), self.number, np.uint8)

    def release(self):
        pass


@pytest.mark.slow
def test_a_camera_does_not_fall_behind_while_the_network_is_prepared(monkeypatch, caplog):
    late = []

    def watched(self, frames, watch=None):
        for frame in frames:
            late.append(time.monotonic() - start - frame.image[0, 0, 0] / 50)
            yield stream.Moment(frame.time, frame.number, ())

    monkeypatch.setattr(live.cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(live, "_warm_up", lambda predictor: time.sleep(0.5))
    monkeypatch.setattr(predictor.Predictor, "stream", watched)
    start = time.monotonic()
    with caplog.at_level(logging.INFO, "rdfer_jax"):
        live.run(None, "rtsp://me:secret@camera/1")
    assert len(late) > 10 and max(late) < 0.3
    assert "rtsp://me:***@camera/1: no more frames came after 1.2 s" in caplog.text
    assert "secret" not in caplog.text and " 0 frames dropped" in caplog.text

    monkeypatch.setattr(live.cv2, "VideoCapture", lambda place: FakeCapture(place, last=0))
    with pytest.raises(live.MediaError, match="--input=0: it was opened, but no frame came"):
        live.run(None, "0")


@pytest.mark.slow
def test_a_stream_over_http_is_read(tmp_path, capfd):
    write_video(tmp_path / "film.mp4", [in_scene(drawn(3), (20, 60))[0]] * 40, fps=25)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://me:secret@127.0.0.1:{server.server_address[1]}/film.mp4"
        main.main(["live", f"--input={address}", f"--output={tmp_path / 'rows.csv'}"])
        server.shutdown()
    told = capfd.readouterr().err
    assert "/film.mp4: no more frames came after" in told and "secret" not in told


@pytest.mark.slow
def test_the_window_shows_the_expression_at_the_face_until_q_is_pressed(
    tmp_path, film, monkeypatch
):
    shown, closed = [], []
    write_video(tmp_path / "film.mp4", film, fps=10)
    monkeypatch.setattr(live, "has_windows", lambda: True)
    monkeypatch.setattr(live.cv2, "imshow", lambda name, image: shown.append(image))
    monkeypatch.setattr(live.cv2, "waitKey", lambda wait: ord("q") if len(shown) >= 12 else -1)
    monkeypatch.setattr(live.cv2, "getWindowProperty", lambda name, which: 1.0)
    monkeypatch.setattr(live.cv2, "destroyAllWindows", lambda: closed.append(True))
    flags = ["--config=faces", "--config.predict.detector=none", "--show"]
    main.main(["live", f"--input={tmp_path / 'film.mp4'}", *flags])
    assert len(shown) == 12 and closed == [True]
    assert shown[0].shape == film[0].shape
    changed = np.abs(shown[-1].astype(int) - shown[0]).max(axis=-1) > 40
    assert changed[0].mean() > 0.5 and changed[20:40, 20:40].mean() < 0.2  # the box alone


@pytest.mark.slow
def test_onnx_runtime_predicts_the_same_and_is_exported_once(
    tmp_path, film, packaged, monkeypatch, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = dataclasses.replace(WHOLE, mirror=True)
    expected = predictor.Predictor(settings=settings).frames(film, 10.0)
    with caplog.at_level(logging.INFO, "rdfer_jax"):
        predictor.Predictor(settings=settings, runtime="onnx")
    assert "exporting the network" in caplog.text
    (kept,) = (tmp_path / "cache" / "rdfer_jax" / "onnx").iterdir()

    def never(*_):
        raise AssertionError("exported again")

    monkeypatch.setattr(exporter, "checked_onnx", never)
    again = predictor.Predictor(settings=settings, runtime="onnx")
    assert again.network.runtime == "onnx"
    check_same(again.frames(film, 10.0), expected)
    kept.write_bytes(b"damaged")
    with pytest.raises(AssertionError, match="exported again"):
        predictor.Predictor(settings=settings, runtime="onnx")


def check_same(found, expected):
    (one,), (two,) = found.faces, expected.faces
    np.testing.assert_allclose(one.timeline, two.timeline, atol=1e-5)
    for left, right in zip(one.windows, two.windows, strict=True):
        np.testing.assert_allclose(left.probs, right.probs, atol=1e-5)
        assert left.agreement == pytest.approx(right.agreement, abs=1e-5)


@pytest.mark.slow
def test_an_exported_network_predicts_as_the_one_it_was(tmp_path, film, packaged):
    main.main(["export", f"--output={tmp_path}", "--formats=onnx"])
    again = predictor.Predictor(tmp_path, settings=WHOLE)
    assert again.classes == packaged.classes and again.model == packaged.model
    assert predictor.Predictor(tmp_path).settings == predictor.Predictor().settings
    check_same(again.video(Array(film, 10.0)), packaged.video(Array(film, 10.0)))
    with pytest.raises(ValueError, match="which ONNX Runtime runs, not jax"):
        predictor.Predictor(tmp_path, runtime="jax")
    with pytest.raises(ValueError, match="an exported network cannot be exported again"):
        again.network.function()
    with pytest.raises(ValueError, match="runtime: expected one of auto, jax, onnx, got 'trt'"):
        predictor.Predictor(runtime="trt")
