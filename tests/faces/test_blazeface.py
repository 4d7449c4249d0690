"""BlazeFace: its output is decoded as in a plain reference, and faces are found at any size and place."""

import hashlib
import re

import cv2
import numpy as np
import pytest
from drawn_faces import drawn, in_scene

from rdfer_jax.faces import blazeface
from rdfer_jax.faces.blazeface import BlazeFace, Square
from rdfer_jax.faces.boxes import Box, overlap
from rdfer_jax.faces.detect import create


def reference_anchors():
    """The 896 centers: two for each of 16 x 16 places, then six for each of 8 x 8, row by row."""
    centers = []
    for cells, number in ((16, 2), (8, 6)):
        for row in range(cells):
            for column in range(cells):
                centers += [((column + 0.5) / cells, (row + 0.5) / cells)] * number
    return centers


def reference_faces(regressors, logits, least):
    """Boxes (left, top, right, bottom), key points and scores in the input, decoded one by one."""
    faces = []
    for (x, y), row, logit in zip(reference_anchors(), regressors, logits, strict=True):
        score = 1 / (1 + np.exp(-float(logit)))
        if score > least:
            cx, cy, w, h = x + row[0] / 128, y + row[1] / 128, row[2] / 128, row[3] / 128
            points = [(x + row[i] / 128, y + row[i + 1] / 128) for i in range(4, 16, 2)]
            faces.append(([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], points, score))
    return faces


def reference_merged(faces):
    """Weighted non-maximum suppression: the best face takes the average of all that overlap it."""
    result, rest = [], sorted(faces, key=lambda face: -face[2])
    while rest:
        best = rest[0][0]
        near, far = [], []
        for face in rest:
            box = face[0]
            width = min(box[2], best[2]) - max(box[0], best[0])
            height = min(box[3], best[3]) - max(box[1], best[1])
            shared = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, best)]
            (near if shared / (sum(areas) - shared) > 0.3 else far).append(face)
        total = sum(score for *_, score in near)
        box = sum(np.array(box) * score for box, _, score in near) / total
        points = sum(np.array(points) * score for _, points, score in near) / total
        result.append((box, points))
        rest = far
    return result


