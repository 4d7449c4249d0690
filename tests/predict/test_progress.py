"""What is known of a video: every number as it was, and nothing of another video."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from rdfer_jax.faces.boxes import Box, Detection
from rdfer_jax.faces.tracks import Found
from rdfer_jax.predict import progress
from rdfer_jax.predict.progress import Progress
from rdfer_jax.types import Prediction

RNG = np.random.default_rng(0)


def found(number):
    """Faces with numbers that have no short form, as numbers of Python and of NumPy."""
    box = Box(*RNG.normal(100, 30, 4))
    points = tuple((float(x), float(y)) for x, y in RNG.normal(100, 30, (6, 2)))
    return Found(
        [Detection(box, points), Detection(Box(0.1, 1 / 3, 2.0, 3.0))], number / 7, number / 9
    )


def prediction():
    numbers = RNG.normal(size=(3, 4)).astype(np.float32)
    return Prediction(
        index=np.arange(3, dtype=np.int32), mask=np.array([True, True, False]), logits=numbers,
        clip_logits=numbers[:, None] / 3, agreement=numbers[:, 0], consensus=np.arange(3),
        noise_score=np.array([np.nan, np.inf, -0.0], np.float32), key_instants=None,
        instants=np.zeros((3, 0), np.int32),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path / "a" / "b")


def test_every_number_comes_back_as_it_was(folder):
    faces, batches = [found(number) for number in range(40)], [prediction(), prediction()]
    with Progress(folder, "digest") as known:
        assert not folder.exists()
        for number, seen in enumerate(faces):
            known.add(3 * number, number / 2, seen)
        known.save()
        for number, batch in enumerate(batches):
            known.add_batch(number, batch)
    with Progress(folder, "digest") as known:
        assert known.frames == 40 and known.known(1) is None and known.batch(2) is None
        assert [known.known(3 * number) for number in range(40)] == faces
        for number, batch in enumerate(batches):
            for field in dataclasses.fields(Prediction):
                one, two = getattr(batch, field.name), getattr(known.batch(number), field.name)
                np.testing.assert_array_equal(one, two)
                assert one is None or (one.dtype, one.shape) == (two.dtype, two.shape)
        known.discard()
    assert not folder.exists()


def test_it_is_written_every_ten_seconds_of_the_video(folder):
    with Progress(folder, "digest") as known:
        for second in range(35):
            known.add(second, 100.0 + second, found(second))
            with Progress(folder, "digest") as other:
                assert other.frames == (second // 10 * 10 + 1 if second >= 10 else 0)


@pytest.mark.parametrize("digest", ["other", ""])
def test_what_is_known_of_something_else_is_not_used(folder, digest):
    with Progress(folder, "digest") as known:
        known.add(0, 0.0, found(0))
        known.save()
    with Progress(folder, digest) as known:
        assert known.frames == 0
        known.add(1, 0.0, found(1))
        known.save()
    with Progress(folder, "digest") as known:
        assert known.frames == 0


@pytest.mark.parametrize("damage", ["x", "{", "[]\n", '{"found": 3}\n', "\0\n"])
def test_a_damaged_file_is_started_anew(folder, damage):
    with Progress(folder, "digest") as known:
        known.add(0, 0.0, found(0))
        known.save()
    path = folder / progress.NAME
    text = path.read_text()
    path.write_text(damage + text)
    assert Progress(folder, "digest").frames == 0
    path.write_text(text + damage)
    assert Progress(folder, "digest").frames == (0 if damage.endswith("\n") else 1)


def test_a_folder_that_is_not_on_a_disk_is_left_alone():
    with Progress(epath.Path("gs://nowhere/a"), "digest") as known:
        known.add(0, 0.0, found(0))
        known.save()
        known.discard()
