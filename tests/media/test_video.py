"""A user's own videos are found and read as they were recorded."""

import logging

import cv2
import mp4
import numpy as np
import pytest
import raw_trees

from rdfer_jax.media import video
from rdfer_jax.media.video import Frames, Pictures, VideoError, VideoFile


def write(path, frames=20, fps=25, size=64):
    raw_trees.write_video(path, frames=frames, label=1, size=size, fps=fps)
    return video.find(path)[0]


def levels(frames):
    """How light the top of each frame is: it rises with time."""
    return [float(f.image[: f.image.shape[0] // 5].mean()) for f in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov"])
def test_a_file_gives_its_frames_and_times(tmp_path, suffix):
    found = list(write(tmp_path / f"a{suffix}", frames=20, fps=25).frames())
    assert [f.number for f in found] == list(range(20))
    np.testing.assert_allclose([f.time for f in found], np.arange(20) / 25, atol=2e-3)
    assert all(np.diff(levels(found)) > 0)
    assert {(f.image.shape, f.image.dtype.name) for f in found} == {((64, 64, 3), "uint8")}


def test_frames_are_rgb(tmp_path):
    drawn = raw_trees.draw_frame(5, 20, 1, 64)  # blue first
    read = list(write(tmp_path / "a.avi").frames())[5].image
    at = (40, 64 // 4 + (64 // 14) % 32)  # inside the ellipse
    assert np.abs(read[at].astype(int) - drawn[at][::-1].astype(int)).max() < 20
    assert np.ptp(drawn[at]) > 40


@pytest.mark.parametrize("fps", [30.0, 24.0, 10.0])
@pytest.mark.parametrize("most", [10.0, 7.0])
def test_at_most_so_many_frames_a_second_are_kept_evenly(tmp_path, fps, most):
    source = write(tmp_path / "a.mp4", frames=60, fps=fps)
    everything = {f.number: f for f in source.frames()}
    kept = list(source.frames(most))
    slots = np.floor(np.arange(60) / fps * most + 1e-6)
    expected = [0, *(np.flatnonzero(np.diff(slots)) + 1).tolist()]
    assert [f.number for f in kept] == expected
    assert len(kept) <= most * 60 / fps + 1
    for frame in kept:
        np.testing.assert_array_equal(frame.image, everything[frame.number].image)


def test_a_video_that_a_phone_has_turned_is_upright(tmp_path):
    plain = write(tmp_path / "a.mp4")
    before = next(iter(plain.frames())).image[:, :48]
    path = tmp_path / "b.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :16] = 255  # a bar on the left
    for _ in range(5):
        writer.write(picture)
    writer.release()
    mp4.turn(path)
    after = next(iter(VideoFile(path).frames())).image
    assert before.shape == (64, 48, 3) == after.shape
    # Turned clockwise, the left goes to the top.
    assert after[:12].mean() > 200 > 50 > after[20:].mean()


def test_a_variable_frame_rate_shows_in_the_times(tmp_path):
    path = tmp_path / "a.mp4"
    write(path, frames=20, fps=25)
    mp4.hesitate(path, first=10, factor=5)
    times = [f.time for f in VideoFile(path).frames()]
    expected = np.concatenate([np.arange(10) / 25, 10 / 25 + np.arange(10) * 5 / 25])
    np.testing.assert_allclose(times, expected, atol=2e-3)
    kept = [f.number for f in VideoFile(path).frames(10.0)]
    assert kept == [0, 3, 5, 8, *range(10, 20)]


def test_pictures_come_in_the_order_of_their_numbers(tmp_path):
    raw_trees.write_clip(tmp_path / "c", lambda i: f"f{i + 1}.png", frames=12, label=0, size=32)
    (source,) = video.find(tmp_path / "c")
    found = list(source.frames())
    assert all(np.diff(levels(found)) > 0)
    np.testing.assert_allclose([f.time for f in found], np.arange(12) / 25)
    assert [f.number for f in source.frames(5.0)] == [0, 5, 10]


def test_frames_in_memory():
    images = np.random.default_rng(0).integers(0, 255, (6, 4, 5, 3), np.uint8)
    found = list(Frames(images, fps=2.0).frames())
    assert [f.time for f in found] == [0, 0.5, 1, 1.5, 2, 2.5]
    np.testing.assert_array_equal([f.image for f in found], images)


@pytest.mark.parametrize(
    "images",
    [np.zeros((6, 4, 5), np.uint8), np.zeros((0, 4, 5, 3), np.uint8), np.zeros((6, 4, 5, 3))],
)
def test_what_is_no_video_is_refused(images):
    with pytest.raises(VideoError, match=r"uint8 \[T, H, W, 3\]"):
        Frames(images)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(fps):
    with pytest.raises(VideoError, match="frames a second"):
        Frames(np.zeros((1, 2, 2, 3), np.uint8), fps)


def test_a_folder_stands_for_all_videos_in_it(tmp_path):
    for name in ("b10.mp4", "b2.mp4", "deep/er/c.avi", ".hidden.mp4"):
        write(tmp_path / name, frames=2)
    raw_trees.write_clip(tmp_path / "pictures", lambda i: f"{i}.jpg", frames=3, label=0, size=32)
    (tmp_path / "notes.txt").write_text("nothing.mp4\n")
    found = video.find(tmp_path)
    names = [source.name.removeprefix(f"{tmp_path}/") for source in found]
    assert names == ["b2.mp4", "b10.mp4", "deep/er/c.avi", "pictures"]
    assert [type(source) for source in found] == [VideoFile, VideoFile, VideoFile, Pictures]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "# mine\n\na.mp4\r\nsub/b.avi\n"),
        ("list.csv", "path,label\na.mp4,happy\nsub/b.avi,sad\n"),
        ("list.csv", "\ufeffa.mp4\nsub/b.avi\n"),
    ],
)
def test_a_list_names_videos_beside_it(tmp_path, name, text):
    write(tmp_path / "a.mp4", frames=2)
    write(tmp_path / "sub" / "b.avi", frames=2)
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    found = video.find(tmp_path / name)
    assert [source.name for source in found] == [f"{tmp_path}/a.mp4", f"{tmp_path}/sub/b.avi"]


def test_a_list_with_a_mistake_names_the_line(tmp_path):
    write(tmp_path / "a.mp4", frames=2)
    path = tmp_path / "list.txt"
    path.write_text("a.mp4\ngone.mp4\n")
    with pytest.raises(VideoError, match=r"list.txt, line 2: .*gone.mp4: there is no such file"):
        video.find(path)
    path.write_text("list.txt\n")
    with pytest.raises(VideoError, match="a list in a list"):
        video.find(path)
    path.write_text("\n# nothing\n")
    with pytest.raises(VideoError, match="names no video"):
        video.find(path)


def test_what_is_not_there_or_no_video_is_named(tmp_path):
    with pytest.raises(VideoError, match=r"gone: there is no such file or folder"):
        video.find(tmp_path / "gone")
    with pytest.raises(VideoError, match="holds no video and no pictures"):
        video.find(tmp_path)
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(VideoError, match=r"a.pdf: a video \(.mp4"):
        video.find(tmp_path / "a.pdf")


def test_files_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video at all" * 100)
    with pytest.raises(VideoError, match=r"a.mp4: not a video that OpenCV can read"):
        next(VideoFile(path).frames())
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"1.png: not a picture"):
        next(Pictures(tmp_path / "c").frames())


def test_a_video_that_ends_before_it_says_is_told_once(tmp_path, caplog):
    write(tmp_path / "whole.avi", frames=40)
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        assert len(list(VideoFile(tmp_path / "whole.avi").frames())) == 40
        assert not caplog.records
        source = VideoFile(tmp_path / "cut.avi")
        read = [len(list(source.frames())) for _ in range(2)]
    assert 10 < read[0] == read[1] < 30
    assert [r.getMessage() for r in caplog.records] == [
        f"{source.name}: ends after {read[0]} of the 40 frames that it says it has"
    ]
