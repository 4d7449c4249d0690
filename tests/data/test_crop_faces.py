"""A build with crop_faces stores the faces, and says what it found."""

import os
import pathlib

import cv2
import numpy as np
import pytest
import raw_trees
from drawn_faces import drawn, in_scene, write_video

from data import recorded, workers
from data.video_folder import video_folder_dataset_builder as video_folder
from rdfer_jax.media.images import decode_jpeg
from rdfer_jax.pipeline import source

FRAMES = 10
SCENE = (240, 480)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 10**9)


def moving(index):
    """A drawn face that moves to the right."""
    return [in_scene(drawn(index), (30, 40 + 6 * i), SCENE)[0] for i in range(FRAMES)]


def two_faces():
    left = moving(3)
    for frame in left:
        frame[150:230, 380:460] = cv2.resize(drawn(1), (80, 80), interpolation=cv2.INTER_AREA)
    return left


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Clips by name: one face, a face in pictures, two faces, none, one that goes away."""
    root = tmp_path_factory.mktemp("raw")
    write_video(root / "train" / "glad" / "one.mp4", moving(5))
    write_video(root / "train" / "tense" / "two.mp4", two_faces())
    write_video(
        root / "train" / "tense" / "none.mp4", [np.full((*SCENE, 3), 90, np.uint8)] * FRAMES
    )
    goes = moving(1)[:6] + [np.full((*SCENE, 3), 120, np.uint8)] * 4
    write_video(root / "test" / "glad" / "goes.mp4", goes)
    folder = root / "test" / "tense" / "pictures"
    folder.mkdir(parents=True)
    for i, frame in enumerate(moving(2)):
        cv2.imwrite(str(folder / f"{i}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return root


def build(tree, folder, **options):
    options = {"crop_faces": True, "short_side": 64, "allow_missing": True} | options
    return raw_trees.build(video_folder, folder, source_dir=str(tree), **options)


@pytest.fixture(scope="module")
def built(tree, tmp_path_factory):
    return build(tree, tmp_path_factory.mktemp("built"))


def frames_of(builder, split, name):
    return [decode_jpeg(jpeg) for jpeg in raw_trees.read(builder, split)[name]["frames"]]


@pytest.mark.parametrize(
    ("split", "name", "index"),
    [
        ("train", "train/glad/one.mp4", 5),
        ("train", "train/tense/two.mp4", 3),
        ("test", "test/tense/pictures", 2),
    ],
)
def test_the_largest_face_is_stored_as_it_was_drawn(built, split, name, index):
    frames = frames_of(built, split, name)
    assert len(frames) == FRAMES
    face = cv2.resize(drawn(index), (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    for frame in frames:
        assert frame.shape == (64, 64, 3)
        inside = (slice(8, 56), slice(8, 56))
        shared = np.corrcoef(frame[inside].ravel(), face[inside].ravel())[0, 1]
        assert shared > 0.5, shared
    # The scene moves 54 pixels, a third of the face; the crops follow it.
    first, last = frames[1].astype(float), frames[-2].astype(float)
    assert np.abs(first - last).mean() < 12


def test_frames_without_the_face_are_left_out_and_counted(built):
    assert len(frames_of(built, "test", "test/glad/goes.mp4")) == 6
    assert built.info.metadata["face_search"]["frames_without"] == 4


def test_clips_without_a_face_and_with_several_are_named(built):
    metadata = built.info.metadata
    assert metadata["face_search"]["none"] == ["train/tense/none.mp4"] == metadata["missing_clips"]
    assert metadata["face_search"]["several"] == ["train/tense/two.mp4"]
    summary = built.summary()
    assert "faces cut by blazeface, margin 0.1, aligned by the eyes, 64 pixels" in summary
    assert "no face, left out: 1 clips: train/tense/none.mp4" in summary
    assert "several faces, largest stored: 1 clips: train/tense/two.mp4" in summary
    assert "frames that do not show the face, left out: 4" in summary


def test_how_faces_were_cut_is_remembered(built, tree, tmp_path):
    faces = source.faces(pathlib.Path(built.data_dir))
    assert faces == {
        "by": "build", "detector": "blazeface", "min_face": 0.1, "margin": 0.1, "align": True, "yunet": "",
        "size": 64,
    }  # fmt: skip
    assert built.info.metadata["options"]["face_margin"] == 0.1
    whole = build(tree, tmp_path, crop_faces=False)
    assert source.faces(pathlib.Path(whole.data_dir)) == {"by": "nobody"}
    assert "face_search" not in whole.info.metadata and "faces cut" not in whole.summary()


def test_a_clip_without_a_face_stops_the_build_like_a_missing_one(tree, tmp_path):
    with pytest.raises(recorded.MissingClipsError) as error:
        build(tree, tmp_path, allow_missing=0)
    assert "1 of 5 clips are missing, unreadable or without a face" in str(error.value)
    assert "train/tense/none.mp4: no face was found" in str(error.value)


def many(folder, pictures):
    for name, index in (("a", 5), ("b", 1)):
        for part in ("train", "test"):
            write_video(folder / part / name / "clip.mp4", pictures(index))
    return folder


def test_auto_cuts_faces_where_the_clips_show_more_than_a_face(tmp_path):
    clips = many(tmp_path / "scenes", moving)
    auto = build(clips, tmp_path / "auto", crop_faces="auto")
    assert source.faces(pathlib.Path(auto.data_dir))["by"] == "build"
    assert "crop_faces: a face in 4 of 4 clips looked at; it fills" in auto.summary()
    assert "so faces are cut out" in auto.summary()
    by_hand = build(clips, tmp_path / "by_hand")
    for split in ("train", "test"):
        assert raw_trees.read(auto, split).keys() == raw_trees.read(by_hand, split).keys()
        for name, record in raw_trees.read(auto, split).items():
            assert list(record["frames"]) == list(raw_trees.read(by_hand, split)[name]["frames"])


@pytest.mark.parametrize(
    ("is_scene", "why"), [(False, "stored as they are"), (True, "whole frames")]
)
def test_auto_leaves_faces_and_clips_without_one_as_they_are(tree, tmp_path, is_scene, why):
    faces = tree if is_scene else many(tmp_path / "faces", lambda index: [drawn(index)] * FRAMES)
    auto = build(faces, tmp_path, crop_faces="auto", allow_missing=0)
    assert source.faces(pathlib.Path(auto.data_dir)) == {"by": "nobody"}
    number = "4 of 5" if is_scene else "4 of 4"
    assert f"crop_faces: a face in {number} clips looked at" in auto.summary()
    assert why in auto.summary()
    assert len(raw_trees.read(auto, "train")) == (3 if is_scene else 2)


@pytest.mark.slow
def test_worker_processes_store_the_same_bytes(built, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    again = build(tree, tmp_path)
    folders = [pathlib.Path(builder.data_dir) for builder in (built, again)]
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert one == two


def test_clips_that_come_cropped_are_remembered_as_such(tmp_path):
    from data.ferv39k import ferv39k_dataset_builder as ferv39k

    raw_trees.make_ferv39k(tmp_path / "raw")
    builder = raw_trees.build(ferv39k, tmp_path, source_dir=str(tmp_path / "raw"))
    assert source.faces(pathlib.Path(builder.data_dir)) == {"by": "distributor"}
