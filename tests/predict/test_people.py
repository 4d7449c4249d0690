"""People within a video: their embedding, and tracks that are joined and divided by it."""

import logging
import re

import numpy as np
import pytest

from rdfer_jax import config as config_lib
from rdfer_jax import npm
from rdfer_jax.faces.boxes import Box, Detection
from rdfer_jax.faces.tracks import track
from rdfer_jax.media.video import Frame
from rdfer_jax.predict import embedding, people, predictor

# A film of flat pictures: a face is a noisy square of a color, and the stand-in embedding is that color.

COLORS = {"red": (220, 30, 30), "blue": (30, 30, 220)}
FPS = 10


def scene(faces, background, rng):
    """A frame with faces (color, left, side), and what a detector would find."""
    image = np.full((200, 400, 3), background, np.uint8)
    found = []
    for color, left, side in faces:
        noise = rng.integers(0, 30, (side, side, 3))
        image[50 : 50 + side, left : left + side] = np.array(COLORS[color]) + noise - 15
        x, y = (
            left + side * np.array([0.3, 0.7, 0.5, 0.5, 0.1, 0.9]),
            50 + side * np.array([0.35, 0.35, 0.55, 0.75, 0.4, 0.4]),
        )  # eyes, nose, mouth, ears
        points = tuple(zip(x.tolist(), y.tolist(), strict=True))
        found.append(Detection(Box(left, 50, side, side), points))
    return image, found


def colors(images):
    return np.array([image.mean(axis=(0, 1)) / 255 for image in images])


def people_of(shots, turned=False):
    """The people of a film of shots: lists of frames, each a list of faces."""
    rng = np.random.default_rng(0)
    found = []
    with people.Faces() as faces:
        for number, shot in enumerate(shots):
            for seen in shot:
                image, detected = scene(seen, 60 + 100 * (number % 2), rng)
                if turned:  # the nose lies at an eye
                    detected = [
                        face._replace(points=(*face.points[:2], face.points[1], *face.points[3:]))
                        for face in detected
                    ]
                faces.watch(Frame(len(found), len(found) / FPS, image), detected)
                found.append(detected)
        tracks = track(found, [place / FPS for place in range(len(found))])
        return tracks, people.people(tracks, faces, colors, "film")


def whereabouts(person):
    """The left sides of a person's boxes, None where it is absent."""
    return [None if np.isnan(left) else round(float(left)) for left in person.boxes[:, 0]]


def test_a_person_is_the_same_before_and_after_another_shot():
    a, b = [[("red", 100, 90)]] * 8, [[("blue", 110, 80)]] * 8
    tracks, found = people_of([a, b, a])
    assert len(tracks) == 1  # one place
    red, blue = found
    assert red.present.tolist() == [True] * 8 + [False] * 8 + [True] * 8
    assert blue.present.tolist() == [False] * 8 + [True] * 8 + [False] * 8
    np.testing.assert_array_equal(red.points[0], tracks[0].points[0])
    assert red.found.sum() == 16


def test_a_person_who_appears_elsewhere_after_a_cut_is_the_same():
    tracks, (person,) = people_of([[[("red", 20, 90)]] * 8, [[("red", 290, 60)]] * 8])
    assert len(tracks) == 2
    assert whereabouts(person) == [20] * 8 + [290] * 8


@pytest.mark.parametrize("is_hidden", [False, True])
def test_two_people_who_cross_keep_their_identities(is_hidden):
    # In the middle they change places within a frame, so that the tracks stay; or blue is hidden.
    shot = [
        [("red", left, 80)] + [("blue", 300 - left, 80)] * (not is_hidden or abs(left - 150) > 40)
        for left in range(20, 281, 20)
    ]
    tracks, found = people_of([shot])
    lefts = [[x for x in whereabouts(track) if x is not None] for track in tracks]
    assert is_hidden or all(abs(places[0] - places[-1]) < 20 for places in lefts)
    red, blue = sorted(found, key=lambda person: whereabouts(person)[0])
    assert whereabouts(red)[0] < 50 and whereabouts(red)[-1] > 250
    assert whereabouts(blue)[0] > 250 and whereabouts(blue)[-1] < 50


def test_two_faces_in_view_at_once_are_two_people_however_alike():
    shot = [[("red", 20, 90), ("red", 290, 90)]] * 8
    _, found = people_of([shot, shot])
    assert [person.present.sum() for person in found] == [16, 16]


