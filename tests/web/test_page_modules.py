"""What the page computes in a browser, beside the Python that it repeats, on the same inputs."""

import base64
import json

import browsing
import numpy as np
import pages_of_networks
import pytest
from drawn_faces import drawn, in_scene

pytest.importorskip("onnx", reason="needs the extra `export`")
from rdfer_jax.faces import blazeface, cut, tracks
from rdfer_jax.faces.blazeface import Square
from rdfer_jax.faces.boxes import Box, Detection
from rdfer_jax.pipeline.sampling import frame_indices
from rdfer_jax.predict.timecourse import TimeCourse
from rdfer_jax.predict.windows import windows

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    """Runs JavaScript with the page's modules: the body of a function of `given`, with `settings`."""
    folder = tmp_path_factory.mktemp("site")
    pages_of_networks.write(folder)
    (folder / "empty.html").write_text("<!doctype html>")
    with pages_of_networks.served(folder) as address, browsing.chromium() as browser:
        page = browser.new_page()
        page.goto(f"{address}empty.html")

        def run(body, **given):
            names = ("blazeface", "pixels", "tracks", "windows")
            imports = "".join(f"const {name} = await import('/{name}.js');" for name in names)
            read = "const settings = await (await fetch('/settings.json')).json();"
            source = f"async (given) => {{ {imports} {read} {body} }}"
            return json.loads(page.evaluate(source, given))

        yield run


def frame(image):
    """A frame as given to JavaScript, and the code that reads it."""
    rgba = np.concatenate([image, np.full((*image.shape[:2], 1), 255, np.uint8)], axis=-1)
    text = base64.b64encode(rgba.tobytes()).decode()
    return {"width": image.shape[1], "height": image.shape[0], "text": text}


READ = """const bytes = Uint8ClampedArray.from(atob(given.frame.text), (c) => c.charCodeAt(0));
          const frame = {data: bytes, width: given.frame.width, height: given.frame.height};"""


def scene():
    """A drawn face in a picture with fine structure."""
    image, where = in_scene(drawn(5, 200), at=(30, 70), size=(270, 400))
    noise = np.random.default_rng(0).integers(-25, 26, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8), where


@pytest.mark.parametrize(
    "box", [(70, 30, 200, 200), (-30.5, -20.25, 120, 120), (90.3, 60.7, 40, 36)]
)
@pytest.mark.parametrize("eyes", [None, [[130.0, 120.0], [205.0, 95.0]]])
def test_a_face_is_cut_out_as_in_python(call, box, eyes):
    image, _ = scene()
    expected = cut.crop(image, box, 0.1, 48, None if eyes is None else np.array(eyes))
    found = call(
        f"""{READ} const [left, top, width, height] = given.box;
        const face = pixels.crop(frame, {{left, top, width, height}}, 0.1, 48, given.eyes);
        return JSON.stringify([...face]);""",
        frame=frame(image), box=box, eyes=eyes,
    )  # fmt: skip
    difference = np.abs(np.reshape(found, (48, 48, 3)) - expected.astype(int))
    # OpenCV samples at multiples of a 32nd of a pixel.
    assert difference.mean() < 0.5 and difference.max() <= 8


@pytest.mark.parametrize(
    "box", [(70.2, 30.9, 200, 190.4), (-3, 5.5, 16.1, 15), (1, 2, 0.3, 0.2), (9, 9, 700, 3)]
)
def test_a_known_face_is_searched_in_the_same_square(call, box):
    found = call(
        """const [left, top, width, height] = given.box;
        const finder = new blazeface.BlazeFace(null, settings.blazeface, 0.1);
        return JSON.stringify(Object.values(finder.around({left, top, width, height})));""",
        box=box,
    )
    assert tuple(found) == blazeface.square_around(Box(*box))


@pytest.mark.parametrize(
    "square", [(0, -65, 400), (70, 30, 200), (-20, 150, 100), (60, 40, 333), (-200, -400, 1200)]
)
def test_the_detector_sees_what_it_sees_in_python(call, square):
    image, _ = scene()
    square = blazeface.snapped(Square(*square))
    expected = blazeface.network_input(image, square)
    found = call(
        f"""{READ} const [left, top, side] = given.square;
        const out = new Float32Array(3 * 128 * 128);
        pixels.networkInput(frame, {{left, top, side}}, 128, out, 0);
        return JSON.stringify([...out]);""",
        frame=frame(image), square=square,
    )  # fmt: skip
    difference = np.abs(np.reshape(found, (3, 128, 128)) - expected) * 127.5  # levels of 8 bits
    assert difference.mean() < 0.2 and difference.max() < 2.1


