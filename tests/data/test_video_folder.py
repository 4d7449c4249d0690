import pathlib

import cv2
import numpy as np
import pytest
import raw_trees

from data import workers
from data.video_folder import video_folder_dataset_builder as video_folder

SMALL = {"frames": 3, "size": 32}
REAL = pathlib.Path(__file__).parents[3] / "shared" / "real_videos"


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 10**9)


def plan(root, **options):
    return video_folder.read_plan(video_folder.Options(name="x", source_dir=str(root), **options))


def test_videos_and_folders_of_frames_build_and_read_back(tmp_path, capsys):
    truth = raw_trees.make_video_folder(tmp_path / "raw", frames=18)
    builder = raw_trees.build(video_folder, tmp_path, source_dir=str(tmp_path / "raw"))
    built = raw_trees.read_truth(builder)
    assert built["train"] | built["test"] == truth[""] and len(built["test"]) == 3
    assert set(built["test"].values()) == {"calm", "glad", "tense"}
    for split in built:
        for record in raw_trees.read(builder, split).values():
            assert len(record["frames"]) == 18 and raw_trees.levels_rise(record)
    assert "20 % of each class for testing" in capsys.readouterr().out


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_folders_of_splits_are_splits(tmp_path, validation):
    truth = raw_trees.make_video_folder(tmp_path, splits=("train", validation, "test"), **SMALL)
    truth["validation"] = truth.pop(validation)
    assert raw_trees.truth_of(plan(tmp_path)) == truth


def test_splits_and_classes_do_not_mix(tmp_path):
    raw_trees.make_video_folder(tmp_path, splits=("train", "test", "other"), **SMALL)
    with pytest.raises(ValueError, match="move other into one of them"):
        plan(tmp_path)


def test_a_class_that_is_tested_must_be_trained(tmp_path):
    raw_trees.make_video_folder(tmp_path, splits=("train", "test"), **SMALL)
    (tmp_path / "train/glad").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path.parent / f"{tmp_path.name}-glad")
    with pytest.raises(ValueError, match="no clip of glad in the train split"):
        plan(tmp_path)


def test_the_split_goes_by_names_only(tmp_path):
    for name in ("a", "b"):
        raw_trees.make_video_folder(tmp_path / name, clips_per_class=10, **SMALL)
    first, second = (raw_trees.truth_of(plan(tmp_path / name)) for name in ("a", "b"))
    assert first == second and len(first["test"]) == 6 and len(first["train"]) == 24
    other = raw_trees.truth_of(plan(tmp_path / "a", test_percent=50))
    assert len(other["test"]) == 15 and set(first["test"]) < set(other["test"])
    assert set(raw_trees.truth_of(plan(tmp_path / "a", test_percent=0))) == {"train"}


@pytest.mark.parametrize("clips, tested", [(1, 0), (2, 1), (3, 1), (8, 2)])
def test_every_class_is_trained_however_few_clips_it_has(tmp_path, clips, tested):
    raw_trees.make_video_folder(tmp_path, clips_per_class=clips, **SMALL)
    truth = raw_trees.truth_of(plan(tmp_path, test_percent=20))
    assert len(truth.get("test", {})) == 3 * tested
    assert len(truth["train"]) == 3 * (clips - tested)


@pytest.mark.parametrize("classes", [("tense", "calm", "glad"), "tense, calm,glad"])
def test_classes_in_the_order_asked_for(tmp_path, classes):
    raw_trees.make_video_folder(tmp_path, **SMALL)
    assert plan(tmp_path).classes == ("calm", "glad", "tense")
    read = plan(tmp_path, classes=classes)
    assert read.classes == ("tense", "calm", "glad")
    assert all(read.classes[e.label] == e.clip_id.split("/")[0] for e in read.splits["train"])


@pytest.mark.parametrize(
    "classes, message",
    [
        ("calm,glad", "label 'tense'"),
        ("calm,glad,tense,sad", "no clip of sad"),
        ("calm,glad,calm", "a name occurs twice"),
    ],
)
def test_classes_that_do_not_fit(tmp_path, classes, message):
    raw_trees.make_video_folder(tmp_path, **SMALL)
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, classes=classes)


def only_pictures(folder):
    folder.mkdir()
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda root: (root / "sad").mkdir(), "sad: no clip in this class"),
        (lambda root: only_pictures(root / "blue"), "blue: 2 pictures, such as 1.png, but no clip"),
    ],
)
def test_malformed_folders(tmp_path, damage, message):
    raw_trees.make_video_folder(tmp_path, **SMALL)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        plan(tmp_path)


def test_files_that_are_no_clips_are_reported(tmp_path):
    raw_trees.make_video_folder(tmp_path, **SMALL)
    (tmp_path / "calm/notes.txt").write_text("x")
    (tmp_path / "list.xls").write_text("x")
    (tmp_path / "glad.mp4").write_bytes(b"x")
    (tmp_path / "calm/cover.png").write_bytes(b"x")
    notes = plan(tmp_path).notes
    assert "ignored files that are not clips: 2, such as 'list.xls'" in notes
    assert "ignored videos that lie in no folder of a class: 1, such as 'glad.mp4'" in notes
    said = "ignored pictures beside clips; a clip is a video or a folder of pictures: 1"
    assert f"{said}, such as 'calm/cover.png'" in notes


