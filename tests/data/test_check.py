"""The check of a data set: that it finds each kind of damage, and nothing where there is none."""

import json
import shutil

import cv2
import numpy as np
import pytest
import raw_trees

from data import builder, check, duplicates, frames
from data.synthetic_faces import clips
from data.synthetic_faces.parameters import Parameters

DRAWN = Parameters(num_train=10, num_test=4, num_frames=18, image_size=112)


def drawn(number):
    """Frames of a drawn clip, each different from the others, blue first."""
    return [frame[..., ::-1] for frame in clips.render_clip(DRAWN, "train", number).frames]


def write(folder, pictures, suffix=".png", size=None, first=0):
    folder.mkdir(parents=True)
    for i, picture in enumerate(pictures[first:]):
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if size else picture
        assert cv2.imwrite(str(folder / f"{i}{suffix}"), picture)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)


@pytest.fixture
def tree(tmp_path):
    """Two classes in train and test, no two clips alike, all of 18 frames."""
    number = 0
    for split, count in (("train", 3), ("test", 2)):
        for name in ("calm", "cross"):
            for i in range(count):
                write(tmp_path / "mine" / split / name / f"clip{i}", drawn(number))
                number += 1
    return tmp_path / "mine"


def checked(tree, **options):
    return check.check_raw("video_folder", {"source_dir": str(tree), **options})


def test_a_sound_data_set_ok_raw_and_built(tree, tmp_path, capsys):
    found = checked(tree)
    assert found.ok and not found.problems
    assert found.counts == {"train": {"calm": 3, "cross": 3}, "test": {"calm": 2, "cross": 2}}
    assert found.text().endswith("no problems found") and "under 16 frames" in found.table
    builder.build("video_folder", tmp_path / "tfds", options={"source_dir": str(tree)})
    built = check.check_built("video_folder", tmp_path / "tfds")
    assert built.ok and built.counts == found.counts
    assert json.loads(json.dumps(built.json()))["ok"] is True


def test_an_unreadable_frame_and_a_missing_clip_are_named(tree):
    (tree / "train/calm/clip1/4.png").write_bytes(b"no picture")
    (tree / "list.csv").write_text(
        "path,label,split\ntrain/calm/clip1,calm,train\ntrain/calm/gone,calm,train\n"
        "train/cross/clip0,cross,train\ntest/calm/clip0,calm,test\ntest/cross/clip0,cross,test\n"
    )
    found = checked(tree, csv="list.csv")
    assert not found.ok
    (lines,) = found.problems.values()
    assert any("clip1/4.png" in line and "not a readable image" in line for line in lines)
    assert any("train/calm/gone: no folder or video" in line for line in lines)
    assert len(lines) == 2
    # The clip with one bad frame is still a clip; the missing one is not.
    assert found.counts["train"] == {"calm": 1, "cross": 1}
    assert "PROBLEM: 2 clips are missing" in found.text() and found.text().endswith(
        "\n2 problems found"
    )


def test_a_cut_off_video_is_named(tmp_path):
    for name in ("calm", "cross"):
        for split in ("train", "test"):
            raw_trees.write_video(
                tmp_path / split / name / f"{split}.avi",
                frames=20 + len(name + split), label=len(name), size=48,
            )  # fmt: skip
    video = tmp_path / "train/calm/train.avi"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 3])
    lines = checked(tmp_path).problems["clips are missing, unreadable, damaged or log footage"]
    assert len(lines) == 1 and "train.avi" in lines[0]


@pytest.mark.parametrize("how", ["copied", "smaller and compressed", "larger"])
def test_the_same_clip_in_two_splits_is_found(tree, how):
    if how == "copied":
        shutil.copytree(tree / "train/calm/clip1", tree / "test/calm/again")
    elif how == "larger":
        write(tree / "test/calm/again", drawn(1), size=(200, 200))
    else:
        write(tree / "test/calm/again", drawn(1), suffix=".jpg", size=(64, 64))
    found = checked(tree)
    (line,) = found.problems.pop("groups of clips are in several splits")
    assert "train/calm/clip1" in line and "test/calm/again" in line
    assert line.startswith("same files" if how == "copied" else "look alike")
    assert not found.problems


