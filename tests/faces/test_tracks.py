"""Faces are followed over time; what flickers or is absent is no face."""

import os
import pathlib

import numpy as np
import pytest

from rdfer_jax.faces.boxes import Box, Detection, overlap
from rdfer_jax.faces.detect import create
from rdfer_jax.faces.tracks import Finder, scan, track
from rdfer_jax.media import sources
from rdfer_jax.media.video import Frame

TENTHS = np.arange(30) / 10


def face(x, y=10.0, side=20.0):
    return Detection(Box(x, y, side, side))


def test_between_searches_of_the_whole_frame_faces_are_looked_for_where_they_were():
    # One face from frame 2 on; a second one from frame 4 to 8.
    shown = [[face(10.0 + i)] * (i >= 2) + [face(90.0)] * (4 <= i <= 8) for i in range(11)]
    whole, thorough, around = [], [], []

    def detect(number, near=(), small=True):
        (around if near else thorough if small else whole).append(number)
        return [
            one for one in shown[number]
            if not near or max(overlap(one.box, before) for before in near) > 0.3
        ]  # fmt: skip

    find = Finder(detect)
    found = [find(number, number / 10) for number in range(11)]
    # The second face is seen when the whole frame is searched again, half a second after the last time.
    assert found[:4] == shown[:4] and found[4] == shown[4][:1] and found[5:] == shown[5:]
    assert thorough == [0, 5, 10]
    # Nothing to look around at 1 and 2; one face is lost at 9, and could be elsewhere.
    assert (whole, around) == ([1, 2, 9], [3, 4, 6, 7, 8, 9])


def test_small_faces_are_searched_less_often_while_a_face_is_in_view():
    # A large face from 0.3 to 2.9 s; a small one from 1.1 s on.
    shown = [[face(10.0, side=90.0)] * (3 <= i < 30) + [face(200.0)] * (i >= 11) for i in range(40)]
    thorough, whole = [], []

    def detect(number, near=(), small=True):
        if not near:
            (thorough if small else whole).append(number)
        return [
            one for one in shown[number]
            if (max(overlap(one.box, before) for before in near) > 0.3 if near
                else small or one.box.width > 50)
        ]  # fmt: skip

    find = Finder(detect, 2.0)
    found = [find(number, number / 10) for number in range(40)]
    assert thorough == [0, 20]
    assert [n for n in whole if n % 5 == 0] == [5, 10, 15, 25, 30, 35]  # for large ones
    assert found[3:20] == [faces[:1] for faces in shown[3:20]]
    assert [sorted(faces) for faces in found[20:]] == [sorted(faces) for faces in shown[20:]]
    assert found[5:20] != shown[5:20]


def test_small_faces_in_view_are_kept_when_another_face_is_lost():
    shown = [[face(10.0), face(200.0)] if i < 2 else [face(10.0), face(300.0)] for i in range(4)]

    def detect(number, near=(), small=True):
        if near:
            return [
                one for one in shown[number] if max(overlap(one.box, box) for box in near) > 0.3
            ]
        return shown[number] if small else shown[number][1:]  # the first one is small

    find = Finder(detect)
    found = [find(number, number / 10) for number in range(4)]
    assert [sorted(faces) for faces in found] == shown  # the second one jumps at 2