def test_one_class_is_not_enough(tmp_path):
    raw_trees.make_video_folder(tmp_path, classes=("calm",), **SMALL)
    with pytest.raises(ValueError, match="only one class"):
        plan(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no folders; expected"):
        plan(tmp_path / "empty")


def _list(root, *lines, **text):
    raw_trees.write_lines(root / "list.csv", lines, **text)
    return plan(root, csv="list.csv")


@pytest.mark.parametrize("text", [{}, {"end": "\r\n", "encoding": "utf-8-sig"}])
@pytest.mark.parametrize("header", [(), ("path,label,split",)])
def test_a_list_with_splits(tmp_path, text, header):
    raw_trees.make_video_folder(tmp_path, **SMALL)
    lines = (
        "calm/clip0,Calm,train",
        'glad/clip1.mp4,"Glad, very",train',
        "./glad/clip2.avi,Calm,test",
        "calm/clip1.mp4,Calm,VAL",
    )
    read = _list(tmp_path, *header, *lines, **text)
    assert raw_trees.truth_of(read) == {
        "train": {"calm/clip0": "Calm", "glad/clip1.mp4": "Glad, very"},
        "validation": {"calm/clip1.mp4": "Calm"},
        "test": {"glad/clip2.avi": "Calm"},
    }
    assert all(entry.path for entries in read.splits.values() for entry in entries)


@pytest.mark.parametrize("encoding", ["utf-8", "gbk"])
def test_a_list_with_other_letters(tmp_path, encoding):
    raw_trees.make_video_folder(tmp_path, classes=("高兴", "平静"), **SMALL)
    lines = [f"{c}/clip{i}.mp4,{c}" for c in ("高兴", "平静") for i in (1, 4)]
    assert _list(tmp_path, *lines, encoding=encoding).classes == ("平静", "高兴")


def test_a_list_without_splits_is_divided(tmp_path):
    raw_trees.make_video_folder(tmp_path, **SMALL)
    read = _list(tmp_path, *(f"{c}/clip{i}.mp4,{c}" for c in ("calm", "glad") for i in (1, 4)))
    assert {split: len(entries) for split, entries in read.splits.items()} == {
        "train": 2,
        "test": 2,
    }


@pytest.mark.parametrize(
    "line, message",
    [
        ("../x.mp4,a", r"list\.csv:3: path '\.\./x\.mp4' must be relative"),
        ("a/../../x.mp4,a", r"list\.csv:3: path"),
        ("/etc/x.mp4,a", r"list\.csv:3: path '/etc/x\.mp4' must be relative"),
        ("C:\\x.mp4,a", r"list\.csv:3: path"),
        (",a", r"list\.csv:3: expected"),
        ("3.mp4,", r"list\.csv:3: expected"),
        ("3.mp4", r"list\.csv:3: expected"),
        ("3.mp4,a,fold1", r"list\.csv:3: unknown split 'fold1'"),
        ("./1.mp4,b", r"list\.csv:3: 1\.mp4 is already listed in .*list\.csv:1"),
        ("3.mp4,a,test", r"list\.csv:1: no split, but other lines have one"),
    ],
)
def test_a_malformed_list_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        _list(tmp_path, "1.mp4,a", "2.mp4,b", line)


def test_an_unknown_label_in_a_list_is_named(tmp_path):
    raw_trees.write_lines(tmp_path / "list.csv", ["path,label", "1.mp4,a", "2.mp4,b", "3.mp4,c"])
    with pytest.raises(ValueError, match=r"list\.csv:4: label 'c'"):
        plan(tmp_path, csv="list.csv", classes="a,b")
    with pytest.raises(FileNotFoundError, match=r"csv=other\.csv"):
        plan(tmp_path, csv="other.csv")


@pytest.mark.parametrize("wrong", [{"test_percent": 91}, {"test_percent": -1}, {"max_fps": -1.0}])
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        video_folder.Options(name="x", **wrong)


def test_videos_are_thinned(tmp_path):
    raw_trees.make_video_folder(tmp_path / "raw", frames=20, fps=20)
    options = {"source_dir": str(tmp_path / "raw"), "max_fps": 10}
    builder = raw_trees.build(video_folder, tmp_path, **options)
    records = raw_trees.read(builder, "train") | raw_trees.read(builder, "test")
    counts = {clip: len(record["frames"]) for clip, record in records.items()}
    assert counts == {clip: 10 if "." in clip else 20 for clip in counts}


@pytest.mark.skipif(not REAL.is_dir(), reason="no real videos at hand")
def test_real_videos(tmp_path):
    videos = sorted(path for path in REAL.iterdir() if path.suffix in (".mp4", ".mov"))
    assert len(videos) >= 4
    for i, video in enumerate(videos):
        folder = tmp_path / "raw" / ("even", "odd")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / video.name).symlink_to(video)
    options = {"source_dir": str(tmp_path / "raw"), "short_side": 64, "max_fps": 5}
    builder = raw_trees.build(video_folder, tmp_path, **options)
    records = raw_trees.read(builder, "train") | raw_trees.read(builder, "test")
    assert len(records) == len(videos)
    for record in records.values():
        assert len(record["frames"]) > 5
        image = cv2.imdecode(np.frombuffer(record["frames"][0], np.uint8), cv2.IMREAD_COLOR)
        assert min(image.shape[:2]) == 64