def test_the_detectors_output_is_decoded_and_merged_as_in_python(call):
    rng = np.random.default_rng(0)
    regressors = rng.normal(0, 6, (896, 16)).astype(np.float32)
    regressors[:, 2:4] = rng.uniform(5, 60, (896, 2))
    logits = rng.normal(-3, 3, 896).astype(np.float32)
    rows = blazeface.merge(*blazeface.decode(regressors, logits, Square(-40, 25, 300), 0.5))
    found = call(
        """const numbers = Float32Array.from(given.regressors);
        const rows = blazeface.decode(numbers, Float32Array.from(given.logits),
          {left: -40, top: 25, side: 300}, 0.5, blazeface.anchors(settings.blazeface), 128);
        const faces = blazeface.merge(rows, settings.blazeface.same);
        return JSON.stringify(faces.map((f) => [f.left, f.top, f.width, f.height, ...f.points.flat()]));""",
        regressors=regressors.ravel().tolist(), logits=logits.tolist(),
    )  # fmt: skip
    np.testing.assert_allclose(found, [row.ravel() for row in rows], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [(720, 1280), (480, 640), (1280, 720), (100, 900)])
def test_a_frame_is_searched_in_the_same_squares(call, size):
    found = call(
        """const squares = blazeface.searchSquares(given, given.least, settings.blazeface);
        return JSON.stringify(squares.map(({left, top, side}) => [left, top, side]));""",
        height=size[0], width=size[1], least=0.1 * min(size),
    )  # fmt: skip
    expected = blazeface.search_squares(*size, 0.1 * min(size))
    np.testing.assert_allclose(found, expected, atol=1)  # halves of a pixel are rounded otherwise


def moving(times, absent):
    """A face that moves, with two eyes; absent in some places. None or a Detection for each time."""
    rng = np.random.default_rng(1)
    found = []
    for place, time in enumerate(times):
        left, top = (
            100 + 60 * np.sin(time) + rng.normal(),
            80 + 20 * np.cos(2 * time) + rng.normal(),
        )
        points = ((left + 20, top + 30), (left + 60, top + 30 + rng.normal()))
        face = Detection(Box(left, top, 90 + rng.normal(), 95.0), points)
        found.append(None if place in absent else face)
    return found


@pytest.mark.parametrize(
    "absent",
    [
        set(),
        {20, 21, 30},  # short gaps are bridged
        set(range(20, 30)),  # a long one is not
        set(range(60)) - {5, 30, 31, *range(40, 60)},  # what flickers is dropped
        set(range(57, 60)) | {0, 1},
        set(range(60)) - {59},
        set(range(1, 60)),
    ],
)
@pytest.mark.parametrize("fps", [10, 2, 0.9])
def test_a_face_is_followed_over_time_as_in_python(call, absent, fps):
    times = np.arange(60) / fps + np.random.default_rng(0).uniform(0, 0.02, 60)
    faces = moving(times * fps / 10, absent)  # by as much from frame to frame
    expected = tracks.track([[face] if face else [] for face in faces], times)
    rows = np.full((60, 8), np.nan)  # a face that comes back elsewhere is another one
    for track in expected:
        rows[track.present, :4] = track.boxes[track.present]
        rows[track.present, 4:] = track.points[track.present].reshape(-1, 4)
    given = [
        {"time": t, "faces": [] if f is None else [{
            "box": f.box._asdict(), "points": [list(p) for p in f.points]}]}
        for t, f in zip(times.tolist(), faces, strict=True)
    ]  # fmt: skip
    found = call(
        """const follower = new tracks.Follower(settings.tracks);
        const decided = given.frames.flatMap(({time, faces}) => follower.add(time, null, faces));
        decided.push(...follower.end());
        return JSON.stringify(decided.map((f) => [f.time, f.found, f.box && [f.box.left, f.box.top,
          f.box.width, f.box.height, ...f.points.flat()]]));""",
        frames=given,
    )
    assert [row[0] for row in found] == times.tolist()
    boxes = np.array([row[2] or [np.nan] * 8 for row in found], float)
    np.testing.assert_allclose(boxes, rows, atol=1e-6)
    is_found = (
        np.any([track.found for track in expected], axis=0) if expected else np.zeros(60, bool)
    )
    assert [row[1] for row in found] == is_found.tolist()