def test_faces_that_are_turned_or_small_are_followed_by_place_and_counted(caplog):
    for turned, side in ((True, 90), (False, 30)):
        with caplog.at_level(logging.INFO):
            tracks, (person,) = people_of(
                [[[("red", 100, side)]] * 8, [[("blue", 100, side)]] * 8], turned=turned
            )
        assert len(tracks) == 1 and person.present.all()
        assert "people: 1, by tracks: 1, divided into pieces: 2; followed" in caplog.text
        caplog.clear()


def test_a_piece_without_a_clear_face_belongs_to_its_neighbor_in_the_shot():
    red, small = [("red", 100, 60)], [("blue", 110, 39)]
    _, found = people_of([[red] * 8 + [[]] * 6 + [small] * 4])
    assert [person.present.sum() for person in found] == [12]
    _, found = people_of([[red] * 8, [small] * 4, [red] * 8, [small] * 4])  # after a cut: who knows
    assert [person.present.sum() for person in found] == [16, 8]


def test_no_face_is_nobody():
    assert people_of([[[]] * 8]) == ([], [])


def test_the_nearest_are_joined_first_and_never_those_in_view_together():
    means = np.array([[0.0, 0], [0.3, 0], [0.7, 0], [5, 5], [5, 5.6], [9, 0]])
    together, beside = np.zeros((2, 6, 6), bool)
    together[1, 2] = together[2, 1] = (
        True  # else 0.7 would be joined to the mean of the first two, 0.15
    )
    weights = np.ones(6, int)
    labels = people.group(means, weights, together, beside)
    assert labels[0] == labels[1] and len(set(labels.tolist())) == 5
    beside[3, 4] = beside[4, 3] = True
    labels = people.group(means, weights, together, beside)
    assert labels[3] == labels[4] and len(set(labels.tolist())) == 4


