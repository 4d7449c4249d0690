import ast
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import raw_trees
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from data import builder as build_lib
from data import counts, frames, plans, recorded, workers
from data.video_folder import video_folder_dataset_builder as video_folder


def _entries(names):
    return [plans.Entry(name, 0, "") for name in names]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 10**9)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    raw_trees.make_video_folder(root, clips_per_class=8, frames=18)
    return root


def _files(builder):
    folder = pathlib.Path(builder.data_dir)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_rebuild_is_identical_with_and_without_processes(tree, tmp_path, monkeypatch):
    alone = _files(raw_trees.build(video_folder, tmp_path / "a", source_dir=str(tree)))
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    moved = tree.rename(tree.with_name("elsewhere"))
    try:
        shared = _files(raw_trees.build(video_folder, tmp_path / "b", source_dir=str(moved)))
    finally:
        moved.rename(tree)
    assert alone == shared
    assert "metadata.json" in alone and "dataset_info.json" in alone
    assert not [name for name, data in alone.items() if str(tmp_path).encode() in data]
    assert not [name for name, data in alone.items() if str(tree.parent).encode() in data]


def test_splits_of_any_size_need_no_tensorflow(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "Shuffler", None)  # needs TensorFlow from 1 GB on
    builder = raw_trees.build(video_folder, tmp_path, source_dir=str(tree))
    assert len(raw_trees.read(builder, "train")) == 18


def test_several_shards_read_back_as_one_split(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(recorded.shards, "__defaults__", (40,))
    builder = raw_trees.build(video_folder, tmp_path, source_dir=str(tree))
    assert len(builder.info.splits["train"].shard_lengths) == 9
    assert len(raw_trees.read(builder, "train")) == 18


def test_an_interrupted_build_leaves_nothing_that_looks_finished(tree, tmp_path, monkeypatch):
    calls = []

    def interrupt(job):
        calls.append(job)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return frames.Converted(frames=(b"x",))

    with monkeypatch.context() as patch:
        patch.setattr(frames, "convert", interrupt)
        with pytest.raises(KeyboardInterrupt):
            raw_trees.build(video_folder, tmp_path, source_dir=str(tree))
    assert not list(tmp_path.rglob("1.0.0")) and not list(tmp_path.rglob("*.json"))
    builder = raw_trees.build(video_folder, tmp_path, source_dir=str(tree))
    assert raw_trees.levels_rise(next(iter(raw_trees.read(builder, "train").values())))


def test_a_finished_data_set_opens_without_its_source(tree, tmp_path):
    built = raw_trees.build(video_folder, tmp_path, source_dir=str(tree))
    options = video_folder.Options(name="small", source_dir=str(tmp_path / "gone"))
    again = video_folder.Builder(data_dir=tmp_path, config=options)
    assert again.info.features["label"].names == ["calm", "glad", "tense"]
    assert again.summary() == built.summary()
    assert again.info.metadata["options"] == options.content()


def test_the_content_options_leave_out_where_the_source_lies():
    options = video_folder.Options(name="x", source_dir="/somewhere", classes="b, a", short_side=64)
    assert options.content() == {
        "short_side": 64,
        "jpeg_quality": 95,
        "allow_missing": 0,
        "crop_faces": False,
        "classes": ["b", "a"],
        "csv": "",
        "test_percent": 20.0,
        "max_fps": 0.0,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"short_side": 8}, {"jpeg_quality": 0}, {"jpeg_quality": 101}, {"face_detector": "none"},
        {"face_margin": -0.1}, {"min_face": 0},
    ],
)  # fmt: skip
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        recorded.ClipOptions(name="x", **wrong)


def test_missing_clips_stop_the_build_before_anything_is_converted(tree, tmp_path, monkeypatch):
    lines = [f"calm/none{i}.mp4,calm" for i in range(24)]
    lines += [
        f"{name}/clip{i}{s},{name}" for name in ("calm", "glad") for i, s in ((0, ""), (1, ".mp4"))
    ]
    raw_trees.write_lines(tree / "list.csv", lines)
    monkeypatch.setattr(frames, "convert", None)
    with pytest.raises(recorded.MissingClipsError) as error:
        raw_trees.build(video_folder, tmp_path, source_dir=str(tree), csv="list.csv")
    message = str(error.value)
    assert message.startswith("24 of 28 clips are missing") and "and 4 more" in message
    assert message.count("none") == 20 and "list.csv:" in message and "allow_missing" in message
    assert not list(tmp_path.rglob("1.0.0"))


def _damaged(tmp_path):
    root = tmp_path / "raw"
    truth = raw_trees.make_video_folder(
        root, splits=("train", "test"), clips_per_class=4, frames=12
    )
    (root / "train/calm/clip0/f3.png").write_bytes(b"")
    (root / "test/glad/clip1.mp4").write_bytes(b"no video")
    return root, truth


def test_allow_missing_leaves_out_and_counts(tmp_path):
    root, truth = _damaged(tmp_path)
    with pytest.raises(recorded.MissingClipsError, match="2 of 24 clips"):
        raw_trees.build(video_folder, tmp_path / "a", source_dir=str(root))
    builder = raw_trees.build(
        video_folder, tmp_path / "b", source_dir=str(root), allow_missing=True
    )
    del truth["train"]["train/calm/clip0"], truth["test"]["test/glad/clip1.mp4"]
    assert raw_trees.read_truth(builder) == truth
    metadata = tfds.builder_from_directory(builder.data_dir).info.metadata
    assert sorted(metadata["missing_clips"]) == ["test/glad/clip1.mp4", "train/calm/clip0"]
    assert metadata["splits"]["train"] == {
        "clips": [3, 4, 4],
        "missing": 1,
        "short": 11,
        "frames": 11 * 12,
    }
    rows = {line.split("  ")[0]: line.split()[-3:] for line in builder.summary().splitlines()}
    assert rows["missing"] == ["1", "1", "2"] and rows["under 16 frames"] == ["11", "11", "22"]
    assert f"{22 * 12} frames, 12.0 per clip" in builder.summary()


