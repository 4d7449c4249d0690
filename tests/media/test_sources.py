"""Files, folders, lists and arrays are found as videos and read in order."""

import logging

import numpy as np
import pytest
import raw_trees

from rdfer_jax.media import sources
from rdfer_jax.media.files import MediaError
from rdfer_jax.media.sources import Array, Pictures, VideoFile


def write(path, frames=2):
    raw_trees.write_video(path, frames=frames, label=1, size=64)


def test_pictures_of_several_sizes_are_scaled_to_the_first(tmp_path):
    for number, size in enumerate((32, 48, 16)):
        path = tmp_path / f"{number}.png"
        path.write_bytes(raw_trees.picture(number, 3, 1, size, ".png"))
    found = list(Pictures(tmp_path).frames())
    assert {f.image.shape for f in found} == {(32, 32, 3)}
    assert all(np.diff([f.image[:6].mean() for f in found]) > 0)


def test_pictures_come_in_the_order_of_their_numbers(tmp_path):
    raw_trees.write_clip(tmp_path / "c", lambda i: f"f{i + 1}.png", frames=12, label=0, size=32)
    (source,) = sources.find(tmp_path / "c")
    found = list(source.frames())
    assert all(np.diff([f.image[:6].mean() for f in found]) > 0)
    np.testing.assert_allclose([f.time for f in found], np.arange(12) / 25)
    assert [f.number for f in source.frames(5.0)] == [0, 5, 10]


def test_frames_in_memory():
    images = np.random.default_rng(0).integers(0, 255, (6, 4, 5, 3), np.uint8)
    found = list(Array(images, fps=2.0).frames())
    assert [f.time for f in found] == [0, 0.5, 1, 1.5, 2, 2.5]
    np.testing.assert_array_equal([f.image for f in found], images)


@pytest.mark.parametrize(
    "images",
    [np.zeros((6, 4, 5), np.uint8), np.zeros((0, 4, 5, 3), np.uint8), np.zeros((6, 4, 5, 3))],
)
def test_arrays_that_are_no_frames_are_refused(images):
    with pytest.raises(MediaError, match=r"uint8 \[T, H, W, 3\]"):
        Array(images)


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan")])
def test_a_frame_rate_that_is_not_positive_is_refused(fps):
    with pytest.raises(MediaError, match="expected a number of frames per second above 0"):
        Array(np.zeros((1, 2, 2, 3), np.uint8), fps)


def test_a_folder_stands_for_all_videos_in_it(tmp_path):
    for name in ("b10.mp4", "b2.mp4", "deep/er/c.avi", ".hidden.mp4"):
        write(tmp_path / name, frames=2)
    raw_trees.write_clip(tmp_path / "pictures", lambda i: f"{i}.jpg", frames=3, label=0, size=32)
    (tmp_path / "notes.txt").write_text("nothing.mp4\n")
    found = sources.find(tmp_path)
    names = [source.name.removeprefix(f"{tmp_path}/") for source in found]
    assert names == ["b2.mp4", "b10.mp4", "deep/er/c.avi", "pictures"]
    assert [type(source) for source in found] == [VideoFile, VideoFile, VideoFile, Pictures]


def test_a_picture_beside_videos_is_no_video(tmp_path, caplog):
    for name in ("a.mp4", "deep/b.mp4", "c/1.mp4"):
        write(tmp_path / name)
    for name in ("cover.png", "c/poster.jpg"):
        (tmp_path / name).write_bytes(raw_trees.picture(0, 1, 0, 16, ".png"))
    with caplog.at_level(logging.INFO):
        names = [source.name.removeprefix(f"{tmp_path}/") for source in sources.find(tmp_path)]
    assert names == ["a.mp4", "c/1.mp4", "deep/b.mp4"]
    assert "passed over 2 pictures beside videos" in caplog.text
    (tmp_path / "a.mp4").unlink()  # a lone picture above videos
    assert len(sources.find(tmp_path)) == 2
    (tmp_path / "cover2.png").write_bytes(b"x")  # two may be frames
    assert [type(source) for source in sources.find(tmp_path)] == [Pictures, VideoFile, VideoFile]
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "1.png").write_bytes(b"x")
    assert [type(source) for source in sources.find(lone)] == [Pictures]