def test_a_quick_face_keeps_its_track():
    boxes = [[face(12.0 * i)] for i in range(30)]  # more than half of its width in each frame
    (found,) = track(boxes, TENTHS)
    assert found.found.all()
    halting = [[face(12.0 * (i // 10))] if i % 10 < 3 else [] for i in range(30)]
    assert len(track(halting, TENTHS)) == 3  # elsewhere, after more than half a second


def test_two_faces_that_move_keep_their_tracks():
    # One goes right, the other, larger one left; the detector gives them in changing order.
    boxes = [
        [face(4.0 * i), face(300 - 4.0 * i, 100, 40)][:: 1 if i % 2 else -1] for i in range(30)
    ]
    one, two = track(boxes, TENTHS)
    assert one.found.all() and two.found.all()
    np.testing.assert_allclose(one.boxes[:, 0], 300 - 4.0 * np.arange(30))
    np.testing.assert_allclose(two.boxes[:, 0], 4.0 * np.arange(30))
    assert one.size > two.size


def test_short_gaps_are_bridged_and_long_ones_are_not():
    present = np.ones(30, bool)
    present[5:8] = present[12:20] = False
    boxes = [[face(0.5 * i)] if present[i] else [] for i in range(30)]
    (found,) = track(boxes, TENTHS)
    np.testing.assert_array_equal(found.found, present)
    bridged = present.copy()
    bridged[5:8] = True
    np.testing.assert_array_equal(found.present, bridged)
    np.testing.assert_allclose(found.boxes[4:9, 0], 0.5 * np.arange(4, 9), atol=0.2)
    assert np.isnan(found.boxes[12:20]).all()


def test_a_face_that_comes_back_elsewhere_is_another_one():
    boxes = [[face(0)] if i < 10 else [face(200)] if i >= 20 else [] for i in range(30)]
    one, two = track(boxes, TENTHS)
    assert one.present[:10].all() and not one.present[10:].any()
    assert two.present[20:].all() and not two.present[:20].any()


def test_a_face_keeps_its_track_where_another_one_was_long_ago():
    # The second face passes over the very place at which the first one was.
    boxes = [
        [face(20.5)] if i < 4 else [face(2.0 * (i - 10))] if i >= 10 else [] for i in range(30)
    ]
    moving, early = track(boxes, TENTHS)
    assert moving.found[10:].all() and not moving.present[:10].any()
    assert early.found[:4].all() and not early.present[4:].any()


def test_what_flickers_up_is_no_face():
    boxes = [[face(0)] if i in (3, 17, 18) else [] for i in range(30)]
    assert track(boxes, TENTHS) == []
    boxes = [[face(0)] if i in (3, 17, 18, 19) else [] for i in range(30)]
    (found,) = track(boxes, TENTHS)
    assert np.flatnonzero(found.present).tolist() == [17, 18, 19]


@pytest.mark.parametrize("frames", [1, 2])
def test_a_face_in_every_frame_of_a_very_short_video_counts(frames):
    (found,) = track([[face(0)]] * frames, TENTHS[:frames])
    assert found.present.all()


@pytest.mark.parametrize("step", [0.4, 1.0, 20.0])
def test_a_face_in_every_frame_of_a_time_lapse_counts(step):
    """But not one that is in half of the frames, where there are two or more in a second."""
    times = step * np.arange(12)
    (found,) = track([[face(0)]] * 12, times)
    assert found.present.all()
    assert step > 1 or not track([[face(0)] * (i == 5) for i in range(12)], times)


def test_no_frames_no_faces():
    assert track([], []) == []


def test_boxes_are_smoothed_over_their_neighbors_only():
    boxes = [[face(10.0 if i == 15 else 4.0)] for i in range(30)]
    (found,) = track(boxes, TENTHS)
    np.testing.assert_allclose(found.boxes[13:18, 0], [4, 6, 6, 6, 4])


def test_key_points_are_interpolated_and_smoothed_like_boxes():
    frames = [
        [] if i in (5, 6) else [face(2.0 * i)._replace(points=((2.0 * i + 5, 15), (2.0 * i + 15, i)))]
        for i in range(30)
    ]  # fmt: skip
    (found,) = track(frames, TENTHS)
    assert found.points.shape == (30, 2, 2)
    np.testing.assert_allclose(found.points[:, 0, 0], found.boxes[:, 0] + 5)
    np.testing.assert_allclose(found.points[1:-1, 1, 1], np.arange(1, 29), atol=1e-9)
    (without,) = track([[face(0)]] * 30, TENTHS)
    assert without.points.shape == (30, 0, 2)


def test_more_frames_per_second_change_neither_smoothing_nor_what_flickers():
    thirtieths = np.arange(90) / 30
    (found,) = track([[face(10.0 if i == 45 else 3.0)] for i in range(90)], thirtieths)
    np.testing.assert_allclose(found.boxes[41:50, 0], [3, 4, 4, 4, 4, 4, 4, 4, 3])
    # Three frames in a row are three tenths of a second at 10 frames per second, one at 30.
    assert track([[face(0)] if 30 <= i < 33 else [] for i in range(90)], thirtieths) == []
    (found,) = track([[face(0)] if 30 <= i < 39 else [] for i in range(90)], thirtieths)
    assert found.found.sum() == 9


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
@pytest.mark.parametrize("detector", ["blazeface", "haar"])
def test_real_faces_are_found_and_their_absence_is(name, least, most, detector):
    (video,) = sources.find(pathlib.Path(REAL) / name)
    tracks = scan(video.frames(10.0), create(detector, 0.1)).tracks
    share = tracks[0].present.mean() if tracks else 0.0
    assert least <= share <= most, share


@pytest.mark.parametrize("number", [1, 4, 9, 17])
def test_a_search_that_goes_on_asks_the_detector_what_it_would_have_asked(number):
    class Memory:
        def __init__(self):
            self.found = {}

        def known(self, number):
            return self.found.get(number)

        def add(self, number, time, found):
            self.found[number] = found

    rng = np.random.default_rng(0)
    images = [np.full((8, 8, 3), i, np.uint8) for i in range(20)]
    frames = [Frame(3 * i, i / 10, image) for i, image in enumerate(images)]
    shown = [[Detection(Box(*rng.uniform(1, 3, 4)))] * int(place % 7 != 5) for place in range(20)]
    asked = []

    def detect(image, near=(), small=True):
        asked.append((int(image[0, 0, 0]), list(near), small))
        return shown[image[0, 0, 0]]

    whole = scan(frames, detect)
    expected = [call for call in asked if call[0] >= number]
    memory = Memory()
    scan(frames[:number], detect, memory=memory)
    asked.clear()
    resumed = scan(frames, detect, memory=memory)
    assert asked == expected
    assert len(memory.found) == 20
    for one, two in zip(whole.tracks, resumed.tracks, strict=True):
        np.testing.assert_array_equal(one.boxes, two.boxes)