def test_the_sharpest_frontal_face_of_a_second_is_kept():
    rng = np.random.default_rng(1)
    with people.Faces() as faces:
        for number in range(25):
            image, found = scene([("red", 100, 90)], 60, rng)
            if number % 10 != 7:
                image = (image.astype(int) // 2 + 40).astype(np.uint8)  # less contrast
            faces.watch(Frame(number, number / FPS, image), found)
        assert [kept.place for kept in faces.kept][:2] == [7, 17]
        assert len(faces.kept) == 3
        first = faces.image(faces.kept[0])
        assert first.shape == (150, 150, 3) and colors([first])[0, 0] > 0.7


def test_a_face_is_cut_out_level_with_the_eyes_where_the_network_expects_them():
    image = np.zeros((400, 400, 3), np.uint8)
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    eyes_and_mouth = np.array([[-35.1, -18.6], [35.1, -18.6], [0.0, 20], [0, 58.6]]) @ turn.T + 200
    for x, y in eyes_and_mouth[[0, 1, 3]]:
        image[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4] = 255
    points = tuple(map(tuple, eyes_and_mouth.tolist()))
    for given in (points + points[:2], (*points[:3], points[3], points[3])):  # BlazeFace, YuNet
        out = people.portrait(image, Detection(Box(150, 150, 100, 100), given))
        y, x = np.nonzero(out[..., 0] > 127)
        # Eyes at 0.314 of the height, 0.351 of the side apart; the mouth 0.386 lower.
        for center in ((48.7, 47.1), (101.3, 47.1), (75, 105)):
            near = np.hypot(x - center[0], y - center[1]) < 12
            assert np.hypot(x[near].mean() - center[0], y[near].mean() - center[1]) < 1.5


def test_without_the_network_the_command_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(npm.compile_cache, "user_folder", lambda: tmp_path / "cache")
    with pytest.raises(FileNotFoundError) as error:
        predictor.Predictor(settings=config_lib.Predict(identities=True))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("config.predict.identities: ")
    assert f"npm pack @vladmandic/face-api@1.7.15 --pack-destination={tmp_path / 'cache'}" in str(
        error.value
    )
    for detector in ("haar", "none"):
        with pytest.raises(ValueError, match=f"{detector}.*set config.predict.detector to blaze"):
            predictor.Predictor(
                settings=config_lib.Predict(identities=True, detector=detector, as_trained=False)
            )


# The network, against one that is written from its description, with loops over the kernel.


def shapes():
    """The arrays of the network and their shapes."""
    layers = {"conv32_down": (7, 3, 32)}
    width = 32
    for name in embedding.BLOCKS:
        to = int(re.match(r"conv(\d+)", name)[1])
        layers[f"{name}/conv1"], layers[f"{name}/conv2"] = (3, width, to), (3, to, to)
        width = to
    found = {"fc": (256, 128)}
    for name, (side, into, to) in layers.items():
        found[f"{name}/conv/filters"] = (side, side, into, to)
        for part in ("conv/bias", "scale/weights", "scale/biases"):
            found[f"{name}/{part}"] = (to,)
    return found


def stored(rng):
    """Random arrays as a manifest and a binary file, and as they are; every fourth is not quantized."""
    entries, parts, arrays = [], [], {}
    for number, (name, shape) in enumerate(shapes().items()):
        entry = {"name": name, "shape": list(shape), "dtype": "float32"}
        spread = 2.0 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.5
        low = 0.2 if name.endswith("scale/weights") else -spread / 2
        if number % 4:
            entry["quantization"] = {"dtype": "uint8", "scale": spread / 255, "min": low}
            levels = rng.integers(0, 256, shape, dtype=np.uint8)
            parts.append(levels.tobytes())
            arrays[name] = levels * (spread / 255) + low
        else:
            values = rng.uniform(low, low + spread, shape).astype("<f4")
            parts.append(values.tobytes())
            arrays[name] = values.astype(np.float64)
        entries.append(entry)
    return [{"paths": ["x.bin"], "weights": entries}], b"".join(parts), arrays


def convolved(arrays, name, x, stride):
    filters = arrays[f"{name}/conv/filters"]
    side, reach = len(filters), len(filters) // 2 if stride == 1 else 0
    x = np.pad(x, [(reach, reach), (reach, reach), (0, 0)])
    out = (len(x) - side) // stride + 1
    total = 0.0
    for i in range(side):
        for j in range(side):
            part = x[i : i + stride * out : stride, j : j + stride * out : stride]
            total = total + part @ filters[i, j]
    total = total + arrays[f"{name}/conv/bias"]
    return total * arrays[f"{name}/scale/weights"] + arrays[f"{name}/scale/biases"]


def reference(arrays, image):
    x = (image - np.array([122.782, 117.001, 104.298])) / 255
    x = np.maximum(convolved(arrays, "conv32_down", x, 2), 0)
    size = (len(x) - 3) // 2 + 1
    x = np.max(
        [x[i : i + 2 * size : 2, j : j + 2 * size : 2] for i in range(3) for j in range(3)], 0
    )
    for name in embedding.BLOCKS:
        stride = 2 if "down" in name else 1
        y = np.maximum(convolved(arrays, f"{name}/conv1", x, stride), 0)
        y = convolved(arrays, f"{name}/conv2", y, 1)
        if stride == 2:
            half = len(x) // 2
            mean = sum(x[i : 2 * half : 2, j : 2 * half : 2] for i in (0, 1) for j in (0, 1)) / 4
            x = np.zeros((half, half, y.shape[2]))
            x[..., : mean.shape[2]] = mean
            larger = np.zeros_like(x)
            larger[: len(y), : len(y)] = y
            y = larger
        x = np.maximum(x + y, 0)
    return x.mean(axis=(0, 1)) @ arrays["fc"]


@pytest.mark.slow
def test_the_network_equals_a_slow_one():
    rng = np.random.default_rng(0)
    manifest, data, arrays = stored(rng)
    blocks = rng.integers(0, 256, (embedding.BATCH + 1, 3, 3, 3), dtype=np.uint8)
    images = blocks.repeat(50, axis=1).repeat(50, axis=2)
    found = embedding.Embedder(embedding.decode(manifest, data))(list(images))
    assert found.shape == (embedding.BATCH + 1, embedding.LENGTH)
    for row in (0, embedding.BATCH):
        expected = reference(arrays, images[row])
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(
            found[row], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
        )
    assert np.abs(found[0] - found[1]).max() > 1e-2 * np.abs(found[0]).max()
    for damaged, told in ((data[:-1], "ends within"), (data + b"x", "its manifest describes")):
        with pytest.raises(ValueError, match=told):
            embedding.decode(manifest, damaged)