def test_housekeeping_and_own_results_are_no_videos_and_counted(tmp_path, caplog):
    write(tmp_path / "a.mp4")
    left = (
        "@eaDir/a.mp4/SYNOPHOTO_THUMB_M.jpg",
        "#recycle/old.mp4",
        "$RECYCLE.BIN/x.mp4",
        "._a.mp4",
    )
    mine = ("runs/m/config.json", "runs/m/data.json", "runs/m/parameters.txt", "runs/m/curves.png")
    for name in (*left, *mine, "old/a/prediction.json", "old/a/frames.csv", "old/a/timeline.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with caplog.at_level(logging.INFO):
        (found,) = sources.find(tmp_path)
    assert found.name == str(tmp_path / "a.mp4")
    assert (
        "passed over 6 hidden files, files of systems, and results of this program" in caplog.text
    )
    (tmp_path / "out").mkdir()
    write(tmp_path / "out/annotated.mp4")
    assert len(sources.find(tmp_path)) == 2 and len(sources.find(tmp_path, tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "# mine\n\na.mp4\r\nsub/b.avi\n"),
        ("list.csv", "path,label\na.mp4,happy\nsub/b.avi,sad\n"),
        ("list.csv", "\ufeffa.mp4\nsub/b.avi\n"),
        ("list.csv", "\ufeffEmotion;File Name\r\nhappy;a.mp4\r\nsad;sub/b.avi\r\n"),
        ("list.csv", 'label\tfile\nhappy\t"a.mp4"\nsad\tsub/b.avi\n'),
        ("list.tsv", "label\tfile\nhappy\ta.mp4\nsad\tsub/b.avi\n"),
        ("list.txt", '"a.mp4"\r\n"sub\\b.avi"\r\n'),  # as Windows copies paths
        ("list.csv", "path;label\r\na.mp4;happy\r\nsub\\b.avi;sad\r\n"),
    ],
)
def test_a_list_names_videos_beside_it(tmp_path, name, text):
    write(tmp_path / "a.mp4", frames=2)
    write(tmp_path / "sub" / "b.avi", frames=2)
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    found = sources.find(tmp_path / name)
    assert [source.name for source in found] == [f"{tmp_path}/a.mp4", f"{tmp_path}/sub/b.avi"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "gb18030"])
def test_a_list_may_be_in_the_encoding_of_a_spreadsheet(tmp_path, encoding):
    name = "愤怒的脸.mp4" if encoding == "gb18030" else "Grüße.mp4"
    write(tmp_path / name, frames=2)
    (tmp_path / "list.csv").write_bytes(f"path,label\n{name},happy\n".encode(encoding))
    (found,) = sources.find(tmp_path / "list.csv")
    assert found.name == f"{tmp_path}/{name}"


def test_a_list_with_a_mistake_names_the_line(tmp_path):
    write(tmp_path / "a.mp4", frames=2)
    path = tmp_path / "list.txt"
    path.write_text("a.mp4\ngone.mp4\n")
    good, bad = sources.find(path)
    assert good.name == f"{tmp_path}/a.mp4" and bad.name == "gone.mp4"
    with pytest.raises(MediaError, match=r"list.txt, line 2: .*gone.mp4: no such file or folder"):
        next(bad.frames())
    path.write_text("list.txt\n")
    (bad,) = sources.find(path)
    with pytest.raises(MediaError, match="a list inside a list"):
        next(bad.frames())
    path.write_text("\n# nothing\n")
    with pytest.raises(MediaError, match="lists no video"):
        sources.find(path)


def test_what_is_not_there_or_no_video_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"gone: no such file or folder"):
        sources.find(tmp_path / "gone")
    with pytest.raises(MediaError, match=r"such file or folder; patterns are not expanded"):
        sources.find(tmp_path / "*.mp4")
    with pytest.raises(MediaError, match="holds no video and no pictures"):
        sources.find(tmp_path)
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(
        MediaError, match=r"can read. Expected a video, a folder, or a list of them"
    ):
        sources.find(tmp_path / "a.pdf")
    (tmp_path / "a.pdf").write_text("%PDF-1.4")
    with pytest.raises(
        MediaError, match=r"a.pdf: not a video that FFmpeg can read: a PDF document"
    ):
        sources.find(tmp_path / "a.pdf")


def test_files_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video at all" * 100)
    with pytest.raises(MediaError, match=r"a.mp4: not a video that FFmpeg can read"):
        next(VideoFile(path).frames())
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.png").write_bytes(b"x")
    with pytest.raises(MediaError, match=r"1.png: not a readable image"):
        next(Pictures(tmp_path / "c").frames())
