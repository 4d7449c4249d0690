"""The parsers of files from users, and valid examples of each file. See fuzz.py."""

import dataclasses
import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import openpyxl
from etils import epath

from data import frames, relabel
from data.dfew import dfew_dataset_builder as dfew
from data.ferv39k import ferv39k_dataset_builder as ferv39k
from data.mafw import mafw_dataset_builder as mafw
from data.video_folder import video_folder_dataset_builder as video_folder
from rdfer_jax.media import files as media_files
from rdfer_jax.media import sources
from rdfer_jax.pipeline import label_files
from rdfer_jax.training.predictions import read_predictions

CLASSES = ("happy", "sad", "fear")
VOTES = ("1happy", "2sad", "3neutral", "4angry", "5surprise", "6disgust", "7fear", "order", "label")
#: Texts that are likely to confuse a parser.
BAD_TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "8",
        "nan",
        "inf",
        "1e999",
        "0x10",
        "9" * 5000,
        "1" * 12,
        "1_0",
        "٣",
        "²",
    ),
    *(
        "..",
        ".",
        "/",
        "../../x",
        "/etc/passwd",
        "C:\\x",
        "\\\\host\\x",
        "~",
        "a/../../../etc",
        "//x",
    ),
    *("gs://x/y", "file:///etc/passwd", "x" * 300, "y" * 70_000, "%s%n", "{0}", "$HOME", "=1+1"),
    *('"', '""', "'", "#", ",", "\t", "\0", "\r", "\x1b[2J", "\x85", "\u2028", "\u202e", "\ufeff"),
    *(
        "\ufffd",
        "é",
        "e\u0301",
        "😀",
        "他",
        "happy",
        "anger_fear",
        "00001",
        "label",
        "path",
        "train",
    ),
)


@dataclasses.dataclass(frozen=True)
class Parser:
    """A function that reads a file from users.

    Attributes:
      file: name of the file.
      examples: valid contents.
      read: reads the file. Raises AssertionError where it accepted values that it must refuse.
      named: what the message of each error must contain; empty for the name of the file.
      errors: the documented errors.
      is_archive: whether the file is a ZIP archive, which is damaged member by member.
    """

    file: str
    examples: Sequence[bytes]
    read: Callable[[epath.Path], Any]
    named: str = ""
    errors: tuple[type[Exception], ...] = (ValueError, FileNotFoundError)
    is_archive: bool = False


Members = list[tuple[str, bytes]]


def unpack(archive: bytes) -> Members:
    """Returns (name, content) of each member of a ZIP archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def pack(members: Members) -> bytes:
    """Returns an uncompressed ZIP archive, without times: equal members give equal bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name or "x"), content)
    return packed.getvalue()


def _dfew(path: epath.Path) -> None:
    assert all(0 <= label < 7 for label, _ in dfew.read_list(path).values())


def _dfew_votes(path: epath.Path) -> None:
    for votes, label in dfew.read_votes(path).values():
        assert len(votes) == 7 and all(0 <= vote < 1e9 for vote in votes) and label >= -1


def _is_inside(clip: str) -> bool:
    return not clip.startswith("/") and ".." not in clip.split("/") and min(clip) >= " "


def _ferv39k(path: epath.Path) -> None:
    listed = ferv39k.read_list(path)
    ferv39k.class_of_labels(listed)
    assert all(len(line.path.split("/")) == 3 and _is_inside(line.path) for line in listed)


def _mafw(path: epath.Path) -> None:
    for clip, (name, _) in mafw.read_list(path).items():
        assert _is_inside(clip) and set(name.split("_")) <= set(mafw.CLASSES)


def _mafw_votes(path: epath.Path) -> None:
    votes = mafw.read_votes(path, {"00001", "00002"})
    assert all(len(row) == 11 and min(row) >= 0 for row in votes.values())


def _video_folder(path: epath.Path) -> None:
    clips = video_folder.from_list.find(path.parent, path.name).clips
    video_folder.class_names(clips, ())
    video_folder.dividing.divide(video_folder.dividing.group(clips)[0], 20.0)
    assert all(_is_inside(clip.path) for clip in clips)


def _labels(path: epath.Path) -> None:
    labels = label_files.read(path, CLASSES)
    assert all(clip and 0 <= label < 3 for clip, label in labels.items())


def _build_labels(path: epath.Path) -> None:
    rows = label_files.read_names(path, "config.build.labels")
    names = {clip: label for clip, (label, _) in rows.items()}
    relabel.indices(names, {"a.mp4", "b/1", "Anna, 3", "c"}, CLASSES)


