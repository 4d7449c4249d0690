"""Faces are found, followed over time, and cut out; what flickers or is absent is no face."""

import os
import pathlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.synthetic_faces import clips
from data.synthetic_faces.parameters import Parameters
from rdfer_jax.media import sources
from rdfer_jax.predict import faces
from rdfer_jax.predict.faces import Box

TENTHS = np.arange(30) / 10


def box(x, y=10.0, side=20.0):
    return Box(x, y, side, side)


def in_scene(face, at=(20, 60), size=(240, 320)):
    """A drawn face in a gray picture; returns it and where the face is."""
    scene = np.full((*size, 3), 120, np.uint8)
    scene[at[0] : at[0] + len(face), at[1] : at[1] + len(face)] = face
    return scene, Box(at[1], at[0], len(face), len(face))


def drawn(index, image_size=160):
    drawing = Parameters(image_size=image_size, num_frames=16, hard_share=0.0)
    return clips.render_clip(drawing, "test", index).frames[8]


def test_the_cascade_finds_drawn_faces_where_they_are():
    detect = faces.create("haar", 0.1)
    found = []
    for index in range(12):
        scene, where = in_scene(drawn(index))
        found += [max((faces.overlap(box, where) for box in detect(scene)), default=0.0)]
    assert sum(shared > 0.4 for shared in found) >= 6, found  # it knows photographs, not drawings


def test_the_cascade_finds_none_in_noise_and_none_that_is_too_small():
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    assert faces.create("haar", 0.1)(noise) == []
    scenes = [in_scene(drawn(index))[0] for index in range(6)]
    assert any(faces.create("haar", 0.1)(scene) for scene in scenes)
    assert not any(faces.create("haar", 0.9)(scene) for scene in scenes)


def test_near_a_box_only_the_face_that_is_there_is_found():
    detect = faces.create("haar", 0.1)
    for one, two in ((0, 1), (5, 7), (8, 11)):
        scene, _ = in_scene(drawn(one), at=(220, 60), size=(400, 560))
        scene[220:380, 360:520] = drawn(two)
        left, right = sorted(detect(scene))
        before = [box._replace(left=box.left + 9, top=box.top - 7) for box in (right, left)]
        for near, expected in ((before, (right, left)), (before[:1], (right,))):
            found = detect(scene, near)
            assert len(found) == len(expected)
            shared = [faces.overlap(*pair) for pair in zip(found, expected, strict=True)]
            assert min(shared) > 0.75, shared
        assert detect(scene, [Box(250, 290, 80, 80)]) == []  # between the two
        beside = Box(left.left + 0.6 * left.width, left.top, 1.25 * left.width, 1.25 * left.height)
        assert detect(scene, [beside]) == []  # a face does not jump
        half = Box(left.left + 0.25 * left.width, left.top, 0.5 * left.width, 0.5 * left.height)
        assert detect(scene, [half]) == []  # a face does not grow twice as large at once


def test_between_searches_of_the_whole_frame_faces_are_looked_for_where_they_were():
    # One face from frame 2 on; a second one from frame 4 to 8.
    shown = [[box(10.0 + i)] * (i >= 2) + [box(90.0)] * (4 <= i <= 8) for i in range(11)]
    whole, around = [], []

    def detect(number, near=()):
        (around if near else whole).append(number)
        return [
            face for face in shown[number]
            if not near or max(faces.overlap(face, before) for before in near) > 0.3
        ]  # fmt: skip

    find = faces.Finder(detect)
    found = [find(number, number / 10) for number in range(11)]
    assert found[:4] == shown[:4] and found[7:] == shown[7:]
    # The second face is seen when the whole frame is searched again, half a second after the last time.
    assert found[4:7] == [shown[number][:1] for number in (4, 5, 6)]
    # Nothing to look around at 0, 1 and 2; half a second later, 7; one face is lost at 9.
    assert (whole, around) == ([0, 1, 2, 7, 9], [3, 4, 5, 6, 8, 9, 10])


