"""The page at work in Chromium with the packaged network: files, and a camera that plays drawn faces."""

import contextlib
import csv
import functools
import http.server
import os
import pathlib
import re
import socket
import threading

import browsing
import cv2
import numpy as np
import pages_of_networks
import pytest
from drawn_faces import in_scene, write_video

pytest.importorskip("onnxruntime", reason="needs the extra `export`")
from data.synthetic_faces import clips
from data.synthetic_faces.parameters import Parameters
from rdfer_jax import Predictor
from rdfer_jax.predict import files
from rdfer_jax.web import runtime, site

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


TEXTS = """() => Object.fromEntries(["#confidence", "#agreement", "#speed", "#bars"].map((name) =>
  [name, document.querySelector(name).textContent]))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The folder of the packaged network's page."""
    try:
        runtime.read()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("web") / "page"
    assert 5e6 < site.export(None, str(folder)) < 15e6
    return folder


@functools.cache
def film():
    """A drawn face that changes for four seconds at ten frames a second, then none for a second."""
    drawing = Parameters(image_size=160, num_frames=16, hard_share=0.0)
    faces = [face for index in (3, 5) for face in clips.render_clip(drawing, "test", index).frames]
    frames = [in_scene(face, (20 + n // 2, 60 + n))[0] for n, face in enumerate(faces)]
    return [*frames, *[np.full_like(frames[0], 120)] * 10]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "a film, drawn.mp4"
    write_video(path, film(), fps=10)
    return path


def write_camera(path, frames):
    """Writes what Chromium's fake camera plays in a loop."""
    height, width = frames[0].shape[:2]
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F10:1 Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())
    return (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={path}",
    )


def wait(shown, *states):
    """Waits for a state of the page, or an error."""
    selector = ",".join(f"body[data-state={state}]" for state in (*states, "error"))
    shown.wait_for_selector(selector)
    assert shown.get_attribute("body", "data-state") in states, shown.text_content("#status")


def saved(shown):
    with shown.expect_download() as download:
        shown.click("#save")
    with pathlib.Path(download.value.path()).open(newline="") as file:
        return list(csv.DictReader(file)), download.value.suggested_filename


def read_file(browser, address, path):
    """What the page says of a video, and the rows of its CSV."""
    with browsing.opened(browser, address) as shown:
        wait(shown, "ready")
        shown.set_input_files("#file", path)
        wait(shown, "done")
        assert float(shown.text_content("#speed")) > 0
        rows, name = saved(shown)
        assert name == f"{path.stem}.csv"
        return shown.text_content("#summary"), shown.text_content("#expression"), rows


def compare(prediction, rows, tolerance):
    """Asserts that the page's rows are the prediction's, for its largest face."""
    expected = list(csv.DictReader(files.frames_csv(prediction).splitlines()))
    expected = [row for row in expected if row["face"] in ("", "1")]
    assert [row["time"] for row in rows] == [row["time"] for row in expected]
    assert [row["status"] for row in rows] == [row["status"] for row in expected]
    mine, theirs = (
        np.array([[float(row[name] or "nan") for name in CLASSES] for row in table])
        for table in (rows, expected)
    )
    np.testing.assert_array_equal(np.isnan(mine), np.isnan(theirs))
    assert np.nanmax(np.abs(mine - theirs), initial=0) < tolerance
    sides = ("left", "top", "width", "height")
    boxes = [[[float(r[s] or "nan") for s in sides] for r in table] for table in (rows, expected)]
    width = np.nanmean(np.array(boxes[1])[:, 2]) if prediction.faces else 1
    assert np.nanmax(np.abs(np.subtract(*boxes)), initial=0) < 0.04 * width


def test_a_video_is_predicted_as_in_python(page, video):
    prediction = Predictor().file(video)
    (face,) = prediction.faces
    with browsing.chromium() as browser, pages_of_networks.served(page) as address:
        told, expression, rows = read_file(browser, address, video)
    compare(prediction, rows, tolerance=0.05)
    assert len(rows) == len(film()) and {row["status"] for row in rows} == {"found", "absent"}
    assert expression == prediction.classes[face.expression]
    share = re.search(rf": {expression} (\d+) %, agreement", told)
    assert share and abs(int(share[1]) / 100 - face.probs.max()) < 0.03, told
    assert f"face in {prediction.with_face} of {len(rows)} frames" in told


@pytest.mark.real
def test_real_videos_are_predicted_as_in_python(page):
    folder = os.environ.get("REAL_VIDEOS")
    if not folder:
        pytest.skip("REAL_VIDEOS is not set")
    predictor = Predictor()
    with browsing.chromium() as browser, pages_of_networks.served(page) as address:
        for path in sorted(pathlib.Path(folder).glob("*.mp4")):
            prediction = predictor.file(path)
            compare(prediction, read_file(browser, address, path)[2], tolerance=0.1)


def test_a_camera_is_read_live(page, tmp_path):
    flags = write_camera(tmp_path / "camera.y4m", film()[:-10])
    with (
        browsing.chromium(*flags) as browser,
        pages_of_networks.served(page) as address,
        browsing.opened(browser, address) as shown,
    ):
        wait(shown, "ready")
        assert "Nothing leaves this computer" in shown.text_content("header")
        shown.click("#camera")
        shown.wait_for_selector("#spoken:text-matches('\\\\w')", state="attached")
        shown.wait_for_selector(f"#expression:text-matches('{'|'.join(CLASSES)}')")
        said = shown.evaluate(TEXTS)  # at one moment
        assert said["#confidence"].endswith(" %") and 0 <= float(said["#agreement"]) <= 1
        assert 0 < float(said["#speed"]) <= 12
        shares = [int(share) for share in re.findall(r"(\d+) %", said["#bars"])]
        assert len(shares) == len(CLASSES) and abs(sum(shares) - 100) <= 4
        assert max(shares) == int(said["#confidence"].rstrip(" %"))
        rows, name = saved(shown)
        assert name == "camera.csv" and rows[0]["time"] == "0.000"
        shown.locator("#least").fill("95")
        shown.wait_for_selector("#expression:text-is('unsure')")
        shown.click("#stop")
        wait(shown, "done")
        assert shown.text_content("#status") == "Stopped" and shown.is_disabled("#stop")


def test_a_camera_without_a_face_and_a_file_that_is_no_video_are_told(page, tmp_path):
    flags = write_camera(tmp_path / "camera.y4m", film()[-10:])
    (tmp_path / "notes.mp4").write_text("no video")
    with (
        browsing.chromium(*flags) as browser,
        pages_of_networks.served(page) as address,
        browsing.opened(browser, address) as shown,
    ):
        wait(shown, "ready")
        shown.click("#camera")
        shown.wait_for_selector("#expression:text-is('no face')")
        shown.set_input_files("#file", tmp_path / "notes.mp4")
        shown.wait_for_selector("body[data-state=error]")
        told = shown.text_content("#status")
        assert told == "Error: notes.mp4: this browser cannot read it as a video"


class Plain(http.server.SimpleHTTPRequestHandler):
    """A server that knows nothing of the page: no headers, and types as it guesses them."""

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served_plainly(folder):
    handler = functools.partial(Plain, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://localhost:{running.server_address[1]}/"
        running.shutdown()


def test_any_server_will_do_and_the_policy_holds_there_too(page):
    refused = """(address) => new Promise((resolve) => {
      const ask = `fetch("${address}", {mode: "no-cors"})`;
      const code = `${ask}.then(() => postMessage(1), () => postMessage(0))`;
      const worker = new Worker(URL.createObjectURL(new Blob([code])));
      worker.onmessage = ({data}) => resolve(data === 0);
    })"""
    with (
        browsing.chromium() as browser,
        served_plainly(page) as address,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        other.settimeout(1)
        shown = browser.new_page()
        shown.goto(address)
        wait(shown, "ready")
        assert "1 thread." in shown.text_content("#about")
        assert shown.evaluate(refused, f"http://localhost:{other.getsockname()[1]}/")
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (360, 740)])
def test_the_page_fits_and_can_be_read(page, size, scheme):
    with (
        browsing.chromium() as browser,
        pages_of_networks.served(page) as address,
        browsing.opened(browser, address, size, scheme) as shown,
    ):
        wait(shown, "ready")
        assert browsing.overflow(shown) <= 0
        contrasts = browsing.contrasts(shown, "body *")
        assert len(contrasts) > 20 and min(contrasts.values()) >= 4.5, contrasts
        # All controls have names and are reached by the keyboard.
        names = shown.evaluate("""() => [...document.querySelectorAll("button, input")].map((e) =>
          (e.labels?.[0] ?? e).textContent.trim())""")
        assert all(names) and len(names) == 5
        shown.keyboard.press("Tab")
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.id") == "camera"
        assert shown.get_attribute("#chart", "aria-label").startswith("Probabilities over time")
