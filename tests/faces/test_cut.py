"""A face is cut out as a square, upright."""

import json

import cv2
import numpy as np
import pytest
from drawn_faces import drawn, in_scene

from rdfer_jax.faces.cut import Cut, crop


def test_a_crop_is_the_square_around_the_face():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    np.testing.assert_array_equal(crop(image, (20, 10, 32, 32), 0.0, 32), image[10:42, 20:52])
    # A box that is not square grows along its shorter side; a margin grows every side.
    wide = crop(image, (20, 20, 20, 10), 0.1, 24)
    np.testing.assert_array_equal(wide, image[13:37, 18:42])


def test_a_crop_repeats_the_border_of_the_frame():
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :10] = 200
    found = crop(image, (-10, 10, 20, 20), 0.0, 20)
    assert found.shape == (20, 20, 3) and (found == 200).all()
    found = crop(image, (30, 30, 20, 20), 0.0, 20)
    assert (found == 0).all()


def test_a_crop_far_outside_is_an_error():
    with pytest.raises(ValueError, match="outside of the frame"):
        crop(np.zeros((40, 40, 3), np.uint8), (100, 100, 10, 10), 0.0, 8)


def turned(image, degrees, center):
    """A picture turned counterclockwise about a point, and the function that turns points with it.

    OpenCV counts from the middle of the first pixel, and boxes from its corner.
    """
    matrix = cv2.getRotationMatrix2D(np.subtract(center, 0.5), degrees, 1.0)
    size = image.shape[1::-1]
    picture = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderValue=(120,) * 3)
    return picture, lambda points: (points - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5


@pytest.mark.parametrize("degrees", [-35, -10, 20, 90, 180])
def test_an_aligned_crop_does_not_depend_on_how_the_face_is_turned(degrees):
    scene, box = in_scene(drawn(3), at=(120, 160), size=(400, 480))
    eyes = np.array([[220.0, 190.0], [260.0, 230.0]])
    expected = crop(scene, box, 0.0, 64, eyes)
    picture, turn = turned(scene, degrees, (240.0, 200.0))  # the middle of the box
    found = crop(picture, box, 0.0, 64, turn(eyes))
    inside = (slice(12, 52), slice(12, 52))  # elsewhere the turned picture has other corners
    assert np.abs(found[inside].astype(int) - expected[inside]).mean() < 2.5
    upright = crop(picture, box, 0.0, 64)
    assert np.abs(upright[inside].astype(int) - expected[inside]).mean() > 10


def test_the_eyes_of_an_aligned_crop_are_level_and_where_geometry_says():
    image = np.zeros((300, 300, 3), np.uint8)
    eyes = np.array([[120.0, 160.0], [180.0, 130.0]])
    for (x, y), color in zip(eyes, ((255, 0, 0), (0, 255, 0)), strict=True):
        cv2.circle(image, (round(x), round(y)), 4, color, -1)
    box = (100.0, 100.0, 100.0, 100.0)
    found = crop(image, box, 0.1, 120, eyes).astype(float)
    places = [np.argwhere(found[..., channel] > 128).mean(axis=0) for channel in (0, 1)]
    (y_one, x_one), (y_two, x_two) = places
    assert y_one == pytest.approx(y_two, abs=0.5) and x_two > x_one
    assert x_two - x_one == pytest.approx(
        np.hypot(60, 30), abs=0.5
    )  # the crop has the scale of the frame
    # The middle of the box stays the middle of the crop: the distance to it is that of the frame.
    far = np.hypot(120 - 150, 160 - 150)
    assert np.hypot(x_one + 0.5 - 60, y_one + 0.5 - 60) == pytest.approx(far, abs=1.0)


def test_a_large_face_is_averaged_not_sampled():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    for eyes in (None, np.array([[150.0, 150.0], [230.0, 180.0]])):
        found = crop(stripes, (100, 100, 200, 200), 0.0, 32, eyes)
        assert np.abs(found.astype(int) - 100).max() < 25


@pytest.mark.parametrize("side", [80.3, 170, 420.7, 601])
@pytest.mark.parametrize("degrees", [0, 25])
def test_a_large_face_is_halved_first_and_stays_in_place(side, degrees, monkeypatch):
    y, x = np.mgrid[:640, :1000].astype(float)
    ramps = np.stack([x / 5, y / 4, (x + y) / 10], axis=-1) + 20
    image = (
        (ramps + np.random.default_rng(0).uniform(-20, 20, ramps.shape)).round().astype(np.uint8)
    )
    sampled, real = [], cv2.warpAffine
    monkeypatch.setattr(
        cv2, "warpAffine", lambda *a, **k: sampled.append(real(*a, **k)) or sampled[-1]
    )
    angle, size = np.deg2rad(degrees), 24
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    eyes = np.array([[0, 0], turn[:, 0]])
    found = crop(image, (501.3 - side / 2, 318.4 - side / 2, side, side), 0.0, size, eyes)
    middles = ((np.arange(size) + 0.5) / size - 0.5) * side
    at = np.stack(np.meshgrid(middles, middles), axis=-1) @ turn.T + (501.3, 318.4) - 0.5
    inside = ((at > 0.1 * side) & (at < np.array([1000, 640]) - 0.1 * side)).all(axis=-1)
    expected = np.stack([at[..., 0] / 5, at[..., 1] / 4, at.sum(axis=-1) / 10], axis=-1) + 20
    assert np.abs((found - expected)[inside].mean(axis=0)).max() < 0.5  # levels; a pixel is 0.2
    assert len(sampled[0]) <= 4 * size


def test_eyes_in_one_place_say_nothing():
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    eyes = np.array([[30.0, 20.0], [30.0, 20.0]])
    np.testing.assert_array_equal(crop(image, (20, 10, 32, 32), 0.0, 32, eyes), image[10:42, 20:52])


def test_very_wide_frames_can_be_cut():
    image = np.random.default_rng(0).integers(0, 255, (40, 40_000, 3), np.uint8)
    found = crop(image, (39_000, 4, 32, 32), 0.0, 32)
    np.testing.assert_array_equal(found, image[4:36, 39_000:39_032])


def test_what_a_data_set_remembers_gives_the_same_cut():
    cut = Cut("haar", 0.2, 0.3, False)
    remembered = json.loads(json.dumps(cut.to_json(96)))
    assert remembered["size"] == 96 and Cut.from_json(remembered) == cut
    assert Cut.from_json({}) is None and Cut.from_json({"by": "nobody"}) is None