def test_another_face_is_followed_when_it_is_larger_or_the_first_is_gone(call):
    def face(left, side):
        return {"box": {"left": left, "top": 10, "width": side, "height": side}, "points": []}

    frames = []
    for place in range(60):
        faces = [] if place >= 40 else [face(300, 100)] if place >= 15 else []
        frames.append({"time": place / 10, "faces": [*faces, face(10, 60)]})
    found = call(
        """const follower = new tracks.Follower(settings.tracks);
        const decided = given.frames.flatMap(({time, faces}) => follower.add(time, null, faces));
        decided.push(...follower.end());
        return JSON.stringify(decided.map((f) => f.box && Math.round(f.box.left)));""",
        frames=frames,
    )
    assert found[:25] == [10] * 25 and found[25:40] == [300] * 15  # a second after it came
    assert found[40:44] == [None] * 4 and found[44:] == [10] * 16  # half a second after it went


@pytest.mark.parametrize(
    "present", [range(74), range(20), [*range(40), *range(45, 47), *range(50, 95)]]
)
@pytest.mark.parametrize("fps", [10.0, 9.37])
def test_the_windows_of_a_file_are_those_of_python(call, present, fps):
    present_A = np.isin(np.arange(100), list(present))
    times = (np.arange(100) / fps).round(6)
    expected = [places.tolist() for places in windows(present_A, times, 3.0, 1.0)]
    found = call(
        """const planner = new windows.Planner(settings, settings.stride, false);
        const found = [];
        given.times.forEach((time, place) => {
          if (given.present[place]) found.push(...planner.add({place, time}));
          else found.push(...planner.end(false));
        });
        found.push(...planner.end(false));
        return JSON.stringify(found.map((window) => window.map((frame) => frame.place)));""",
        times=times.tolist(), present=present_A.tolist(),
    )  # fmt: skip
    assert found == expected


def test_live_windows_are_the_last_seconds_from_the_first_frames_on(call):
    found = call(
        """const planner = new windows.Planner(settings, 0.5, true);
        const found = [];
        for (let place = 0; place < 60; place++) found.push(...planner.add({place, time: place / 10}));
        return JSON.stringify(found.map((window) => [window[0].place, window.at(-1).place]));"""
    )
    assert found[:2] == [[0, 2], [0, 7]] and found[-1] == [27, 57] and len(found) == 12


@pytest.mark.parametrize(("snippet", "stride"), [(1, 1), (4, 1), (8, 3)])
def test_the_network_reads_the_same_frames(call, snippet, stride):
    counts = [1, 3, 16, 17, 30, 31, 100]
    found = call(
        "return JSON.stringify(given.counts.map((n) => windows.frameIndices(n, 16, given.snippet, "
        "given.stride)));",
        counts=counts, snippet=snippet, stride=stride,
    )  # fmt: skip
    assert found == [frame_indices(n, 16, None, snippet, stride).tolist() for n in counts]


@pytest.mark.parametrize("smooth", [0.0, 0.5])
@pytest.mark.parametrize("has_instants", [True, False])
def test_the_time_course_is_that_of_python(call, smooth, has_instants):
    rng = np.random.default_rng(0)
    times = (np.arange(80) / 10 + rng.uniform(0, 0.03, 80)).round(4)
    course = TimeCourse(times, 3, 0.5)
    given = []
    for first in (0, 10, 20, 45):
        places = np.arange(first, first + 31)
        probs, instants = rng.dirichlet([1, 1, 1]), np.sort(rng.choice(places, 8))
        rows = rng.dirichlet([1, 1, 1], 8)
        course.add_window(places, probs)
        if has_instants:
            course.add_instants(places, instants, rows)
        given.append([places.tolist(), probs.tolist(), instants.tolist(), rows.tolist()])
    found = call(
        """const course = new windows.TimeCourse(3, 0.5);
        given.times.forEach((time) => course.add(time));
        for (const [places, probs, instants, rows] of given.windows) {
          course.addWindow(places, probs);
          if (given.hasInstants) course.addInstants(places, instants, rows);
        }
        return JSON.stringify([course.probs(0, given.smooth), course.probs(30, given.smooth)]);""",
        times=times.tolist(), windows=given, smooth=smooth, hasInstants=has_instants,
    )  # fmt: skip
    whole, part = (np.array([row or [np.nan] * 3 for row in rows], float) for rows in found)
    np.testing.assert_allclose(whole, course.probs(smooth), atol=1e-9)
    np.testing.assert_allclose(part, course.probs(smooth)[30:], atol=1e-9)