def _predictions(path: epath.Path) -> None:
    needed = ("clip_id", "label", "logits", "clip_logits")
    predictions = read_predictions(path, needed)
    rows = {len(array) for array in predictions.arrays.values()}
    assert len(rows) == 1 and predictions["label"].max() < len(predictions.classes)


def _picture(path: epath.Path) -> None:
    assert frames.store_picture(path.read_bytes(), path, 16, 95)[:2] == b"\xff\xd8"


def _picture_to_predict(path: epath.Path) -> None:
    for frame in sources.Pictures(path.parent).frames():
        assert frame.image.ndim == 3 and frame.image.size <= 3 * media_files.MAX_PIXELS


def _npz() -> bytes:
    arrays = {
        "split": "test",
        "classes": np.array(CLASSES),
        "clip_id": np.array(["a", "b"]),
        "label": np.array([0, 2], np.int32),
        "logits": np.ones((2, 3), np.float32),
        "clip_logits": np.ones((2, 2, 3), np.float32),
    }
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _sheet() -> bytes:
    book = openpyxl.Workbook()
    for row in (VOTES, range(9), range(1, 10)):
        book.active.append(list(row))
    file = io.BytesIO()
    book.save(file)
    # core.xml holds the time at which the file was written.
    return pack([member for member in unpack(file.getvalue()) if "core.xml" not in member[0]])


def _pictures() -> list[bytes]:
    image = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    progressive = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    suffixes = (".jpg", ".png", ".png", ".bmp", ".webp", ".tiff")
    encoded = [progressive, *(cv2.imencode(suffix, image) for suffix in suffixes)]
    return [data.tobytes() for _, data in encoded]


def parsers() -> dict[str, Parser]:
    """Returns every parser by its name."""
    votes = ",".join(VOTES) + "\n7,3,0,0,0,0,0,1,1\n0,7,3,0,0,0,0,2,2\n"
    mafw_votes = "clip," + ",".join(mafw.CLASSES) + "\n"
    mafw_votes += "".join(f"{i:05d}.mp4,8,3,0,0,0,0,0,0,0,0,0\n" for i in (1, 2))
    dfew_lists = [b"video_name,label\n1,1\n2,7\n3,3\n00012,1\n", b"1,2\r\n2,3\r\n"]
    ferv39k_lists = [
        b"Action/Sad/0002 Sad\nDaily/Fear/0003 Fear\nWar/Sad/0012 Sad\n",
        b"path,id\nAction/Sad/0002,5\nAction/Fear/0003,2\n",
    ]
    mafw_lists = [
        b"00001.mp4 anger\n00002.mp4 fear\n00003.mp4 anger_disgust\n",
        "00001.mp4\tanger\t他很高兴。\tA man\n00002.mp4\tfear\t她\tone\n".encode("gbk"),
    ]
    video_folder_lists = [
        b"path,label,split\na/1.mp4,calm,train\na/2.mp4,glad,test\n3.mp4,calm,train\n",
        'a/1.mp4,高兴\n"b, 2",平静\n'.encode(),
    ]
    label_lists = [
        b"clip_id,label\na.mp4,sad\nb/1,happy\nc,fear\n",
        b'\xef\xbb\xbflabel,note,clip_id\r\nsad,"a, b","Anna, 3"\r\nfear,,c\r\n',
    ]
    build_labels = [b"clip_id,label\na.mp4,sad\nb/1,happy\n"]
    return {
        "dfew list": Parser("set_1.csv", dfew_lists, _dfew),
        "dfew votes csv": Parser("annotation.csv", [votes.encode()], _dfew_votes),
        "dfew votes xlsx": Parser("annotation.xlsx", [_sheet()], _dfew_votes, is_archive=True),
        "ferv39k list": Parser("train_All.csv", ferv39k_lists, _ferv39k),
        "mafw list": Parser("test.txt", mafw_lists, _mafw),
        "mafw votes": Parser("single.csv", [mafw_votes.encode()], _mafw_votes),
        "video_folder list": Parser("list.csv", video_folder_lists, _video_folder),
        "labels": Parser("labels.csv", label_lists, _labels),
        "labels to build with": Parser("labels.csv", build_labels, _build_labels, named="labels"),
        "predictions": Parser("predictions.npz", [_npz()], _predictions, is_archive=True),
        "picture": Parser("1.jpg", _pictures(), _picture),
        "picture to predict": Parser("1.jpg", _pictures(), _picture_to_predict),
    }