def test_boxes_are_those_of_the_whole_picture_however_large():
    detect, shared = faces.create("haar", 0.1), []
    for index in range(12):
        scene, where = in_scene(drawn(index))
        large = cv2.resize(scene, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        where = [4 * side for side in where]
        shared += [max((faces.overlap(box, where) for box in detect(large)), default=0.0)]
    assert sum(part > 0.4 for part in shared) >= 6, shared


def test_the_frame_itself_can_be_the_face():
    assert faces.create("none", 0.1)(np.zeros((40, 60, 3), np.uint8)) == [Box(10, 0, 40, 40)]


def test_a_detector_that_cannot_be_had_is_named(tmp_path):
    with pytest.raises(ValueError, match="no detector 'cnn'"):
        faces.create("cnn", 0.1)
    with pytest.raises(FileNotFoundError, match=r"config.predict.yunet = 'gone.onnx'"):
        faces.create("yunet", 0.1, "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"bad.onnx: OpenCV cannot read it as YuNet"):
        faces.create("yunet", 0.1, str(tmp_path / "bad.onnx"))


@given(
    st.lists(st.integers(0, 20), min_size=4, max_size=4),
    st.lists(st.integers(0, 20), min_size=4, max_size=4),
)
def test_overlap_counts_shared_pixels(one, two):
    def paint(left, top, width, height):
        grid = np.zeros((50, 50), bool)
        grid[top : top + height + 1, left : left + width + 1] = True
        return grid

    a, b = paint(*one), paint(*two)
    boxes = [(x, y, w + 1, h + 1) for x, y, w, h in (one, two)]
    assert faces.overlap(*boxes) == pytest.approx((a & b).sum() / (a | b).sum())


def test_two_faces_that_move_keep_their_tracks():
    # One goes right, the other, larger one left; the detector gives them in changing order.
    boxes = [[box(4.0 * i), box(300 - 4.0 * i, 100, 40)][:: 1 if i % 2 else -1] for i in range(30)]
    one, two = faces.track(boxes, TENTHS)
    assert one.found.all() and two.found.all()
    np.testing.assert_allclose(one.boxes[5:-5, 0], 300 - 4.0 * np.arange(30)[5:-5])
    np.testing.assert_allclose(two.boxes[5:-5, 0], 4.0 * np.arange(30)[5:-5])
    assert one.size > two.size


def test_short_gaps_are_bridged_and_long_ones_are_not():
    present = np.ones(30, bool)
    present[5:8] = present[12:20] = False
    boxes = [[box(0.5 * i)] if present[i] else [] for i in range(30)]
    (found,) = faces.track(boxes, TENTHS)
    np.testing.assert_array_equal(found.found, present)
    bridged = present.copy()
    bridged[5:8] = True
    np.testing.assert_array_equal(found.present, bridged)
    np.testing.assert_allclose(found.boxes[4:9, 0], 0.5 * np.arange(4, 9), atol=0.2)
    assert np.isnan(found.boxes[12:20]).all()


def test_a_face_that_comes_back_elsewhere_is_another_one():
    boxes = [[box(0)] if i < 10 else [box(200)] if i >= 20 else [] for i in range(30)]
    one, two = faces.track(boxes, TENTHS)
    assert one.present[:10].all() and not one.present[10:].any()
    assert two.present[20:].all() and not two.present[:20].any()


def test_a_face_keeps_its_track_where_another_one_was_long_ago():
    # The second face passes over the very place at which the first one was.
    boxes = [[box(20.5)] if i < 4 else [box(2.0 * (i - 10))] if i >= 10 else [] for i in range(30)]
    moving, early = faces.track(boxes, TENTHS)
    assert moving.found[10:].all() and not moving.present[:10].any()
    assert early.found[:4].all() and not early.present[4:].any()


def test_what_flickers_up_is_no_face():
    boxes = [[box(0)] if i in (3, 17, 18) else [] for i in range(30)]
    assert faces.track(boxes, TENTHS) == []
    boxes = [[box(0)] if i in (3, 17, 18, 19) else [] for i in range(30)]
    (found,) = faces.track(boxes, TENTHS)
    assert np.flatnonzero(found.present).tolist() == [17, 18, 19]


@pytest.mark.parametrize("frames", [1, 2])
def test_a_face_in_every_frame_of_a_very_short_video_counts(frames):
    (found,) = faces.track([[box(0)]] * frames, TENTHS[:frames])
    assert found.present.all()


def test_no_frames_no_faces():
    assert faces.track([], []) == []


def test_boxes_are_smoothed_over_their_neighbors_only():
    boxes = [[box(10.0 if i == 15 else 4.0)] for i in range(30)]
    (found,) = faces.track(boxes, TENTHS)
    np.testing.assert_allclose(found.boxes[13:18, 0], [4, 6, 6, 6, 4])


def test_a_crop_is_the_square_around_the_face():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    np.testing.assert_array_equal(faces.crop(image, (20, 10, 32, 32), 0.0, 32), image[10:42, 20:52])
    # A box that is not square grows along its shorter side; a margin grows every side.
    wide = faces.crop(image, (20, 20, 20, 10), 0.1, 24)
    np.testing.assert_array_equal(wide, image[13:37, 18:42])


def test_a_crop_repeats_the_border_of_the_frame():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :10] = 200
    found = faces.crop(image, (-10, 10, 20, 20), 0.0, 20)
    assert found.shape == (20, 20, 3) and (found == 200).all()
    found = faces.crop(image, (30, 30, 20, 20), 0.0, 20)
    assert (found == 0).all()


def test_a_crop_far_outside_is_an_error():
    with pytest.raises(ValueError, match="outside of the frame"):
        faces.crop(np.zeros((40, 40, 3), np.uint8), (100, 100, 10, 10), 0.0, 8)


REAL = os.environ.get("RDFER_REAL_VIDEOS", "")


@pytest.mark.skipif(not REAL, reason="RDFER_REAL_VIDEOS names no folder with the real videos")
@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("single_face.mp4", 0.9, 1.0),
        ("WolfgangLanger_Pexels.mp4", 0.9, 1.0),
        ("no_face.mp4", 0.0, 0.1),
        ("face_noface.mov", 0.2, 0.6),
    ],
)
def test_real_faces_are_found_and_their_absence_is(name, least, most):
    find, boxes, times = faces.Finder(faces.create("haar", 0.1)), [], []
    for frame in sources.find(pathlib.Path(REAL) / name)[0].frames(10.0):
        boxes.append(find(frame.image, frame.time))
        times.append(frame.time)
    tracks = faces.track(boxes, times)
    share = tracks[0].present.mean() if tracks else 0.0
    assert least <= share <= most, share
