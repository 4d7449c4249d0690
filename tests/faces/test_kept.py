"""Crops that are cut out early are those that the whole video gives, and are nearly all there."""

import numpy as np
import pytest

from rdfer_jax.faces import kept as kept_lib
from rdfer_jax.faces.boxes import Box, Detection
from rdfer_jax.faces.cut import Cut
from rdfer_jax.faces.kept import KeptCrops, step
from rdfer_jax.faces.tracks import scan
from rdfer_jax.media.video import Frame

SIZE, LARGE = 24, 40


def face_at(left, top, side):
    eyes = ((left + 0.3 * side, top + 0.4 * side), (left + 0.72 * side, top + 0.36 * side))
    return Detection(Box(left, top, side, side), eyes)


def film(length, fps=10.0):
    """A large face that moves and is missed now and then, a small one that goes, and errors.

    Returns the frames, and by the time of each what the detector finds.
    """
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (120, 200, 3), np.uint8)
    frames, found = [], {}
    for number in range(length):
        time = number / fps
        faces = [face_at(40 + 30 * np.sin(time), 20 + rng.normal(), 50 + 3 * np.cos(time))]
        faces = [] if number % 37 in (20, 21) else faces
        if time < length / fps / 3:
            faces.append(face_at(150 + rng.normal(), 70, 24))
        if number % 29 == 3:
            faces.append(face_at(rng.uniform(0, 170), 90, 25))
        frames.append(Frame(number, time, np.roll(base, number, axis=1)))
        found[time] = faces
    return frames, found


def scanned(frames, found, kept):
    shown = {id(frame.image): found[frame.time] for frame in frames}
    result = scan(frames, lambda image, *_, **__: shown[id(image)], kept.watch)
    kept.finish()
    return result


@pytest.mark.parametrize("length", [1, 2, 9, 40, 400])
def test_crops_are_those_of_the_whole_frames_with_the_final_boxes(length):
    frames, found = film(length)
    cut = Cut()
    with KeptCrops(cut, {SIZE: 0, LARGE: 100}) as kept:
        tracks = scanned(frames, found, kept).tracks
        assert tracks
        for track in tracks:
            for place in np.flatnonzero(track.present).tolist():
                assert kept.has(track, place, SIZE)
                expected = cut.crop(frames[place].image, track, place, SIZE)
                np.testing.assert_array_equal(kept.get(track, place, SIZE), expected)
                if place % step(length, 100) == 0:
                    expected = cut.crop(frames[place].image, track, place, LARGE)
                    np.testing.assert_array_equal(kept.get(track, place, LARGE), expected)


def test_memory_does_not_grow_with_the_length(monkeypatch):
    monkeypatch.setattr(kept_lib, "IN_MEMORY", 1000)
    frames, found = film(400)
    with KeptCrops(Cut(), {SIZE: 0}) as kept:
        for frame in frames:
            kept.watch(frame, found[frame.time])
            assert len(kept._seen) <= 10 * (3 * kept_lib.REACH + 3 * kept_lib.EVERY)
            with_pixels = [seen for seen in kept._seen if seen.patches]
            assert len(with_pixels) <= 10 * (kept_lib.REACH + 2 * kept_lib.EVERY)
        assert kept._file._rolled


def test_only_the_largest_faces_of_a_frame_are_cut_out():
    frames, found = film(60)
    with KeptCrops(Cut(), {SIZE: 0}, most=1) as kept:
        large, small = scanned(frames, found, kept).tracks[:2]
        both = np.flatnonzero(large.present & small.present).tolist()
        assert both and all(kept.has(large, place, SIZE) for place in both)
        assert not any(kept.has(small, place, SIZE) for place in both)


def test_another_box_is_not_there():
    frames, found = film(30)
    with KeptCrops(Cut(), {SIZE: 0}) as kept:
        (track, *_) = scanned(frames, found, kept).tracks
        assert kept.has(track, 5, SIZE)
        track.boxes[5, 0] += 1e-9
        assert not kept.has(track, 5, SIZE)
        kept.put(frames[5].image, track, 5, SIZE)
        expected = Cut().crop(frames[5].image, track, 5, SIZE)
        np.testing.assert_array_equal(kept.get(track, 5, SIZE), expected)


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (100, 1), (101, 2), (200, 2), (201, 4)])
def test_steps_double(length, expected):
    assert step(length, 100) == expected
    assert step(length, 0) == 1
