"""Folders and lists as users have them: splits, persons, housekeeping, twins, tables of other programs."""

import datetime
import os
import pathlib
import shutil

import openpyxl
import pytest
import raw_trees

from data import builder, counts, frames, workers
from data.video_folder import listed
from data.video_folder import video_folder_dataset_builder as video_folder
from rdfer_jax.media import sources


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 10**9)


def plan(root, **options):
    return video_folder.read_plan(video_folder.Options(name="x", source_dir=str(root), **options))


def touch(root, *names):
    """Makes empty files: a plan does not read the clips."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def splits_of(root, **options):
    return {
        split: sorted(entry.clip_id for entry in entries)
        for split, entries in plan(root, **options).splits.items()
    }


# Splits.


@pytest.mark.parametrize(
    ("name", "split"),
    [(n, "train") for n in ("train", "Training", "TRAIN_SET", "trainset", "training-data", "trn")]
    + [(n, "validation") for n in ("val", "VALID", "validation", "Dev", "eval", "dev_set", "PublicTest")]
    + [(n, "test") for n in ("test", "Testing", "TEST", "test split", "testset", "PrivateTest")]
    + [(n, "") for n in ("happy", "tests", "trainer", "evaluate me", "1", "", "set", "fold1")],
)  # fmt: skip
def test_usual_names_of_splits(name, split):
    assert listed.split_of(name) == split


@pytest.mark.parametrize(
    "names",
    [("train", "valid"), ("Training", "testing"), ("TRAIN", "dev", "Test"), ("train", "eval")],
)
def test_folders_and_lists_with_usual_names_of_splits(tmp_path, names):
    clips = [f"{name}/{label}/{name}{i}.mp4" for name in names for label in "ab" for i in (1, 2)]
    touch(tmp_path, *clips)
    found = splits_of(tmp_path)
    expected = {
        listed.split_of(n): sorted(c for c in clips if c.startswith(n + "/")) for n in names
    }
    assert found == expected
    lines = ["file,emotion,usage", *(f"{c},{c.split('/')[1]},{c.split('/')[0]}" for c in clips)]
    raw_trees.write_lines(tmp_path / "list.csv", lines)
    assert splits_of(tmp_path, csv="list.csv") == expected


def test_a_lone_folder_of_training_clips_is_divided_and_said(tmp_path):
    touch(tmp_path, *(f"train/{label}/{i}.mp4" for label in "ab" for i in range(5)))
    found = plan(tmp_path)
    assert found.classes == ("a", "b") and set(found.splits) == {"train", "test"}
    assert "the only folder is train, so it is divided" in found.notes


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("val", "test"), "none of them is for training; call one train"),
        (("train", "test", "other"), "move other into one of them"),
    ],
)
def test_splits_that_do_not_fit_are_refused(tmp_path, names, message):
    touch(tmp_path, *(f"{name}/{label}/1.mp4" for name in names for label in "ab"))
    with pytest.raises(ValueError, match=message):
        plan(tmp_path)


def test_a_test_folder_beside_the_classes_is_refused(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/1.mp4", "test/a/1.mp4", "test/b/2.mp4")
    with pytest.raises(ValueError, match="its folders are splits; move a, b into one of them"):
        plan(tmp_path)


def test_classes_may_be_called_like_splits(tmp_path):
    touch(tmp_path, *(f"{label}/{i}.mp4" for label in ("test", "other") for i in range(3)))
    assert plan(tmp_path).classes == ("other", "test")


# Persons.


def persons_tree(root, persons=6, classes="abc", clips=3):
    names = [
        f"{label}/p{person}/{i}.mp4"
        for label in classes for person in range(persons) for i in range(clips)
    ]  # fmt: skip
    touch(root, *names)
    return names


def persons(entries):
    return {clip.split("/")[1] for clip in entries}


@pytest.mark.parametrize("percent", [10, 20, 50, 90])
def test_folders_of_persons_are_found_and_kept_apart(tmp_path, percent):
    names = persons_tree(tmp_path)
    found = splits_of(tmp_path, test_percent=percent)
    assert sorted(found["train"] + found["test"]) == sorted(names)
    assert persons(found["train"]) | persons(found["test"]) == {f"p{i}" for i in range(6)}
    assert not persons(found["train"]) & persons(found["test"])
    assert len(persons(found["test"])) == max(1, min(5, round(6 * percent / 100)))
    assert "6 persons, the folders below the classes" in plan(tmp_path).notes


def test_persons_stay_apart_at_any_depth_and_with_clips_beside_them(tmp_path):
    names = [f"{c}/p{i}/session{s}/take{s}.mp4" for c in "ab" for i in range(5) for s in (1, 2)]
    touch(tmp_path, *names, "a/alone.mp4", "b/other.mp4")
    found = splits_of(tmp_path)
    named = {split: {c.split("/")[1] for c in clips if "/p" in c} for split, clips in found.items()}
    assert not named["train"] & named["test"] and len(found["train"] + found["test"]) == 22
    assert (
        "5 persons, the folders below the classes; 2 clips lie beside them" in plan(tmp_path).notes
    )


def test_a_person_per_class_leaves_a_clip_for_training(tmp_path):
    touch(
        tmp_path, "a/p1/1.mp4", "a/p2/2.mp4", "b/p3/3.mp4", "b/p4/4.mp4", "c/p5/5.mp4", "c/p5/6.mp4"
    )
    found = splits_of(tmp_path)
    assert {c[0] for c in found["train"]} == set("abc") and {c[0] for c in found["test"]} == set(
        "ab"
    )


@pytest.mark.parametrize("inner", ["videos", "{label}_clips"])
def test_one_folder_in_each_class_is_no_person(tmp_path, inner):
    names = [f"{c}/{inner.format(label=c)}/{i}.mp4" for c in "ab" for i in range(5)]
    touch(tmp_path, *names)
    found = plan(tmp_path)
    assert {s: len(e) for s, e in found.splits.items()} == {"train": 8, "test": 2}
    assert any("not taken for persons" in note for note in found.notes)


def test_persons_above_the_classes_are_read_if_the_classes_are_named(tmp_path):
    names = [f"s{i}/{c}/{k}.mp4" for i in range(5) for c in ("glad", "sad") for k in (1, 2)]
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match=r"look like persons.*--config.build.classes=glad,sad"):
        plan(tmp_path)
    found = splits_of(tmp_path, classes="glad,sad")
    who = {split: {c.split("/")[0] for c in clips} for split, clips in found.items()}
    assert not who["train"] & who["test"] and who["train"] | who["test"] == {
        f"s{i}" for i in range(5)
    }


def test_persons_in_a_list_are_kept_apart_and_told_if_given_splits_do_not(tmp_path):
    names = [f"{i}.mp4" for i in range(20)]
    touch(tmp_path, *names)
    lines = ["video;expression;speaker", *(f"{i}.mp4;{'ab'[i % 2]};S{i // 4}" for i in range(20))]
    raw_trees.write_lines(tmp_path / "list.csv", lines)
    found = splits_of(tmp_path, csv="list.csv")
    who = {s: {int(c.split(".")[0]) // 4 for c in clips} for s, clips in found.items()}
    assert not who["train"] & who["test"] and who["train"] | who["test"] == set(range(5))
    lines = ["video,expression,speaker,set"]
    lines += [f"{i}.mp4,{'ab'[i % 2]},S{i // 4},{'train' if i < 15 else 'test'}" for i in range(20)]
    raw_trees.write_lines(tmp_path / "list.csv", lines)
    notes = plan(tmp_path, csv="list.csv").notes
    (warning,) = (note for note in notes if "WARNING" in note and "persons" in note)
    assert "1 of 5 persons are in several of the given splits, such as S3 (train, test)" in warning


def test_nobody_can_be_held_out_is_one_line(tmp_path):
    touch(tmp_path, *(f"{i}.mp4" for i in range(4)))
    lines = ["path,label,person", "0.mp4,a,x", "1.mp4,a,x", "2.mp4,b,x", "3.mp4,b,x"]
    raw_trees.write_lines(tmp_path / "list.csv", lines)
    with pytest.raises(ValueError, match=r"no person can be held out .*test_percent=0") as error:
        plan(tmp_path, csv="list.csv")
    assert "\n" not in str(error.value)
    assert set(plan(tmp_path, csv="list.csv", test_percent=0).splits) == {"train"}


def test_the_built_records_know_who_belongs_together(tmp_path):
    for label in ("calm", "glad"):
        for person in ("ann", "bob", "eve"):
            clip = tmp_path / "raw" / label / person / "1"
            raw_trees.write_clip(clip, lambda i: f"{i}.png", frames=3, label=0, size=32)
    found = raw_trees.build(video_folder, tmp_path, source_dir=str(tmp_path / "raw"))
    records = raw_trees.read(found, "train") | raw_trees.read(found, "test")
    assert {c: r["group"].decode() for c, r in records.items()} == {
        c: f"person {c.split('/')[1]}" for c in records
    }
    plain = raw_trees.make_video_folder(tmp_path / "plain", frames=3, size=32)
    found = raw_trees.build(video_folder, tmp_path / "b", source_dir=str(tmp_path / "plain"))
    assert plain and "group" not in found.info.features


# What is no clip.

LEFT = (
    "happy/@eaDir/c0.avi/SYNOPHOTO_THUMB_M.jpg", "@eaDir/happy/x.mp4", "#recycle/happy/old.mp4",
    ".AppleDouble/x.mp4", "__MACOSX/happy/._c0.avi", "happy/Thumbs.db", "sad/desktop.ini",
    "$RECYCLE.BIN/S-1/x.mp4", "happy/._c0.avi", "sad/c9.mp4.part", "~$list.xlsx", ".git/HEAD",
    "happy/frames/Thumbs.db", "happy/frames/._0.png", "System Volume Information/x.mp4",
)  # fmt: skip


def test_housekeeping_is_passed_over_and_counted(tmp_path):
    clips = [f"{label}/c{i}.avi" for label in ("happy", "sad") for i in range(4)]
    touch(tmp_path, *clips, "happy/frames/0.png", "happy/frames/1.png")
    before = splits_of(tmp_path)
    touch(tmp_path, *LEFT)
    found = plan(tmp_path)
    assert splits_of(tmp_path) == before and found.classes == ("happy", "sad")
    (note,) = (n for n in found.notes if "passed over, files of file servers" in n)
    assert ": 15, such as " in note


def test_a_video_is_known_without_its_suffix(tmp_path):
    """Recorders omit it, and copies get a number behind it; a low-resolution proxy (.LRV) is no clip."""
    raw_trees.write_video(tmp_path / "a.mp4", frames=3, label=0, size=32)
    data = (tmp_path / "a.mp4").read_bytes()
    for label in ("calm", "glad"):
        (tmp_path / "raw" / label).mkdir(parents=True)
        for name in ("ch01_2024", "b.mp4.1", "c.MP4 (2)", "d.2024-01-05", "e.dhav", "f.LRV"):
            (tmp_path / "raw" / label / name).write_bytes(data)
        (tmp_path / "raw" / label / "README").write_text("not a video")
    found = plan(tmp_path / "raw")
    names = {e.clip_id.split("/")[1] for clips in found.splits.values() for e in clips}
    assert names == {"ch01_2024", "b.mp4.1", "c.MP4 (2)", "d.2024-01-05", "e.dhav"}
    assert any("not clips: 4, such as 'calm/README'" in note for note in found.notes)
    assert len(sources.find(tmp_path / "raw")) == 10


def test_housekeeping_is_no_frame_of_a_built_clip(tmp_path):
    root = tmp_path / "raw"
    raw_trees.make_video_folder(
        root, classes=("calm", "glad"), clips_per_class=3, frames=4, size=32
    )
    for name in ("Thumbs.db", "._f0.png", "@eaDir/f0.png/SYNOPHOTO_THUMB_M.jpg", "f9.png.part"):
        touch(root / "calm/clip0", name)
    found = raw_trees.build(video_folder, tmp_path, source_dir=str(root))
    records = raw_trees.read(found, "train") | raw_trees.read(found, "test")
    assert len(records["calm/clip0"]["frames"]) == 4 and len(records) == 6


def test_data_sets_and_runs_inside_the_folder_are_no_classes(tmp_path):
    raw_trees.make_video_folder(
        tmp_path, classes=("calm", "glad"), clips_per_class=2, frames=3, size=32
    )
    options = {"source_dir": str(tmp_path)}
    first = builder.build("video_folder", tmp_path / "tfds", options=options)
    touch(tmp_path / "runs/mine", "config.json", "data.json", "parameters.txt", "curves.png")
    touch(tmp_path / "runs/mine/predict/a.mp4", "prediction.json", "frames.csv", "timeline.png")
    shutil.rmtree(first)
    again = builder.build("video_folder", tmp_path / "tfds", options=options)
    assert {p.name: p.stat().length for p in again.glob("*.array_record*")}
    elsewhere = builder.build("video_folder", tmp_path / "x" / "y" / "tfds", options=options)
    assert elsewhere.exists()
    found = plan(tmp_path)
    assert found.classes == ("calm", "glad")
    assert any("passed over, results of this program: 3" in note for note in found.notes)


def test_a_picture_beside_videos_is_no_clip_and_stops_nothing(tmp_path):
    clips = [f"{label}/{i}.mp4" for label in "ab" for i in range(3)]
    touch(
        tmp_path, *clips, "a/cover.png", "b/p1/poster.jpg", "b/p1/9.mp4", "b/p2/8.mp4", "a/p1/7.mp4"
    )
    found = plan(tmp_path)
    assert not any(
        ".png" in c or ".jpg" in c for clips in splits_of(tmp_path).values() for c in clips
    )
    (note,) = (n for n in found.notes if n.startswith("ignored pictures beside clips"))
    assert note.endswith(": 2, such as 'a/cover.png'")


def test_pictures_above_videos_are_refused_because_they_may_be_frames(tmp_path):
    touch(tmp_path, "a/p/1.png", "a/p/2.png", "a/p/take/1.mp4", "b/1.mp4")
    with pytest.raises(
        ValueError, match=r"a/p: holds 2 pictures and, deeper, videos such as take/1.mp4"
    ):
        plan(tmp_path)


def test_folders_inside_of_a_clip_are_counted(tmp_path):
    touch(
        tmp_path, "a/c/1.png", "a/c/2.png", "a/c/landmarks/1.png", "b/d/frames/1.png", "b/e/e/1.png"
    )
    found = plan(tmp_path, test_percent=0)
    assert splits_of(tmp_path, test_percent=0) == {"train": ["a/c", "b/d", "b/e"]}
    assert any("ignored folders inside of clips" in note for note in found.notes)


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    touch(tmp_path, "a/p/1.mp4", "b/1.mp4")
    (tmp_path / "a/p/loop").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match="loop: a link to a folder that contains it"):
        plan(tmp_path)


# Twins, and classes that look the same.


def test_a_video_beside_its_own_frames_is_told_and_stays_in_one_split(tmp_path):
    for i in range(12):
        touch(tmp_path, f"a/clip{i}.avi", f"a/clip{i}/0.png", f"a/clip{i}/1.png", f"b/take{i}.mp4")
    for percent in (10, 30, 60):
        found = splits_of(tmp_path, test_percent=percent)
        stems = {s: {c.removesuffix(".avi") for c in clips} for s, clips in found.items()}
        assert not stems["train"] & stems["test"]
    assert any("the same name twice, as in a/clip0" in note for note in plan(tmp_path).notes)


def test_twins_in_two_given_splits_are_refused(tmp_path):
    touch(tmp_path, "a/x.avi", "a/x/0.png", "b/y.mp4")
    lines = ["path,label,split", "a/x.avi,a,train", "a/x,a,test", "b/y.mp4,b,train"]
    raw_trees.write_lines(tmp_path / "list.csv", lines)
    message = r"list.csv:3: a/x.avi and a/x have the same name, .*test and train"
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, csv="list.csv")


@pytest.mark.parametrize(
    "names",
    [
        *(("Happy", "happy"), ("very sad", "very_sad"), ("caf\u00e9", "cafe\u0301")),
        *(("3", "3.0"), ("3", "3,00"), ("glad", "\u200bglad")),
    ],
)
def test_classes_that_look_the_same_are_a_warning(tmp_path, names):
    touch(tmp_path, *(f"{name}/1.mp4" for name in names), "other/1.mp4")
    (warning,) = (note for note in plan(tmp_path).notes if "WARNING: the classes" in note)
    assert all(repr(name) in warning for name in names)


@pytest.mark.parametrize(
    "names",
    [
        [str(i) for i in range(12)],
        ["-2", "-1", "0", "1", "2", "10"],
        ["level 2", "level 10", "level 11"],
    ],
)
def test_classes_are_in_natural_order(tmp_path, names):
    touch(tmp_path, *(f"{name}/1.mp4" for name in names))
    assert plan(tmp_path).classes == tuple(names)


def test_few_clips_of_a_class_are_a_warning(tmp_path):
    touch(tmp_path, *(f"{label}/{i}.mp4" for label, n in (("a", 50), ("b", 12)) for i in range(n)))
    few = [note for note in plan(tmp_path).notes if "results mean little" in note]
    assert len(few) == 1 and "only 2 clips of b to test on" in few[0]
    touch(tmp_path, *(f"b/{i}.mp4" for i in range(12, 50)))
    assert not [note for note in plan(tmp_path).notes if "WARNING" in note]


def test_classes_one_folder_deeper_are_asked_about(tmp_path):
    touch(tmp_path, *(f"emotions/{label}/{i}.mp4" for label in ("glad", "sad") for i in range(3)))
    message = (
        f"with folders glad, sad; if these are the classes, set source_dir to {tmp_path}/emotions"
    )
    with pytest.raises(ValueError, match=message):
        plan(tmp_path)
    assert plan(tmp_path / "emotions").classes == ("glad", "sad")


def test_a_link_that_leads_nowhere_is_said_to(tmp_path):
    touch(tmp_path, *(f"{label}/{i}.mp4" for label in "ab" for i in range(3)))
    (tmp_path / "a/0.mp4").unlink()
    (tmp_path / "a/0.mp4").symlink_to("gone.mp4")
    entries = [
        e for split in plan(tmp_path).splits.values() for e in split if e.clip_id == "a/0.mp4"
    ]
    problem = frames.probe(entries[0].path).problem
    assert problem == f"{tmp_path}/a/0.mp4: cannot be read (No such file or directory)"


def test_a_folder_without_pictures_says_what_it_holds(tmp_path):
    touch(tmp_path, "a/IMG_1.heic", "a/IMG_2.heic")
    problem = frames.probe(str(tmp_path / "a")).problem
    assert problem.endswith("holds no frames (2 entries, such as IMG_1.heic, no picture)")


def test_the_table_shows_classes_as_they_are_called():
    text = counts.table(("N/A", "total"), {"train": (1, 2)}, {}, {})
    assert [line.split() for line in text.split("\n")] == [
        *(["clips", "train", "all"], ["N/A", "1", "1"]),
        *(["total", "2", "2"], ["total", "3", "3"]),
    ]


def test_a_folder_for_data_sets_that_cannot_be_made_is_named(tmp_path):
    touch(tmp_path / "in", *CLIPS)
    (tmp_path / "file").touch()
    message = f"config.data.dir: {tmp_path}/file/video_folder/default cannot be created .Not a dir"
    with pytest.raises(OSError, match=message):
        builder.build(
            "video_folder", tmp_path / "file", options={"source_dir": str(tmp_path / "in")}
        )


# Lists.

CLIPS = [f"a/clip{i}.mp4" for i in range(3)] + [f"b/clip{i}.mp4" for i in range(3)]
TRUTH = {clip: clip[0] for clip in CLIPS}


def truth(root, **options):
    return raw_trees.truth_of(plan(root, **{"test_percent": 0, **options}))["train"]


@pytest.mark.parametrize(
    ("header", "order"),
    [
        ("filename,emotion", "cl"),
        ("File,Label", "cl"),
        ("video;class", "cl"),
        ("clip\texpression", "cl"),
        ("label,path", "lc"),
        ("id,clip_id,Emotion", "ncl"),
        (",Emotion Label,note,file_name", "nlnc"),
    ],
)
def test_usual_names_of_columns_and_separators(tmp_path, header, order):
    touch(tmp_path, *CLIPS)
    separator = next(s for s in ";\t," if s in header)
    rows = []
    for i, clip in enumerate(CLIPS):
        cells = {"c": clip, "l": TRUTH[clip], "n": str(i)}
        rows.append(separator.join(cells[kind] for kind in order))
    raw_trees.write_lines(tmp_path / "list.csv", [header, *rows])
    assert truth(tmp_path, csv="list.csv") == TRUTH


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.json", b'[\n {"path": "glad/1.mp4", "label": "glad"}\n]', "JSON"),
        ("a.jsonl", b'{"path": "glad/1.mp4", "label": "glad"}\n', "JSON"),
        ("a.parquet", b"PAR1\x15\4" + bytes(99), "a Parquet table"),
        (
            "a.xls",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
            "an office document of before 2007",
        ),
        ("a.xls", b"<html><table><tr><td>path</td></tr></table>", "a page of the web"),
        ("a.ods", b"PK\3\4" + bytes(99), r"an archive \(ZIP\) or an office document"),
        ("a.eaf", b'<?xml version="1.0"?><ANNOTATION_DOCUMENT/>', "an XML document"),
    ],
)
def test_a_list_of_another_kind_is_named_with_what_to_do(tmp_path, name, data, what):
    (tmp_path / name).write_bytes(data)
    message = rf"{name}: expected a list as .csv or .xlsx, got {what}.*save a table as .csv.*to_csv"
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, csv=name)


def test_folders_called_like_the_start_of_another_format_are_folders(tmp_path):
    clips = {"PAR1/1.mp4": "glad", "ID3/2.mp4": "glad", "flac/3.mp4": "sad", "Rar/4.mp4": "sad"}
    touch(tmp_path, *clips)
    raw_trees.write_lines(tmp_path / "list.csv", [f"{c},{label}" for c, label in clips.items()])
    assert truth(tmp_path, csv="list.csv") == clips


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_lists_as_excel_writes_them(tmp_path, encoding, separator):
    names = ["fröhlich/café, 1.mp4", "fröhlich/2.mp4", "müde/Grüße.mp4"]
    touch(tmp_path, *names)
    rows = [("filename", "emotion", "Notiz")]
    rows += [(f'"{name}"', name.split("/")[0], "größer") for name in names]
    lines = [separator.join(row) for row in rows]
    raw_trees.write_lines(tmp_path / "list.csv", lines, encoding=encoding, end="\r\n")
    assert truth(tmp_path, csv="list.csv") == {name: name.split("/")[0] for name in names}
    notes = plan(tmp_path, csv="list.csv", test_percent=0).notes
    assert "columns that are not used: Notiz" in notes
    told = any(note.startswith("list.csv: read as cp1252, such as 'fröhlich'") for note in notes)
    assert told == (encoding == "cp1252")


@pytest.mark.parametrize("text", ["a;1.mp4,a\nb;1.mp4,b\n", "a,1.mp4;a\nb,1.mp4;b\n"])
def test_without_a_header_the_separator_is_the_one_with_which_clips_are_found(tmp_path, text):
    touch(tmp_path, "a;1.mp4", "b;1.mp4") if "," in text[3:8] else touch(
        tmp_path, "a,1.mp4", "b,1.mp4"
    )
    (tmp_path / "list.csv").write_text(text)
    assert sorted(truth(tmp_path, csv="list.csv").values()) == ["a", "b"]
    assert all(len(clip) == 7 for clip in truth(tmp_path, csv="list.csv"))


def test_a_spreadsheet_is_a_list(tmp_path):
    touch(tmp_path, *CLIPS)
    raw_trees.write_table(tmp_path / "list.xlsx", [("file", "label"), *TRUTH.items()])
    assert truth(tmp_path, csv="list.xlsx") == TRUTH


def test_absolute_paths_into_the_folder_and_a_list_anywhere(tmp_path, monkeypatch):
    root, other = tmp_path / "mine", tmp_path / "other"
    touch(root, *CLIPS)
    raw_trees.write_lines(other / "list.csv", [f"{root / c},{TRUTH[c]}" for c in CLIPS])
    assert truth(root, csv=str(other / "list.csv")) == TRUTH
    monkeypatch.chdir(other)
    assert truth(root, csv="list.csv") == TRUTH  # from the current folder, as every path
    monkeypatch.setenv("HOME", str(tmp_path))
    raw_trees.write_lines(other / "list.csv", [f"~/mine/{c},{TRUTH[c]}" for c in CLIPS])
    assert truth("~/mine", csv="~/other/list.csv") == TRUTH
    raw_trees.write_lines(root / "list.csv", ["a/clip0.mp4,a"])
    with pytest.raises(ValueError, match=r"csv=list.csv: there is .*; give the whole path"):
        plan(root, csv="list.csv")
    raw_trees.write_lines(other / "out.csv", [f"{CLIPS[0]},a", f"{tmp_path}/x.mp4,b"])
    with pytest.raises(
        ValueError, match=r"out.csv:2: path '.*x.mp4' must be relative .* or lead into"
    ):
        plan(root, csv=str(other / "out.csv"))
    (tmp_path / "link").symlink_to(root)
    raw_trees.write_lines(other / "link.csv", [f"{tmp_path}/link/{c},{TRUTH[c]}" for c in CLIPS])
    assert truth(root, csv=str(other / "link.csv")) == TRUTH


def test_paths_that_start_elsewhere_are_found_and_told(tmp_path):
    root = tmp_path / "mine"
    touch(root, *CLIPS)
    raw_trees.write_lines(root / "list.csv", [f"mine/{c},{TRUTH[c]}" for c in CLIPS])
    assert truth(root, csv="list.csv") == TRUTH
    notes = plan(root, csv="list.csv", test_percent=0).notes
    assert f"the paths in list.csv start at the folder {tmp_path.name}" in notes
    raw_trees.write_lines(
        root / "a/list.csv", ["../a/clip0.mp4,a", "clip1.mp4,a", "../b/clip0.mp4,b"]
    )
    assert truth(root, csv="a/list.csv") == {
        "a/clip0.mp4": "a",
        "a/clip1.mp4": "a",
        "b/clip0.mp4": "b",
    }


def test_paths_without_suffix_and_with_backslashes(tmp_path):
    touch(tmp_path, *CLIPS, "b/two.mp4", "b/two.avi")
    lines = [c.removesuffix(".mp4").replace("/", "\\") + "," + TRUTH[c] for c in CLIPS]
    raw_trees.write_lines(tmp_path / "list.csv", ["file,label", *lines])
    assert truth(tmp_path, csv="list.csv") == TRUTH
    raw_trees.write_lines(tmp_path / "list.csv", ["file,label", *lines, "b/two,b"])
    with pytest.raises(
        ValueError, match=r"list.csv:8: 'b/two' may be two.avi or two.mp4; write the"
    ):
        plan(tmp_path, csv="list.csv")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("filename,feeling", r"list.csv:1: looks like a header, but no column of labels is known"),
        ("where,emotion", r"list.csv:1: looks like a header, but no column of paths is known"),
        ("where,feeling", r"list.csv:1: there is no clip 'where'. Is this line a header\?"),
        ("path,label,LABEL", r"list.csv:1: two columns 'label'"),
    ],
)
def test_a_header_that_is_not_known_is_asked_about(tmp_path, header, message):
    touch(tmp_path, *CLIPS)
    more = ",x" if header.count(",") == 2 else ""
    raw_trees.write_lines(
        tmp_path / "list.csv", [header, *(f"{c},{TRUTH[c]}{more}" for c in CLIPS)]
    )
    with pytest.raises(ValueError, match=message) as error:
        plan(tmp_path, csv="list.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("word", ["nan", "NaN", "N/A", "#N/A", "NULL", "NA"])
def test_what_programs_write_for_nothing_is_no_class_and_no_person(tmp_path, word):
    touch(tmp_path, *CLIPS)
    lines = [f"{c},{TRUTH[c]},{word}" for c in CLIPS]
    raw_trees.write_lines(tmp_path / "list.csv", ["path,label,person", *lines])
    assert truth(tmp_path, csv="list.csv") == TRUTH
    assert not any("person" in note for note in plan(tmp_path, csv="list.csv").notes)
    lines[2] = f"{CLIPS[2]},{word},x"
    raw_trees.write_lines(tmp_path / "list.csv", ["path,label,person", *lines])
    with pytest.raises(ValueError, match=f"list.csv:4: label '{word}' is what programs write"):
        plan(tmp_path, csv="list.csv")


@pytest.mark.parametrize(
    "address", ["file:///data/a.mp4", "https://example.com/a.mp4", "foo://a.mp4"]
)
def test_an_address_in_a_list_is_refused_in_one_line(tmp_path, address):
    touch(tmp_path, *CLIPS)
    lines = [f"{c},{TRUTH[c]}" for c in CLIPS]
    raw_trees.write_lines(tmp_path / "list.csv", ["path,label", *lines, f"{address},a"])
    with pytest.raises(ValueError, match=f"list.csv:8: {address}: ") as error:
        plan(tmp_path, csv="list.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("on_disk", "listed_as"),
    [
        ("a/caf\u00e9.mp4", "a/cafe\u0301.mp4"),
        ("a/cafe\u0301/1.MP4", "A/caf\u00e9/1.mp4"),
        ("A/Clip.mp4", "a\\clip"),
    ],
)
def test_names_in_another_spelling_are_found_and_told(tmp_path, on_disk, listed_as):
    """As macOS and Windows do, where such lists come from."""
    touch(tmp_path, on_disk, "b/1.mp4")
    raw_trees.write_lines(
        tmp_path / "list.csv", ["path,label", f"{listed_as},x", "b/1,y"], encoding="utf-8"
    )
    found = plan(tmp_path, csv="list.csv", test_percent=0)
    assert raw_trees.truth_of(found)["train"] == {on_disk: "x", "b/1.mp4": "y"}
    (note,) = (note for note in found.notes if "spelled" in note)
    assert note.startswith("list.csv: 1 paths are spelled in another way than on the disk")


def test_a_name_of_two_spellings_is_refused(tmp_path):
    touch(tmp_path, "a/Clip.mp4", "a/CLIP.mp4", "b/1.mp4")
    raw_trees.write_lines(tmp_path / "list.csv", ["path,label", "a/clip.mp4,x", "b/1.mp4,y"])
    with pytest.raises(ValueError, match=r"list.csv:2: 'a/clip.mp4' may be CLIP.mp4 or Clip.mp4"):
        plan(tmp_path, csv="list.csv")
    raw_trees.write_lines(
        tmp_path / "list.csv", ["path,label", "a/Clip.mp4,x", "a/CLIP.mp4,x", "b/1.mp4,y"]
    )
    assert len(truth(tmp_path, csv="list.csv")) == 3


def test_a_cell_with_the_separator_needs_quotes(tmp_path):
    touch(tmp_path, *CLIPS)
    raw_trees.write_lines(tmp_path / "list.csv", ["path,label", "a/clip0.mp4,a", "b/x, y.mp4,b"])
    with pytest.raises(
        ValueError, match=r"list.csv:3: 3 cells, but the header has 2: .*quote cells"
    ):
        plan(tmp_path, csv="list.csv")


def test_the_plan_does_not_depend_on_where_the_folder_is(tmp_path):
    for name in ("one", "two"):
        persons_tree(tmp_path / name)
    assert splits_of(tmp_path / "one") == splits_of(pathlib.Path(os.path.relpath(tmp_path / "two")))


# Tables as spreadsheets hold them.

ROWS = [("path", "label"), *(TRUTH.items())]


def workbook(path, rows, **others):
    """Writes a workbook; further sheets are given as their title and rows."""
    book = openpyxl.Workbook()
    for title, some in {"Clips": rows, **others}.items():
        sheet = book.create_sheet(title)
        for row in some:
            sheet.append(row)
        sheet.sheet_state = "hidden" if title == "old" else "visible"
    del book["Sheet"]
    book.save(path)


def test_a_sheet_of_notes_beside_the_table_does_not_matter(tmp_path):
    touch(tmp_path, *CLIPS)
    workbook(tmp_path / "list.xlsx", ROWS, Notes=[("ask Ann about clip 3",)])
    assert truth(tmp_path, csv="list.xlsx") == TRUTH
    workbook(tmp_path / "list.xlsx", ROWS, old=ROWS)
    with pytest.raises(ValueError, match=r"several sheets have cells: 'Clips', 'old' \(hidden\);"):
        plan(tmp_path, csv="list.xlsx")


DATE = datetime.datetime(2024, 1, 5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({1: ("a/clip0.mp4", DATE)}, r"list.xlsx:2: 2024-01-05 00:00:00 is a date"),
        (
            {2: ("a/clip1.mp4", None)},
            r"list.xlsx:3: expected a label, got none: .* a merged cell has",
        ),
        ({2: (None, "a")}, r"list.xlsx:3: expected a path, got none: .* a formula none until"),
        (
            {0: ("My clips",), 1: ("path", "label")},
            r"list.xlsx:1: expected a header, which is .*:2: 'path",
        ),
    ],
)
def test_cells_that_a_spreadsheet_shows_otherwise_are_told(tmp_path, changed, message):
    touch(tmp_path, *CLIPS)
    rows = [changed.get(number, row) for number, row in enumerate(ROWS)]
    workbook(tmp_path / "list.xlsx", rows)
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, csv="list.xlsx")


@pytest.mark.parametrize(
    ("head", "line", "message"),
    [
        ("", "{label},{clip}", r"list.csv:1: the paths are in column 2: .* that names the columns"),
        ("", "{number},{clip},{label}", r"list.csv:1: the paths are in column 2"),
        (
            "# mine\npath,label\n",
            "{clip},{label}",
            r"list.csv:1: expected a header, which is .*csv:2",
        ),
        (
            "path,label,start\n",
            "a/clip0.mp4,{label},{number}",
            r"already listed .*: cut a recording",
        ),
        ("path,label\n", "{clip},{number}.25", r"list.csv:2: label '0.25' is a measured value"),
    ],
)
def test_a_table_of_another_order_is_refused_and_what_is_wrong_is_said(
    tmp_path, head, line, message
):
    touch(tmp_path, *CLIPS)
    lines = [line.format(clip=c, label=TRUTH[c], number=n) for n, c in enumerate(CLIPS)]
    (tmp_path / "list.csv").write_text(head + "\n".join(lines))
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, csv="list.csv")


def test_columns_of_times_are_a_warning(tmp_path):
    touch(tmp_path, *CLIPS)
    lines = [f"{c},{TRUTH[c]},0.5,2" for c in CLIPS]
    raw_trees.write_lines(tmp_path / "list.csv", ["path,label,start_time,End", *lines])
    assert any(
        "WARNING: clips are stored whole, whatever start_time, End say" in note
        for note in plan(tmp_path, csv="list.csv").notes
    )


def test_a_data_set_that_is_built_already_is_told(tmp_path, capsys, monkeypatch):
    raw_trees.make_video_folder(tmp_path / "raw", clips_per_class=3, frames=3, size=32)
    options = {"source_dir": str(tmp_path / "raw")}
    builder.build("video_folder", tmp_path / "data", options=options, tells=True)
    assert "built already" not in capsys.readouterr().out
    builder.build("video_folder", tmp_path / "data", options=options, tells=True)
    assert "is built already. If the original files have changed" in capsys.readouterr().out
