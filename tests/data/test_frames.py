import io
import random

import cv2
import numpy as np
import pytest
import raw_trees
from etils import epath

from data import frames
from rdfer_jax.media import images
from rdfer_jax.media.files import MediaError


def _names(folder):
    return [path.name for path in frames.frame_files(epath.Path(folder))]


def _size(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[:2]


def _image(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def _encoded(height=40, width=60, suffix=".jpg", *flags, image=None):
    done, data = cv2.imencode(suffix, _image(height, width) if image is None else image, flags)
    assert done
    return data.tobytes()


@pytest.mark.parametrize("form", ["{}.jpg", "00001_{:05d}.jpg", "frame-{}.png", "{}_a.jpeg"])
def test_frame_names_sort_by_number(tmp_path, form):
    names = [form.format(i) for i in range(1, 25)]
    for name in random.Random(0).sample(names, len(names)):
        (tmp_path / name).write_bytes(b"x")
    assert _names(tmp_path) == names


def test_hidden_and_other_files_are_no_frames(tmp_path):
    for name in ("._1.jpg", ".DS_Store", "Thumbs.db", "list.txt", "1.JPG", "2.png"):
        (tmp_path / name).write_bytes(b"x")
    assert _names(tmp_path) == ["1.JPG", "2.png"]


def test_a_folder_that_holds_one_folder_stands_for_it(tmp_path):
    inner = tmp_path / "00001" / "00001"
    inner.mkdir(parents=True)
    (inner / "1.jpg").write_bytes(b"x")
    assert _names(tmp_path / "00001") == ["1.jpg"]
    (tmp_path / "00001" / "00002").mkdir()
    with pytest.raises(MediaError, match="holds no frames"):
        _names(tmp_path / "00001")


@pytest.mark.parametrize("pair", [("1.jpg", "1.png"), ("1.jpg", "01.jpg")])
def test_one_frame_in_two_files_is_an_error(tmp_path, pair):
    for name in pair:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MediaError, match="are the same frame"):
        _names(tmp_path)


@pytest.mark.parametrize("height, width", [(40, 60), (40, 40), (30, 31)])
def test_a_small_baseline_jpeg_keeps_its_bytes(height, width):
    data = _encoded(height, width)
    assert frames.store_picture(data, "x", short_side=40, jpeg_quality=50) == data


@pytest.mark.parametrize(
    "data",
    [
        _encoded(40, 60, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        _encoded(image=_image(40, 60)[..., 0]),
        _encoded(40, 60, ".png"),
        _encoded(30, 60, ".png"),
        _encoded()[:2] + b"\xff\xe1\x00\x08Exif\x00\x00" + _encoded()[2:],
    ],
    ids=["progressive", "gray", "png", "small", "exif"],
)
def test_other_pictures_are_encoded_as_baseline_color(data):
    stored = frames.store_picture(data, "x", short_side=40, jpeg_quality=95)
    header = images.read_header(io.BytesIO(stored), "x")
    assert stored != data
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert (header.height, header.width, 3) == image.shape  # never enlarged
    assert header.is_plain_jpeg


@pytest.mark.parametrize("height, width, expected", [(80, 120, (40, 60)), (120, 80, (60, 40))])
def test_a_large_picture_shrinks_by_its_short_side(height, width, expected):
    data = _encoded(height, width)
    assert _size(frames.store_picture(data, "x", short_side=40, jpeg_quality=95)) == expected


def test_shrinking_averages_over_areas():
    image = np.zeros((160, 160, 3), np.uint8)
    image[::4] = 200  # lines one pixel high: a filter that looks at neighbors only misses them
    stored = frames.store_frame(image, short_side=40, jpeg_quality=100)
    shrunk = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(shrunk.astype(int) - 50).max() <= 2


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "last byte"])
def test_a_broken_picture_is_named(tmp_path, suffix, damage):
    whole = _encoded(40, 60, suffix)
    data = {"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"x" * 500}
    cut = 1 if suffix == ".jpg" else 8
    path = tmp_path / f"7{suffix}"
    path.write_bytes(data.get(damage, whole[:-cut]))
    with pytest.raises(MediaError, match="7"):
        frames.store_picture(path.read_bytes(), path, 40, 95)
    assert f"7{suffix}" in frames.probe(str(tmp_path)).problem
    assert f"7{suffix}" in frames.convert(frames.Job(str(tmp_path), 40, 95)).problem


def test_bytes_after_the_end_of_a_jpeg_do_not_matter(tmp_path):
    (tmp_path / "1.jpg").write_bytes(_encoded() + b"\0" * 4096)
    assert frames.probe(str(tmp_path)) == frames.Probe(num_frames=1)


def _levels(job):
    result = frames.convert(job)
    assert not result.problem
    return [raw_trees.level(jpeg) for jpeg in result.frames]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "50%02d.mp4"])
def test_a_video_gives_all_its_frames_in_order(tmp_path, name):
    path = tmp_path / name
    raw_trees.write_video(path, frames=20, label=1, size=64)
    levels = _levels(frames.Job(str(path), 48, 95))
    assert len(levels) == 20 and np.all(np.diff(levels) > 3)
    assert frames.probe(str(path)).num_frames == 20


@pytest.mark.parametrize("max_fps, kept", [(0, range(20)), (30, range(20)), (10, range(0, 20, 2))])
def test_a_video_is_thinned_evenly(tmp_path, max_fps, kept):
    path = tmp_path / "clip.avi"
    raw_trees.write_video(path, frames=20, label=1, size=64, fps=20)
    every = _levels(frames.Job(str(path), 64, 95))
    assert _levels(frames.Job(str(path), 64, 95, max_fps)) == [every[i] for i in kept]


def _ask_to_turn(path):
    """Writes a quarter turn into the display matrix of an .mp4's track header."""
    data = path.read_bytes()
    at = data.index(b"tkhd") + 44
    turn = (0, 0x10000, 0, 0x100000000 - 0x10000, 0, 0, 0, 0, 0x40000000)
    matrix = b"".join(value.to_bytes(4, "big") for value in turn)
    assert data[at : at + 4] == (0x10000).to_bytes(4, "big")
    path.write_bytes(data[:at] + matrix + data[at + 36 :])


def test_a_video_is_turned_the_way_it_asks_for(tmp_path):
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (96, 64))
    for _ in range(3):
        writer.write(np.full((64, 96, 3), 90, np.uint8))
    writer.release()
    assert _size(frames.convert(frames.Job(str(path), 64, 95)).frames[0]) == (64, 96)
    _ask_to_turn(path)
    assert _size(frames.convert(frames.Job(str(path), 64, 95)).frames[0]) == (96, 64)


def test_a_video_without_frames_is_named(tmp_path):
    path = tmp_path / "nothing.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 64))
    writer.release()
    for content in (path.read_bytes(), b"", b"no video at all" * 100):
        path.write_bytes(content)
        assert "nothing.mp4" in frames.probe(str(path)).problem
        assert "nothing.mp4" in frames.convert(frames.Job(str(path), 64, 95)).problem


def test_a_video_that_ends_early_is_named(tmp_path):
    path = tmp_path / "clip.avi"
    raw_trees.write_video(path, frames=40, label=1, size=64)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 4])
    problem = frames.convert(frames.Job(str(path), 64, 95)).problem
    assert "clip.avi: holds" in problem and "of the 40 frames" in problem
