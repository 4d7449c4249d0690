import shutil

import pytest
import raw_trees

from data import recorded, workers
from data.ferv39k import ferv39k_dataset_builder as ferv39k

SMALL = {"clips_per_class": (2, 1), "frames": 2, "size": 32}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 10**9)


def plan(root, **options):
    return ferv39k.read_plan(ferv39k.Options(name="x", source_dir=str(root), **options))


def test_builds_and_reads_back(tmp_path, capsys):
    truth = raw_trees.make_ferv39k(tmp_path / "raw", frames=12, size=48)
    builder = raw_trees.build(ferv39k, tmp_path, source_dir=str(tmp_path / "raw"), short_side=40)
    assert raw_trees.read_truth(builder) == truth
    for split in ("train", "test"):
        for record in raw_trees.read(builder, split).values():
            assert len(record["frames"]) == 12 and raw_trees.levels_rise(record)
            assert record["votes"].tolist() == [0.0] * 7
    assert builder.info.features["label"].names == list(raw_trees.DFEW)
    output = capsys.readouterr().out
    assert "2 / 5854 *" in output and "7 / 7847 *" in output and "21 / 38935 *" in output


def test_published_counts_add_up():
    assert [ferv39k.PUBLISHED[s]["total"] for s in ("train", "test", "all")] == [31088, 7847, 38935]


def test_short_clips_are_kept_and_counted(tmp_path):
    raw_trees.make_ferv39k(tmp_path / "raw", **SMALL | {"frames": 9})
    builder = raw_trees.build(ferv39k, tmp_path, source_dir=str(tmp_path / "raw"))
    assert all(len(r["frames"]) == 9 for r in raw_trees.read(builder, "test").values())
    assert builder.info.metadata["splits"]["train"]["short"] == 14
    assert builder.info.metadata["splits"]["test"]["short"] == 7


@pytest.mark.parametrize("inner", ["", "FERV39k", "FERV39K/FERV39k"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_first_row_counts_and_the_root_may_lie_deeper(tmp_path, inner, end):
    truth = raw_trees.make_ferv39k(tmp_path / inner, end=end, **SMALL)
    read = plan(tmp_path)
    assert raw_trees.truth_of(read) == truth
    assert all(entry.path for entries in read.splits.values() for entry in entries)


def test_a_header_is_no_clip(tmp_path):
    form = {"line": "{path},{label}", "header": "path,id"}
    truth = raw_trees.make_ferv39k(tmp_path, **form, **SMALL)
    assert raw_trees.truth_of(plan(tmp_path)) == truth


def test_numbers_for_labels_are_understood_by_the_folders(tmp_path):
    form = {"line": "{path},{number}", "header": "path,id"}  # alphabetical, not DFEW's order
    truth = raw_trees.make_ferv39k(tmp_path, **form, **SMALL)
    read = plan(tmp_path)
    assert raw_trees.truth_of(read) == truth
    assert any("labels in the lists are numbers" in note for note in read.notes)
    path = tmp_path / "4_setups/All_scenes/test_All.csv"
    path.write_text(path.read_text().replace("/Happy/0015,3", "/Happy/0015,2"))
    with pytest.raises(ValueError, match=r"test_All\.csv:2: label 2 is fear on other lines"):
        plan(tmp_path)


def _edit(root, old, new):
    path = root / "4_setups/All_scenes/train_All.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_label_that_contradicts_its_folder_is_an_error_unless_allowed(tmp_path):
    raw_trees.make_ferv39k(tmp_path, **SMALL)
    _edit(tmp_path, "Action/Sad/0002 Sad", "Action/Sad/0002 Fear")
    with pytest.raises(ValueError, match=r"train_All\.csv:2: Action/Sad/0002 has the label Fear"):
        plan(tmp_path)
    read = plan(tmp_path, allow_mismatch=True)
    assert raw_trees.truth_of(read)["train"]["Action/Sad/0002"] == "fear"
    assert read.facts["label_folder_mismatches"] == 1


@pytest.mark.parametrize(
    "new, message",
    [
        ("Action/Sad/0002 Bored", r"train_All\.csv:2: unknown label 'Bored'"),
        ("Action/Bored/0002 Sad", r"train_All\.csv:2: expected Scene/Emotion/number"),
        ("Action/Sad/0002", r"train_All\.csv:2: expected `Scene/Emotion/number label`"),
        ("../Sad/0002 Sad", r"train_All\.csv:2: path '\.\./Sad/0002' must be relative"),
        (
            "DailyLife/Happy/0001 Happy",
            r"train_All\.csv:2: clip .* is already listed in .*All\.csv:1",
        ),
        ("DailyLife/Happy/0015 Happy", r"1 clips are in both train and test"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, new, message):
    raw_trees.make_ferv39k(tmp_path, **SMALL)
    _edit(tmp_path, "Action/Sad/0002 Sad", new)
    with pytest.raises(ValueError, match=message):
        plan(tmp_path)


def test_one_scene_by_its_own_lists(tmp_path):
    raw_trees.make_ferv39k(tmp_path, **SMALL)
    names = {"setup": "Isolated/War", "lists": "{part}_War.csv", "scenes": ("War",)}
    truth = raw_trees.make_ferv39k(tmp_path, **names, **SMALL)
    read = plan(tmp_path, setup="Isolated/War")
    assert raw_trees.truth_of(read) == truth
    with pytest.raises(FileNotFoundError, match="Isolated"):
        plan(tmp_path, setup="Wars")
    (tmp_path / "4_setups/Isolated/War/train_2.csv").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"expected one train_\*\.csv, found 2"):
        plan(tmp_path, setup="Isolated/War")


def test_missing_clips_stop_the_build_with_a_list(tmp_path):
    raw_trees.make_ferv39k(tmp_path / "raw", **SMALL)
    shutil.rmtree(tmp_path / "raw/2_ClipsforFaceCrop/Action/Sad/0002")
    with pytest.raises(recorded.MissingClipsError, match="Action/Sad/0002: no folder or video"):
        raw_trees.build(ferv39k, tmp_path, source_dir=str(tmp_path / "raw"))
    options = {"source_dir": str(tmp_path / "raw"), "allow_missing": True}
    builder = raw_trees.build(ferv39k, tmp_path, **options)
    assert builder.info.metadata["missing_clips"] == ["Action/Sad/0002"]
    assert len(raw_trees.read(builder, "train")) == 13


def test_no_lists_at_all(tmp_path):
    (tmp_path / "2_ClipsforFaceCrop").mkdir()
    with pytest.raises(FileNotFoundError, match="does not look like FERV39k"):
        plan(tmp_path)
