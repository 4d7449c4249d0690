"""Input that is damaged or means harm: each fault ends in an error of its own that says where it is.

What is tested elsewhere is not tested again here:

- labels out of range, unknown classes, clips named twice, malformed lines and headers, lists that
  contradict each other: tests/data/test_dfew.py, test_ferv39k.py, test_mafw.py, test_video_folder.py
  and tests/pipeline/test_label_files.py;
- byte order marks and Windows line ends of DFEW, video_folder and label files, GBK: the same;
- frames that are empty, cut off or no pictures, videos without a frame: tests/data/test_frames.py;
- clips left out and counted: tests/data/test_recorded.py; every frame decoded: tests/data/test_check.py;
- videos to predict that are missing or no videos: tests/media/test_video.py;
- saved predictions: test_predictions.py; other damaged files of a run: tests/report/test_report.py;
- damaged weights: tests/models/test_pretrained.py;
- any damage at all, drawn at random: tests/robustness/test_fuzz.py.
"""

import io
import os
import re
import shutil
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import raw_trees
from etils import epath
from PIL import Image

from data import check, frames, raw, recorded, workers
from data.dfew import dfew_dataset_builder as dfew
from data.ferv39k import ferv39k_dataset_builder as ferv39k
from data.mafw import mafw_dataset_builder as mafw
from data.video_folder import video_folder_dataset_builder as video_folder
from rdfer_jax.media import files as media_files
from rdfer_jax.media import sources
from rdfer_jax.media.files import MediaError
from rdfer_jax.pipeline import label_files
from rdfer_jax.predict import files


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 10**9)


def _ferv39k(listed):
    classes = ferv39k.class_of_labels(listed)
    return {line.path: classes[line.label] for line in listed}


def _videos(path):
    for name in ("a.mp4", "b.mp4"):
        (path.parent / name).touch()
    for found in (videos := sources.find(path)):
        if isinstance(found, sources.Unreadable):
            next(found.frames())
    return [found.name for found in videos]


#: Parser -> name of its file, a valid one, what reads it without the places in the file.
PARSERS = {
    "dfew": (
        "set_1.csv",
        "video_name,label\n1,1\n2,7\n",
        lambda path: {clip: label for clip, (label, _) in dfew.read_list(path).items()},
    ),
    "dfew votes": (
        "annotation.csv",
        "1happy,2sad,3neutral,4angry,5surprise,6disgust,7fear,order,label\n"
        "7,3,0,0,0,0,0,1,1\n0,7,3,0,0,0,0,2,2\n",
        dfew.read_votes,
    ),
    "ferv39k": (
        "train_All.csv",
        "Action/Sad/0002 Sad\nAction/Fear/0003 Fear\n",
        lambda path: _ferv39k(ferv39k.read_list(path)),
    ),
    "mafw": (
        "test.txt",
        "00001.mp4 anger\n00002.mp4 fear\n",
        lambda path: {clip: name for clip, (name, _) in mafw.read_list(path).items()},
    ),
    "video_folder": (
        "list.csv",
        "path,label\na/1.mp4,calm\na/2.mp4,glad\n",
        lambda path: [
            (c.path, c.label)
            for c in video_folder.from_list.find(path.parent, path.name).clips
            if c.where
        ],
    ),
    "labels": (
        "labels.csv",
        "clip_id,label\na,sad\nb,happy\n",
        lambda path: label_files.read(path, ("happy", "sad")),
    ),
    "videos": ("list.txt", "a.mp4\nb.mp4\n", _videos),
}


def parsed(folder, parser, data):
    name, _, read = PARSERS[parser]
    path = epath.Path(folder / name)
    path.write_bytes(data)
    return read(path)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_lone_carriage_return_ends_a_line(tmp_path, parser):
    text = PARSERS[parser][1]
    wanted = parsed(tmp_path, parser, text.encode())
    assert wanted and parsed(tmp_path, parser, text.replace("\n", "\r").encode()) == wanted