def test_the_same_clip_twice_in_one_split_is_a_note(tree):
    shutil.copytree(tree / "train/calm/clip1", tree / "train/calm/again")
    found = checked(tree)
    assert found.ok
    assert "groups of identical or similar clips within one split: 1" in found.text()


def test_the_same_clip_with_two_labels_is_told(tree):
    shutil.copytree(tree / "train/calm/clip1", tree / "train/cross/again")
    assert "same files with different labels: train train/calm/clip1" in checked(tree).text()


def test_short_clips_are_counted_but_no_problem(tree):
    shutil.rmtree(tree / "test/cross/clip1")
    write(tree / "test/cross/clip1", drawn(9), first=10)
    found = checked(tree)
    assert found.ok
    (row,) = (line for line in found.table.splitlines() if line.startswith("under 16"))
    assert row.split()[-3:] == ["0", "1", "1"]


def test_counts_are_compared_with_the_published_ones(tmp_path):
    raw_trees.make_dfew(tmp_path / "DFEW", clips_per_class_per_fold=1)
    found = check.check_raw("dfew", {"source_dir": str(tmp_path / "DFEW")})
    differing = found.problems["counts differ from the published ones"]
    assert "fold1, happy: 1, published 489" in differing
    assert "fold5, total: 7, published 2336" in differing
    assert "all, total: 35, published 11697" in differing
    assert "1 / 489 *" in found.table
    # The tree draws every clip of a class alike, and most classes nearly so.
    groups = found.problems["groups of clips are in several splits"]
    assert {line.partition(":")[0] for line in groups} <= {"look alike", "same files"}
    # The first two are of different splits, and the splits of the others are told.
    long = [line for line in groups if " more (" in line]
    for line in long:
        named = line.partition(": ")[2].partition(" and ")[0].split(", ")
        assert named[0].split()[0] != named[1].split()[0]
        told = [part.split(" in ") for part in line.partition("more (")[2].rstrip(")").split(", ")]
        others = int(line.partition(" and ")[2].split()[0])
        assert sum(int(number) for number, _ in told) == len(named) + others
        assert {split for _, split in told} == {f"fold{i}" for i in range(1, 6)}
    assert long


def test_a_damaged_record_and_clips_left_out_are_found_in_a_built_set(tree, tmp_path, monkeypatch):
    shutil.rmtree(tree / "train/calm/clip1")
    (tree / "train/calm/clip1").mkdir()  # a clip without frames
    monkeypatch.setattr(frames, "store_picture", lambda data, *_: data[:40])
    options = {"source_dir": str(tree), "allow_missing": True}
    builder.build("video_folder", tmp_path / "tfds", options=options)
    found = check.check_built("video_folder", tmp_path / "tfds")
    assert found.problems["clips were left out when it was built"] == ["train/calm/clip1"]
    unreadable = found.problems["clips are missing, unreadable, damaged or log footage"]
    assert len(unreadable) == 9 * 18
    assert any("test/cross/clip1: frame 17" in line for line in unreadable)


def test_what_is_not_there_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dfew/default/1.0.0: no finished .*`rdfer build`"):
        check.check_built("dfew", tmp_path)
    with pytest.raises(ValueError, match=r"unknown data set 'dfw'\. Did you mean 'dfew'\?"):
        check.check_built("dfw", tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check.check_raw("dfew", {"source_dir": str(tmp_path / "nowhere")})


def test_alike_equals_a_slow_count():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**63, (150, 3), np.uint64)
    words[140] = words[3] ^ np.uint64(0b1011)
    words[80:83] = words[20]
    expected = []
    for i in range(150):
        for j in range(i + 1, 150):
            bits = sum(int(a ^ b).bit_count() for a, b in zip(words[i], words[j], strict=True))
            if bits <= 9:
                expected.append((i, j, bits))
    assert sorted(duplicates.alike(words, 9)) == expected and (3, 140, 3 * 3) in expected