def test_a_clip_found_broken_while_converting_is_counted_too(tree, tmp_path, monkeypatch):
    convert = frames.convert

    def break_one(job):
        return frames.Converted(problem="broken") if "calm/clip1" in job.path else convert(job)

    monkeypatch.setattr(frames, "convert", break_one)
    with pytest.raises(recorded.MissingClipsError, match=r"calm/clip1\.mp4: broken"):
        raw_trees.build(video_folder, tmp_path / "a", source_dir=str(tree))
    options = {"source_dir": str(tree), "allow_missing": True}
    builder = raw_trees.build(video_folder, tmp_path / "b", **options)
    assert builder.info.metadata["missing_clips"] == ["calm/clip1.mp4"]
    assert sum(sum(n["clips"]) for n in builder.info.metadata["splits"].values()) == 23


def test_a_class_left_without_training_clips_is_an_error(tmp_path):
    raw_trees.make_video_folder(tmp_path / "raw", clips_per_class=2, frames=3)
    for path in (tmp_path / "raw/calm").rglob("*.*"):
        path.write_bytes(b"")
    options = {"source_dir": str(tmp_path / "raw"), "allow_missing": True}
    with pytest.raises(ValueError, match="no clip of calm in the train split"):
        raw_trees.build(video_folder, tmp_path, **options)


def test_shards_keep_order_and_hold_every_clip():
    clips = list(zip(_entries("abcdefg"), map(frames.Probe, (5, 5, 5, 30, 1, 1, 9)), strict=True))
    cut = recorded.shards(clips, limit=10)
    assert [[entry.clip_id for entry in shard] for shard in cut] == [
        ["a", "b"],
        ["c"],
        ["d"],
        ["e", "f"],
        ["g"],
    ]


def test_the_stored_order_mixes_classes_and_does_not_depend_on_the_lists():
    names = [f"{c}{i}" for c in "abc" for i in range(30)]
    with workers.Pool(1) as pool:
        orders = [
            [
                e.clip_id
                for e, _ in recorded.probe_clips(plans.Plan((), {"s": _entries(n)}), pool)["s"]
            ]
            for n in (names, names[::-1])
        ]
    assert orders[0] == orders[1] != names
    assert len({name[0] for name in orders[0][:10]}) == 3


def test_the_table_marks_counts_that_differ_from_the_published_ones():
    text = counts.table(
        ("a", "b"),
        {"train": [3, 4], "test": [1, 0]},
        {"missing": {"train": 2, "test": 0}},
        {"train": {"a": 3, "b": 5}, "all": {"total": 8}},
    )
    rows = [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.split("\n")
    ]
    assert rows[:5] == [
        ["clips", "train", "test", "all"],
        ["a", "3 / 3", "1", "4"],
        ["b", "4 / 5 *", "0", "4"],
        ["total", "7", "1", "8 / 8"],
        ["missing", "2", "0", "2"],
    ]


def test_records_have_the_schema(tree, tmp_path):
    builder = raw_trees.build(video_folder, tmp_path, source_dir=str(tree), short_side=32)
    record = raw_trees.read(builder, "train")["calm/clip0"]
    assert set(record) == {"clip_id", "frames", "label", "votes", "class"}
    assert record["votes"].dtype == np.float32 and record["votes"].tolist() == [0, 0, 0]
    assert len(record["frames"]) == 18 and isinstance(record["frames"][0], bytes)


@pytest.mark.e2e
def test_workers_end_when_the_build_is_killed():
    code = """
import multiprocessing, os, time
from data import workers
with workers.Pool(2) as pool:
    list(pool.map(time.sleep, [0.2] * 32, total=32))
    print([child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pids = ast.literal_eval(done.stdout)
    assert done.returncode == -9 and pids

    def is_alive(pid):
        stat = pathlib.Path(f"/proc/{pid}/stat")
        try:
            return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except FileNotFoundError:
            return False

    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, pids))


def test_a_pool_gives_results_in_order_and_leaves_no_process(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 8)
    with workers.Pool(2) as pool:
        assert list(pool.map(str, iter(range(100)), total=100)) == [str(i) for i in range(100)]
        processes = list(pool._executor._processes.values())
    assert processes and not any(process.is_alive() for process in processes)


def test_a_build_prints_its_table_once_and_where_it_is(tree, tmp_path, capsys):
    folder = build_lib.build("video_folder", tmp_path, options={"source_dir": str(tree)})
    said = capsys.readouterr().out
    assert said.count("calm   ") == said.count("20 % of each class for testing") == 1
    assert said.count("432 frames, 18.0 per clip") == 1 and said.endswith(f"built in {folder}\n")


def test_a_table_that_changes_while_converting_is_printed_again(
    tree, tmp_path, capsys, monkeypatch
):
    convert = frames.convert

    def break_one(job):
        return frames.Converted(problem="broken") if "glad/clip1" in job.path else convert(job)

    monkeypatch.setattr(frames, "convert", break_one)
    options = {"source_dir": str(tree), "allow_missing": 1}
    build_lib.build("video_folder", tmp_path, options=options)
    first, _, last = capsys.readouterr().out.partition("left out:")
    assert "calm " in first and "calm " in last and "missing" in first and "missing" in last