def test_every_kind_of_line_end_ends_one_line(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a\r\nb\rc\nd")
    lines = raw.read_lines(epath.Path(tmp_path / "list.txt"))
    assert [(line.number, line.text) for line in lines] == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


@pytest.mark.parametrize("parser", ["dfew votes", "ferv39k", "mafw"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path, parser):
    text = PARSERS[parser][1]
    changed = text.replace("\n", "\r\n").encode("utf-8-sig")
    assert parsed(tmp_path, parser, changed) == parsed(tmp_path, parser, text.encode())


#: Fault -> what it makes of a valid file. The second line is always the first that is damaged.
FAULTS = {
    "UTF-16 with a mark": lambda text: text.encode("utf-16"),
    "UTF-16 without": lambda text: text.encode("utf-16-le"),
    "NUL byte": lambda text: text.replace("\n", "\n\0", 1).encode(),
    "mark, then Latin-1": lambda text: (
        b"\xef\xbb\xbf" + text.replace("\n", "\n\xfc", 1).encode("l1")
    ),
    "long line": lambda text: text.replace("\n", "\n" + 200_000 * "x", 1).encode(),
}
SAYS = {
    "UTF-16 with a mark": "UTF-16|not UTF-8",
    "UTF-16 without": "UTF-16",
    "NUL byte": "NUL",
    "mark, then Latin-1": "not UTF-8",
    "long line": r"a line of 2000\d\d characters|field larger than|list.txt, line 2: 200005 ch",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("parser", PARSERS)
def test_a_file_in_no_known_form_is_refused_and_named(tmp_path, parser, fault):
    name, text, _ = PARSERS[parser]
    if "UTF-16" in fault and parser in ("video_folder", "labels", "videos"):  # as Excel writes
        assert parsed(tmp_path, parser, FAULTS[fault](text)) == parsed(
            tmp_path, parser, text.encode()
        )
        return
    with pytest.raises(ValueError, match=SAYS[fault]) as error:
        parsed(tmp_path, parser, FAULTS[fault](text))
    number = 1 if "UTF-16" in fault else 2
    message = str(error.value)
    assert f"{name}:{number}:" in message or f"{name}, line {number}" in message
    assert len(message) < 600 and "\0" not in message


@pytest.mark.parametrize(
    ("parser", "message"),
    [
        ("dfew", "set_1.csv: lists no clip"),
        ("dfew votes", "annotation.csv: expected a table with the columns"),
        ("ferv39k", "train_All.csv: lists no clip"),
        ("mafw", "test.txt: lists no clip"),
        ("video_folder", "list.csv: lists no clip"),
    ],
)
def test_an_empty_file_is_refused_and_named(tmp_path, parser, message):
    with pytest.raises(ValueError, match=message):
        parsed(tmp_path, parser, b"")


LONG = "x" * 300


@pytest.mark.parametrize(
    ("parser", "line", "message"),
    [
        ("dfew", "label,video_name\n1,00001", r"set_1.csv:1: expected `video_name,label`"),
        ("dfew", f"1,{'1' * 5000}", r"set_1.csv:1: expected .*\(5002 characters\)"),
        ("dfew", "1,٣", r"set_1.csv:1: expected `video_name,label`, got '1,٣'"),
        ("dfew", f"1,1\n{LONG},1", r"set_1.csv:2: expected .*\(302 characters\)"),
        ("ferv39k", "/etc/Sad/0002 Sad", r"train_All.csv:1: path '/etc/Sad/0002' must be relative"),
        ("ferv39k", "C:/Sad/0002 Sad", r"train_All.csv:1: path 'C:/Sad/0002' must be relative"),
        ("ferv39k", f"Action/Sad/{LONG} Sad", r"train_All.csv:1: .* a name of more than 255 bytes"),
        ("ferv39k", "Action/Sad/2 \x1b[2J", r"train_All.csv:1: unknown label '\\x1b\[2J'"),
        ("mafw", "../00001.mp4 anger", r"test.txt:1: path '../00001' must be relative"),
        ("mafw", "/etc/00001.mp4 anger", r"test.txt:1: path '/etc/00001' must be relative"),
        ("mafw", "a\x1b[2J.mp4 anger", r"test.txt:1: character '\\x1b' in 'a\\x1b\[2J'"),
        ("video_folder", "1.mp4,calm\n2.mp4", r"list.csv:2: expected `path,label\[,split\["),
        ("video_folder", f"{LONG}.mp4,calm", r"list.csv:1: .* a name of more than 255 bytes"),
        ("video_folder", f"{'a/' * 3000}1.mp4,calm", r"list.csv:1: .* has more than 4096 bytes"),
        ("video_folder", "a\x07.mp4,calm", r"list.csv:1: character '\\x07' in 'a\\x07.mp4'"),
        ("labels", "clip_id,label,label\na,sad,sad", r"labels.csv: two columns 'label'"),
        ("labels", "clip_id,label\n,sad", r"labels.csv, line 2, clip '': clip_id is empty"),
        ("labels", 'clip_id,label\n"a,sad\nb,sad', r"labels.csv, line 3, clip 'a,.*Close its quotes"),
        ("labels", f"clip_id,label\na,{LONG * 20}", r"line 2, clip 'a': .*\(6000 characters\)"),
        ("videos", f"a.mp4\n{LONG}.mp4", r"list.txt, line 2: .*x.mp4: no such file or folder"),
    ],
)  # fmt: skip
def test_a_line_that_means_harm_is_refused_and_named(tmp_path, parser, line, message):
    with pytest.raises(ValueError, match=message) as error:
        parsed(tmp_path, parser, line.encode())
    assert "\x1b" not in str(error.value) and len(str(error.value)) < 1000


def test_a_folder_where_a_list_is_meant_is_named(tmp_path):
    (tmp_path / "set_1.csv").mkdir()
    with pytest.raises(ValueError, match=r"set_1.csv: expected a text file, got a folder"):
        dfew.read_list(epath.Path(tmp_path / "set_1.csv"))


@pytest.mark.parametrize("cell", ["nan", "-1", "1e400", "1e10", "x"])
@pytest.mark.parametrize("column", [0, 7, 8])
def test_a_vote_that_is_no_number_of_votes_is_named(tmp_path, cell, column):
    row = ["7", "3", "0", "0", "0", "0", "0", "3", "1"]
    row[column] = cell
    text = PARSERS["dfew votes"][1] + ",".join(row) + "\n"
    with pytest.raises(
        ValueError, match=rf"annotation.csv:4: '{cell}' is not a number of 0 or more"
    ):
        parsed(tmp_path, "dfew votes", text.encode())


def test_two_rows_of_votes_for_a_clip_are_refused(tmp_path):
    text = PARSERS["dfew votes"][1] + "0,7,3,0,0,0,0,2,2\n"
    with pytest.raises(ValueError, match=r"annotation.csv:4: clip 00002 has two rows"):
        parsed(tmp_path, "dfew votes", text.encode())


@pytest.mark.parametrize("fault", ["garbage", "cut off", "bomb"])
def test_a_spreadsheet_that_cannot_be_read_is_named(tmp_path, fault, monkeypatch):
    path = epath.Path(tmp_path / "annotation.xlsx")
    raw_trees.write_table(path, [(*raw_trees.DFEW_HEADER, "order", "label"), (*range(9),)])
    if fault == "garbage":
        path.write_bytes(b"no spreadsheet" * 100)
    elif fault == "cut off":
        path.write_bytes(path.read_bytes()[:-400])
    else:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("xl/zeros.xml", bytes(1 << 28))
        assert path.stat().length < 1 << 20
        monkeypatch.setattr("openpyxl.load_workbook", None)  # it must not come so far
    with pytest.raises(ValueError, match=r"annotation.xlsx: not a readable .xlsx file") as error:
        dfew.read_votes(path)
    assert (fault == "bomb") == ("unpacks to 2684" in str(error.value))


def test_an_undecoded_name_of_a_class_is_refused(tmp_path):
    found = [video_folder.Listed("a.mp4", "calm\ufffd", "", "list.csv:1")]
    with pytest.raises(ValueError, match=r"list.csv:1: character '\ufffd' in 'calm\ufffd'"):
        video_folder.class_names(found, ())


def test_a_file_whose_name_is_no_text_is_read_under_another(tmp_path):
    root = tmp_path / "raw"
    raw_trees.make_video_folder(root, classes=("calm", "glad"), frames=3, size=32)
    try:
        for old, new in (("clip1.mp4", b"caf\xe9.mp4"), ("clip2.avi", b"\xff\n.avi")):
            (root / "calm" / old).rename(root / "calm" / os.fsdecode(new))
    except OSError:
        pytest.skip("a file system that has no such names")
    builder = raw_trees.build(video_folder, tmp_path, source_dir=str(root))
    stored = raw_trees.read(builder, "train") | raw_trees.read(builder, "test")
    assert len(stored) == 10
    for name in (r"calm/caf\xe9.mp4", r"calm/\xff\n.avi"):
        assert len(stored[name]["frames"]) == 3
    (root / "calm" / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"")
    with pytest.raises(recorded.MissingClipsError, match=r"calm/caf\\xe9.mp4: .*an empty file"):
        raw_trees.build(video_folder, tmp_path / "again", source_dir=str(root))


# Links, pipes, playlists: what a list names is read only if it is a file below the root.


@pytest.fixture
def tree(tmp_path):
    """Two classes, five clips each, in a folder with a list of them."""
    root = tmp_path / "raw"
    truth = raw_trees.make_video_folder(root, classes=("calm", "glad"), frames=3, size=32)
    lines = [f"{clip},{name}" for clip, name in truth[""].items()]
    raw_trees.write_lines(root / "list.csv", lines)
    return root


def _move_and_link(path, target):
    path.rename(target)
    path.symlink_to(target)


LINKS = {
    "video": lambda root: _move_and_link(root / "calm/clip1.mp4", root.parent / "1.mp4"),
    "folder of frames": lambda root: _move_and_link(root / "calm/clip0", root.parent / "clip"),
    "empty folder": lambda root: (
        shutil.rmtree(root / "calm/clip0"),
        (root.parent / "empty").mkdir(),
        (root / "calm/clip0").symlink_to(root.parent / "empty"),
    ),
    "frame": lambda root: _move_and_link(root / "calm/clip0/f1.png", root.parent / "f1.png"),
    "folder in a folder": lambda root: (
        (root / "calm/clip0").rename(root.parent / "clip"),
        (root / "calm/clip0").mkdir(),
        (root / "calm/clip0/inner").symlink_to(root.parent / "clip"),
    ),
    "folder of a class": lambda root: _move_and_link(root / "calm", root.parent / "calm"),
}


@pytest.mark.parametrize("link", LINKS)
def test_a_link_out_of_the_root_is_refused_where_a_list_names_clips(tree, tmp_path, link):
    LINKS[link](tree)
    with pytest.raises(recorded.MissingClipsError, match="a link that leads out of") as error:
        raw_trees.build(video_folder, tmp_path, source_dir=str(tree), csv="list.csv")
    found = check.check_raw("video_folder", {"source_dir": str(tree), "csv": "list.csv"})
    assert sum("leads out of" in line for lines in found.problems.values() for line in lines)
    lost = 5 if link == "folder of a class" else 1
    assert f"{lost} of 10 clips" in str(error.value) and "listed in" in str(error.value)
    if link not in ("folder of a class", "empty folder"):  # the user's own folders are not a list
        builder = raw_trees.build(video_folder, tmp_path, source_dir=str(tree))
        assert sum(builder.info.splits[split].num_examples for split in ("train", "test")) == 10


def test_links_within_the_root_and_to_all_clips_are_followed(tmp_path):
    small = {"clips_per_class_per_fold": 1, "frames": 2, "size": 32}
    truth = raw_trees.make_dfew(tmp_path / "raw", **small)
    clips = tmp_path / "raw/Clip/clip_224x224"
    (clips / "00003").rename(clips / "3rd")
    (clips / "00003").symlink_to("3rd")
    _move_and_link(clips, tmp_path / "disk")
    builder = raw_trees.build(dfew, tmp_path, source_dir=str(tmp_path / "raw"))
    assert raw_trees.read_truth(builder) == truth
    _move_and_link(tmp_path / "disk/00004", tmp_path / "4th")
    with pytest.raises(recorded.MissingClipsError, match=r"00004: .* leads out of .*set_4\.csv:2"):
        raw_trees.build(dfew, tmp_path / "again", source_dir=str(tmp_path / "raw"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.timeout(60)
def test_a_pipe_is_no_clip(tmp_path):
    raw_trees.write_clip(tmp_path / "clip", "f{}.png".format, frames=2, label=1, size=32)
    os.mkfifo(tmp_path / "clip" / "f7.png")  # reading it would wait for ever
    os.mkfifo(tmp_path / "a.mp4")
    for name, path in (("clip/f7.png", tmp_path / "clip"), ("a.mp4", tmp_path / "a.mp4")):
        assert frames.probe(str(path)).problem == f"{tmp_path}/{name}: not a file"
        assert "not a file" in frames.inspect(str(path)).problems[0]
    pictures, pipe = sources.find(tmp_path)[::-1]
    assert len(list(pictures.frames())) == 2 and "f7.png: not a file" in pictures.damage
    with pytest.raises(MediaError, match=r"a.mp4: not a file"):
        list(pipe.frames())


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile real.mp4\n", "#EXTM3U\nreal.mp4\n"])
def test_a_playlist_is_no_video(tmp_path, text):
    raw_trees.write_video(tmp_path / "real.mp4", frames=3, label=1, size=32)
    path = tmp_path / "list.mp4"
    path.write_text(text)
    assert "list.mp4: a playlist" in frames.probe(str(path)).problem
    assert "list.mp4: a playlist" in frames.convert(frames.Job(str(path), 32, 95)).problem
    with pytest.raises(MediaError, match=r"list.mp4: a playlist"):
        list(sources.VideoFile(epath.Path(path)).frames())


def test_a_name_with_a_pattern_is_one_video(tmp_path):
    for i in range(3):  # what OpenCV's reader of series would take it for
        (tmp_path / f"a{i}.mp4").write_bytes(raw_trees.picture(0, 1, 1, 32, ".png"))
    (tmp_path / "a%d.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"a%d.mp4: not a video"):
        list(sources.VideoFile(epath.Path(tmp_path / "a%d.mp4")).frames())


@pytest.mark.timeout(60)
def test_folders_that_hold_themselves_by_links_are_named(tmp_path):
    raw_trees.write_video(tmp_path / "sub/a.mp4", frames=2, label=1, size=32)
    for name in ("one", "two"):  # followed, these would be 2^40 folders
        (tmp_path / "sub" / name).symlink_to(tmp_path)
    good, *bad = sources.find(tmp_path)
    assert good.name.endswith("a.mp4") and len(bad) == 2
    with pytest.raises(MediaError, match=r"sub/one: a link to a folder that contains it"):
        next(bad[0].frames())


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources, "_in_folder", deny)
    with pytest.raises(MediaError, match=r": cannot be read \(Permission denied\)"):
        sources.find(tmp_path)


def test_results_of_the_folder_above_stay_in_the_output():
    assert files.folders(["lists/..", ".", "/", "a.mp4"]) == [
        "video",
        "video-2",
        "video-3",
        "a.mp4",
    ]


# Pictures and videos that claim to be what they are not.


def _jpeg(height, width, junk=b""):
    done, encoded = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
    assert done
    data = encoded.tobytes()
    at = data.index(b"\xff\xc0")
    size = struct.pack(">HH", height, width)
    return data[:at] + junk + data[at : at + 5] + size + data[at + 9 :]


def _png(height, width):
    def chunk(name, body):
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _tiff(height, width):
    data = io.BytesIO()
    Image.new("L", (8, 8)).save(data, "TIFF")
    text = data.getvalue()
    for tag, side in ((256, width), (257, height)):
        at = text.index(struct.pack("<HHI", tag, 4, 1))
        text = text[: at + 8] + struct.pack("<I", side) + text[at + 12 :]
    return text


#: Small files that claim 60000 x 60000 pixels, or so many that OpenCV would still decode them.
BOMBS = {
    "1.jpg": _jpeg(60000, 60000),
    "2.jpg": _jpeg(20000, 20000),
    "3.jpg": _jpeg(60000, 60000, junk=b"\0\0\0"),  # libjpeg passes over bytes between segments
    "4.png": _png(60000, 60000),
    "5.png": _png(8192, 8193),
    "6.bmp": b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 60000, 60000, 1, 24) + bytes(24),
    "7.tif": _tiff(60000, 60000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_that_claims_too_many_pixels_is_refused_unread(tmp_path, name, monkeypatch):
    def decode(*_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    assert path.stat().st_size < 2000
    message = rf"{name}: \d+x\d+ pixels, and the limit is 67108864"
    with pytest.raises(MediaError, match=message):
        frames.store_picture(path.read_bytes(), path, 128, 95)
    for problem in (
        frames.probe(str(tmp_path)).problem,
        frames.convert(frames.Job(str(tmp_path), 128, 95)).problem,
        *frames.inspect(str(tmp_path)).problems,
    ):
        assert f"{name}: " in problem and "the limit is 67108864" in problem
    with pytest.raises(MediaError, match=message):
        list(sources.Pictures(epath.Path(tmp_path)).frames())


@pytest.mark.parametrize("part", [b"IDAT", b"IEND"])
def test_a_png_whose_part_claims_gigabytes_is_refused_unread(tmp_path, part, monkeypatch):
    data = _png(8, 8)
    at = data.index(part)
    (tmp_path / "1.png").write_bytes(data[: at - 4] + b"\xff\0\0\x10" + data[at:])
    monkeypatch.setattr(cv2, "imdecode", None)  # it would take 4 GB, and seconds
    assert (
        "1.png: the image is truncated or damaged"
        in frames.convert(frames.Job(str(tmp_path), 128, 95)).problem
    )
    with pytest.raises(MediaError, match=r"1.png: the image is truncated or damaged"):
        list(sources.Pictures(epath.Path(tmp_path)).frames())


def test_a_jpeg_that_does_not_say_its_size_is_not_decoded(tmp_path, monkeypatch):
    data = _jpeg(8, 8)
    (tmp_path / "1.jpg").write_bytes(data.replace(b"\xff\xc0", b"\xff\xe9"))
    monkeypatch.setattr(cv2, "imdecode", None)
    assert "not a readable image" in frames.convert(frames.Job(str(tmp_path), 128, 95)).problem
    with pytest.raises(MediaError, match=r"1.jpg: not a readable image"):
        list(sources.Pictures(epath.Path(tmp_path)).frames())


def test_an_exception_of_opencv_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise cv2.error("too large")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    (tmp_path / "1.bmp").write_bytes(raw_trees.picture(0, 1, 1, 32, ".bmp"))
    assert "1.bmp: not a readable image" in frames.probe(str(tmp_path)).problem
    with pytest.raises(MediaError, match=r"1.bmp: not a readable image"):
        list(sources.Pictures(epath.Path(tmp_path)).frames())


def test_a_video_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    raw_trees.write_video(path, frames=2, label=1, size=64)
    monkeypatch.setattr(media_files, "MAX_PIXELS", 4095)
    assert "a.mp4: 64x64 pixels, and the limit is 4095" in frames.probe(str(path)).problem
    with pytest.raises(MediaError, match=r"a.mp4: 64x64 pixels, and the limit is 4095"):
        list(sources.VideoFile(epath.Path(path)).frames())


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("damage", ["half", "garbage", "gone"])
def test_a_damaged_picture_to_predict_is_named(tmp_path, suffix, damage):
    raw_trees.write_clip(tmp_path, lambda i: f"{i}{suffix}", frames=3, label=1, size=64)
    path = tmp_path / f"1{suffix}"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "half" else b"x" * 500)
    said = {
        "half": "truncated or damaged",
        "garbage": "not a readable image",
        "gone": "cannot be read",
    }
    if damage == "gone":  # between listing and reading
        path.unlink()
        path.symlink_to("nowhere")
    pictures = sources.Pictures(epath.Path(tmp_path))
    assert [frame.number for frame in pictures.frames()] == [0, 2]
    assert re.search(rf"^1 of 3 .*/1{suffix}: .*{said[damage]}", pictures.damage)
    for number in (0, 2):
        (tmp_path / f"{number}{suffix}").unlink()
    with pytest.raises(MediaError, match=rf"/1{suffix}: .*{said[damage]}"):
        list(pictures.frames())


def _claim(path, count):
    """Makes an .avi of 20 frames say that it has others."""
    data = bytearray(path.read_bytes())
    for name, offset in ((b"avih", 24), (b"strh", 40)):
        place = data.index(name) + offset
        assert struct.unpack_from("<I", data, place) == (20,)
        struct.pack_into("<I", data, place, count)
    path.write_bytes(data)


@pytest.mark.parametrize("claimed", [1, 30, 100])
def test_a_video_that_lies_about_its_length_gives_what_it_has(tmp_path, claimed):
    path = tmp_path / "a.avi"
    raw_trees.write_video(path, frames=20, label=1, size=32)
    _claim(path, claimed)
    assert frames.probe(str(path)).num_frames == claimed
    found = frames.convert(frames.Job(str(path), 32, 95))
    assert (found.problem != "") == (claimed == 100)  # less than half is there
    assert "holds 20 of the 100 frames" in found.problem if found.problem else found.frames[19]
    source = sources.VideoFile(epath.Path(path))
    assert len(list(source.frames())) == 20
    warning = f"holds 20 of the {claimed} frames that it declares"
    assert source.damage == (warning if claimed > 20 else "")


def test_a_video_of_one_frame_is_one_frame_and_one_of_none_is_named(tmp_path):
    path = tmp_path / "a.mp4"
    raw_trees.write_video(path, frames=1, label=1, size=32)
    assert len(frames.convert(frames.Job(str(path), 32, 95)).frames) == 1
    assert len(list(sources.VideoFile(epath.Path(path)).frames())) == 1
    raw_trees.write_video(path, frames=0, label=1, size=32)
    with pytest.raises(MediaError, match=r"a.mp4: holds no (frame|video)"):
        list(sources.VideoFile(epath.Path(path)).frames())


def test_clips_of_one_frame_are_built_and_counted(tmp_path):
    raw_trees.make_video_folder(tmp_path / "raw", frames=1, size=32)
    builder = raw_trees.build(video_folder, tmp_path, source_dir=str(tmp_path / "raw"))
    records = raw_trees.read(builder, "train") | raw_trees.read(builder, "test")
    assert {len(record["frames"]) for record in records.values()} == {1}
    short = sum(numbers["short"] for numbers in builder.info.metadata["splits"].values())
    assert short == len(records) == 15


# The budget: how many clips may be left out.


def test_allow_missing_is_a_budget(tree, tmp_path, capsys):
    (tree / "calm/clip0/f1.png").write_bytes(b"garbage")
    (tree / "glad/clip1.mp4").write_bytes(b"garbage")
    options = {"source_dir": str(tree), "csv": "list.csv"}
    for allowed in (0, 1):
        with pytest.raises(recorded.MissingClipsError) as error:
            raw_trees.build(video_folder, tmp_path, allow_missing=allowed, **options)
        message = str(error.value)
        assert "2 of 10 clips are missing or unreadable" in message
        assert "f1.png: not a readable image" in message and "glad/clip1.mp4" in message
        assert f"--config.build.allow_missing=2 (now {allowed})" in message
    builder = raw_trees.build(video_folder, tmp_path, allow_missing=2, **options)
    assert sorted(builder.info.metadata["missing_clips"]) == ["calm/clip0", "glad/clip1.mp4"]
    said = capsys.readouterr().out
    assert "left out:" in said and "f1.png: not a readable image" in said
    with pytest.raises(ValueError, match="allow_missing=-1"):
        recorded.ClipOptions(name="x", allow_missing=-1)


def test_the_budget_counts_what_is_found_while_converting(tree, tmp_path, monkeypatch):
    (tree / "calm/clip0/f1.png").write_bytes(b"garbage")
    convert = frames.convert

    def break_one(job):
        return frames.Converted(problem="broken") if "glad/clip1" in job.path else convert(job)

    monkeypatch.setattr(frames, "convert", break_one)
    with pytest.raises(recorded.MissingClipsError, match="2 of 10 clips") as error:
        raw_trees.build(video_folder, tmp_path / "a", source_dir=str(tree), allow_missing=1)
    assert "f1.png" in str(error.value) and "glad/clip1.mp4: broken" in str(error.value)
    builder = raw_trees.build(video_folder, tmp_path / "b", source_dir=str(tree), allow_missing=2)
    assert len(builder.info.metadata["missing_clips"]) == 2
