"""Faces are found where they are, by each detector."""

import cv2
import numpy as np
import pytest
from drawn_faces import drawn, in_scene
from hypothesis import given
from hypothesis import strategies as st

from rdfer_jax.faces.boxes import Box, Detection, overlap
from rdfer_jax.faces.detect import create


def test_the_cascade_finds_drawn_faces_where_they_are():
    detect = create("haar", 0.1)
    found = []
    for index in range(12):
        scene, where = in_scene(drawn(index))
        found += [max((overlap(face.box, where) for face in detect(scene)), default=0.0)]
    assert sum(shared > 0.4 for shared in found) >= 6, found  # it knows photographs, not drawings


def test_the_cascade_finds_none_in_noise_and_none_that_is_too_small():
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    assert create("haar", 0.1)(noise) == []
    scenes = [in_scene(drawn(index))[0] for index in range(6)]
    assert any(create("haar", 0.1)(scene) for scene in scenes)
    assert not any(create("haar", 0.9)(scene) for scene in scenes)


def test_near_a_box_only_the_face_that_is_there_is_found():
    detect = create("haar", 0.1)
    for one, two in ((0, 1), (5, 7), (8, 11)):
        scene, _ = in_scene(drawn(one), at=(220, 60), size=(400, 560))
        scene[220:380, 360:520] = drawn(two)
        left, right = sorted(face.box for face in detect(scene))
        before = [box._replace(left=box.left + 9, top=box.top - 7) for box in (right, left)]
        for near, expected in ((before, (right, left)), (before[:1], (right,))):
            found = [face.box for face in detect(scene, near)]
            assert len(found) == len(expected)
            shared = [overlap(*pair) for pair in zip(found, expected, strict=True)]
            assert min(shared) > 0.75, shared
        assert detect(scene, [Box(250, 290, 80, 80)]) == []  # between the two
        beside = Box(left.left + 0.6 * left.width, left.top, 1.25 * left.width, 1.25 * left.height)
        assert detect(scene, [beside]) == []  # a face does not jump
        half = Box(left.left + 0.25 * left.width, left.top, 0.5 * left.width, 0.5 * left.height)
        assert detect(scene, [half]) == []  # a face does not grow twice as large at once


def test_boxes_are_those_of_the_whole_picture_however_large():
    detect, shared = create("haar", 0.1), []
    for index in range(12):
        scene, where = in_scene(drawn(index))
        large = cv2.resize(scene, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        where = [4 * side for side in where]
        shared += [max((overlap(face.box, where) for face in detect(large)), default=0.0)]
    assert sum(part > 0.4 for part in shared) >= 6, shared


def test_the_frame_itself_can_be_the_face():
    assert create("none", 0.1)(np.zeros((40, 60, 3), np.uint8)) == [Detection(Box(10, 0, 40, 40))]


def test_a_detector_that_cannot_be_had_is_named(tmp_path):
    with pytest.raises(ValueError, match="no detector 'cnn'"):
        create("cnn", 0.1)
    with pytest.raises(FileNotFoundError, match=r"config.predict.yunet = 'gone.onnx'"):
        create("yunet", 0.1, "gone.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"bad.onnx: OpenCV cannot read it as YuNet"):
        create("yunet", 0.1, str(tmp_path / "bad.onnx"))


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
    assert overlap(*boxes) == pytest.approx((a & b).sum() / (a | b).sum())