def test_the_output_is_decoded_as_by_the_reference():
    rng = np.random.default_rng(0)
    regressors = rng.normal(0, 6, (896, 16)).astype(np.float32)
    regressors[:, 2:4] = rng.uniform(5, 60, (896, 2))
    logits = rng.normal(-3, 3, 896).astype(np.float32)
    square = Square(-40, 25, 300)
    rows, scores = blazeface.decode(regressors, logits, square, 0.5)
    expected = reference_faces(regressors, logits, 0.5)
    assert len(rows) == len(expected) > 50
    np.testing.assert_allclose(scores, [score for *_, score in expected], rtol=1e-6)
    for row, (box, points, _) in zip(rows, expected, strict=True):
        corner = np.array([-40, 25])
        np.testing.assert_allclose(row[0], np.array(box[:2]) * 300 + corner, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(row[0] + row[1], np.array(box[2:]) * 300 + corner, atol=1e-3)
        np.testing.assert_allclose(row[2:], np.array(points) * 300 + corner, atol=1e-3)
    merged = blazeface.merge(rows, scores)
    wanted = reference_merged(expected)
    assert len(merged) == len(wanted) < len(rows)
    for row, (box, points) in zip(merged, wanted, strict=True):
        np.testing.assert_allclose(row[0], box[:2] * 300 + corner, atol=1e-3)
        np.testing.assert_allclose(row[1], (box[2:] - box[:2]) * 300, atol=1e-3)
        np.testing.assert_allclose(row[2:], points * 300 + corner, atol=1e-3)


def test_the_network_reads_a_square_and_black_beyond_the_frame():
    image = np.random.default_rng(0).integers(0, 255, (100, 200, 3), np.uint8)
    found = blazeface.network_input(image, Square(0, -50, 200))
    assert found.shape == (3, 128, 128) and found.dtype == np.float32
    assert (found[:, :32] == -1).all() and (found[:, 96:] == -1).all()
    inside = cv2.resize(image, (128, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(found[:, 32:96].transpose(1, 2, 0), inside / 127.5 - 1, atol=0.02)


@pytest.mark.parametrize(
    "square",
    [
        *(Square(0, -420, 1920), Square(40, 60, 720), Square(1501, -3, 601), Square(9, 9, 512)),
        *(Square(-301, 99, 1301), Square(700, 701, 511), Square(1700, 1000, 300)),
    ],
)
def test_a_large_square_is_halved_first_and_looks_the_same(square, monkeypatch):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (54, 96, 3), np.uint8), (1920, 1080))
    square = blazeface.snapped(square)
    padded = cv2.copyMakeBorder(image, *(2000,) * 4, cv2.BORDER_CONSTANT)
    left, top, side = square.left + 2000, square.top + 2000, square.side
    whole = padded[top : top + side, left : left + side]
    expected = cv2.resize(whole, (128, 128), interpolation=cv2.INTER_AREA) / 127.5 - 1
    read, real = [], cv2.resize
    monkeypatch.setattr(cv2, "resize", lambda *a, **k: read.append(a[0].shape) or real(*a, **k))
    difference = np.abs(blazeface.network_input(image, square).transpose(1, 2, 0) - expected)
    assert difference.mean() * 127.5 < 1 and difference.max() * 127.5 < 25  # levels of 8 bits
    assert max(read[-1]) < 4 * blazeface.INPUT


def test_a_face_that_hardly_moves_is_searched_in_the_same_square():
    rng = np.random.default_rng(0)
    same = 0
    for _ in range(500):
        left, top, side = rng.uniform(-50, 900), rng.uniform(-50, 900), rng.uniform(80, 700)
        moved = np.array([left, top, side, side]) + rng.uniform(-0.002, 0.002, 4) * side
        square = blazeface.square_around(Box(left, top, side, side))
        same += square == blazeface.square_around(Box(*moved))
        middle = np.array(square[:2]) + square.side / 2
        assert np.abs(middle - (left + side / 2, top + side / 2)).max() <= square.side / 64
        assert 2 * side <= square.side <= 2 * side * (1 + 2 / 64)
    assert same > 330  # 1 % of them if squares begin at any pixel


def test_only_large_squares_grow_and_by_little():
    for side in range(1, 3000):
        square = Square(-3, 5, side)
        grown = blazeface.snapped(square)
        assert grown == square or side >= 4 * blazeface.INPUT - 1
        assert side <= grown.side <= side * 1.01
        for place in (0, 1):
            assert (
                grown[place] <= square[place] <= square[place] + side <= grown[place] + grown.side
            )
        step = grown.side // (2 * blazeface.INPUT)
        step = 1 << step.bit_length() - 1 if step else 1
        assert not any(number % step for number in grown)


@pytest.mark.parametrize("size", [(1080, 1920), (800, 1920), (480, 640), (1920, 1080), (300, 3000)])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_every_face_lies_in_a_square_that_is_not_too_large_for_it(size, share):
    height, width = size
    least = share * min(size)
    squares = blazeface.search_squares(height, width, least)
    assert squares[0].side == max(size) and len(squares) < 4000
    rng = np.random.default_rng(0)
    for side in np.geomspace(least, min(size) * 0.9, 12):
        for left, top in rng.uniform(0, 1, (20, 2)) * (width - side, height - side):
            assert any(
                s.left <= left + 1 and left + side <= s.left + s.side + 1
                and s.top <= top + 1 and top + side <= s.top + s.side + 1
                and side >= 0.99 * blazeface.SMALLEST * s.side
                for s in squares
            ), (side, left, top)  # fmt: skip


def test_drawn_faces_are_found_with_their_eyes():
    detect, boxes = create("blazeface", 0.1), []
    for index in range(12):
        scene, where = in_scene(drawn(index))
        (face,) = detect(scene)
        boxes.append((np.array(face.box) - (where.left, where.top, 0, 0)) / where.width)
        assert overlap(face.box, where) > 0.55
        (x_one, y_one), (x_two, y_two) = face.points[:2]
        assert 0.22 < (x_one - where.left) / where.width < 0.45
        assert 0.55 < (x_two - where.left) / where.width < 0.78
        assert max(abs(y - where.top - 0.4 * where.height) for y in (y_one, y_two)) < 20
        assert len(face.points) == 6
    # With a margin of 0.1, crops show the drawings as they are.
    left, top, width, height = np.mean(boxes, axis=0)
    assert abs(left + width / 2 - 0.5) < 0.03 and abs(top + height / 2 - 0.5) < 0.03
    assert abs(1.2 * width - 1) < 0.05 and height == pytest.approx(width, rel=1e-3)


def test_small_faces_are_found_when_they_are_asked_for():
    detect, expected = create("blazeface", 0.1), []
    scene = np.full((720, 1280, 3), 120, np.uint8)
    for index, (top, left) in enumerate(((40, 60), (300, 620), (580, 1100))):
        scene[top : top + 90, left : left + 90] = drawn(index, 90)
        expected.append((left, top, 90, 90))
    found = detect(scene)
    assert len(found) == 3
    for where in expected:
        assert max(overlap(face.box, where) for face in found) > 0.5
    assert detect(scene, small=False) == []
    # Once known, they are followed without another search.
    again = detect(scene, [face.box for face in found[:2]])
    assert [overlap(a.box, b.box) > 0.9 for a, b in zip(again, found, strict=False)] == [True, True]
    assert create("blazeface", 0.3)(scene) == []


def test_turned_faces_are_found_and_so_are_their_eyes():
    detect, moved = create("blazeface", 0.1), []
    for index in range(3, 7):
        scene, where = in_scene(drawn(index), at=(120, 160), size=(400, 480))
        (upright,) = detect(scene)
        center = (where.left + where.width / 2, where.top + where.height / 2)
        matrix = cv2.getRotationMatrix2D(center, 30, 1.0)
        (found,) = detect(cv2.warpAffine(scene, matrix, scene.shape[1::-1], borderValue=(120,) * 3))
        eyes, expected = (
            np.array(found.points[:2]),
            np.array(upright.points[:2]) @ matrix[:, :2].T + matrix[:, 2],
        )
        assert np.abs(eyes - expected).max() < 0.06 * where.width
        one, two = (np.add(f.box[:2], np.divide(f.box[2:], 2)) for f in (upright, found))
        moved.append((one @ matrix[:, :2].T + matrix[:, 2] - two) / where.width)
    assert np.abs(np.mean(moved, axis=0)).max() < 0.03  # its box turns with it


def test_there_is_no_face_in_noise():
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    assert create("blazeface", 0.1)(noise) == []
    assert create("blazeface", 0.1)(np.zeros((1, 1, 3), np.uint8)) == []


def test_the_file_is_the_one_that_the_readme_names():
    digest = hashlib.sha256(blazeface.MODEL.read_bytes()).hexdigest()
    readme = (blazeface.MODEL.parent / "README.md").read_text()
    assert re.findall(r"\b[0-9a-f]{64}\b", readme) == [digest]
    assert "Apache License" in (blazeface.MODEL.parent / "LICENSE").read_text()


@pytest.mark.parametrize("problem", ["file", "opencv"])
def test_a_network_that_cannot_be_read_is_named(problem, monkeypatch, tmp_path):
    if problem == "file":
        monkeypatch.setattr(blazeface, "MODEL", tmp_path / "gone.tflite")
    else:
        monkeypatch.delattr(cv2.dnn, "readNetFromTFLite")
    with pytest.raises(
        blazeface.NotReadableError, match=r"tflite: OpenCV \d.* cannot read it \("
    ) as error:
        BlazeFace(0.1)
    assert "\n" not in str(error.value)
