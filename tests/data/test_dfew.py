import pytest
import raw_trees
from etils import epath

from data import recorded, workers
from data.dfew import dfew_dataset_builder as dfew

SMALL = {"clips_per_class_per_fold": 1, "frames": 2, "size": 32}
IFDD = "EmoLabel_DataSplit/{part}_single-labeled/set_{fold}.csv"
JIANG = "label/single_{part}set_{fold}.csv"


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 10**9)


def plan(root, **options):
    return dfew.read_plan(dfew.Options(name="x", source_dir=str(root), **options))


def entries(read):
    return {entry.clip_id: entry for fold in read.splits.values() for entry in fold}


def test_builds_and_reads_back(tmp_path, capsys):
    truth = raw_trees.make_dfew(tmp_path / "raw", clips_per_class_per_fold=1, size=48)
    builder = raw_trees.build(dfew, tmp_path, source_dir=str(tmp_path / "raw"), short_side=40)
    assert raw_trees.read_truth(builder) == truth
    records = raw_trees.read(builder, "fold3")
    for record in records.values():
        assert record["class"] == dfew.schema.DFEW_CLASSES[record["label"]]
        assert record["votes"].tolist() == raw_trees.dfew_votes(record["label"])
        assert len(record["frames"]) == 20 and raw_trees.levels_rise(record)
    output = capsys.readouterr().out
    assert "frames from Clip/clip_224x224\n" in output
    assert "1 / 489 *" in output and "35 / 11697 *" in output
    assert builder.info.metadata["source"] == "Clip/clip_224x224"


def test_published_counts_add_up():
    for fold, numbers in dfew.PUBLISHED.items():
        if "happy" in numbers:
            assert sum(numbers[name] for name in raw_trees.DFEW) == numbers["total"], fold
    folds = sum(dfew.PUBLISHED[f"fold{k}"]["total"] for k in raw_trees.FOLDS)
    assert folds == dfew.PUBLISHED["all"]["total"] == 11697


@pytest.mark.parametrize("lists", [dfew._LISTS[0], IFDD, JIANG])
@pytest.mark.parametrize("text", [{}, {"end": "\r\n", "encoding": "utf-8-sig"}, {"header": False}])
def test_lists_in_every_known_place_and_form(tmp_path, lists, text):
    truth = raw_trees.make_dfew(tmp_path, lists=lists, **text, **SMALL)
    read = plan(tmp_path)
    assert raw_trees.truth_of(read) == truth
    assert all(entry.path.endswith(entry.clip_id) for entry in entries(read).values())


def test_the_root_may_lie_deeper(tmp_path):
    truth = raw_trees.make_dfew(tmp_path / "DFEW" / "dfew", **SMALL)
    assert raw_trees.truth_of(plan(tmp_path)) == truth


CLIPS = ["Clip/clip_224x224_16f", "Clip/clip_224x224_avi", "data", "Clip/original", "clip_224x224"]


@pytest.mark.parametrize("clips", CLIPS)
def test_every_kind_of_clip_comes_out_in_time_order(tmp_path, clips):
    tree = SMALL | {"frames": 16, "size": 64}
    truth = raw_trees.make_dfew(tmp_path / "raw", clips=clips, **tree)
    builder = raw_trees.build(dfew, tmp_path, source_dir=str(tmp_path / "raw"))
    assert raw_trees.read_truth(builder) == truth
    for record in raw_trees.read(builder, "fold1").values():
        assert len(record["frames"]) == 16 and raw_trees.levels_rise(record)
    assert f"frames from {clips}" in builder.summary()
    assert ("16 interpolated" in builder.summary()) == clips.endswith("_16f")


def test_frame_folders_nested_once_more(tmp_path):
    truth = raw_trees.make_dfew(tmp_path / "raw", nested=True, **SMALL)
    builder = raw_trees.build(dfew, tmp_path, source_dir=str(tmp_path / "raw"))
    assert raw_trees.read_truth(builder) == truth


def test_the_folder_of_clips_nested_once_more(tmp_path):
    raw_trees.make_dfew(tmp_path, clips="Clip/clip_224x224/clip_224x224", **SMALL)
    assert all(entry.path for entry in entries(plan(tmp_path)).values())


def test_every_frame_is_preferred_to_interpolated_ones_unless_asked(tmp_path):
    raw_trees.make_dfew(tmp_path, clips="Clip/clip_224x224_16f", **SMALL)
    raw_trees.make_dfew(tmp_path, clips="Clip/clip_224x224_avi", **SMALL)
    (tmp_path / "Clip/clip_224x224").mkdir()  # empty: not what is looked for
    assert plan(tmp_path).facts["source"] == "Clip/clip_224x224_16f"
    raw_trees.make_dfew(tmp_path, **SMALL)
    assert plan(tmp_path).facts["source"] == "Clip/clip_224x224"
    asked = plan(tmp_path, frames_dir="Clip/clip_224x224_avi")
    assert asked.facts["source"] == "Clip/clip_224x224_avi"
    assert all(entry.path.endswith(".avi") for entry in entries(asked).values())


@pytest.mark.parametrize("wrong", ["Clip/none", "../raw", "/raw"])
def test_a_wrong_folder_of_clips_is_an_error(tmp_path, wrong):
    raw_trees.make_dfew(tmp_path, **SMALL)
    with pytest.raises((ValueError, FileNotFoundError), match="frames_dir"):
        plan(tmp_path, frames_dir=wrong)


def test_labels_counted_from_zero_are_recognized(tmp_path):
    truth = raw_trees.make_dfew(tmp_path, label_base=0, **SMALL)
    with pytest.raises(
        ValueError, match=r"set_1\.csv: labels are 0 to 6, but DFEW's are 1 to 7.*label_base=0"
    ):
        plan(tmp_path)
    assert raw_trees.truth_of(plan(tmp_path, label_base=0)) == truth


def test_labels_counted_from_one_are_recognized(tmp_path):
    raw_trees.make_dfew(tmp_path, **SMALL)
    with pytest.raises(ValueError, match=r"label 7 occurs.*label_base=1"):
        plan(tmp_path, label_base=0)
    with pytest.raises(ValueError, match="label_base=2"):
        plan(tmp_path, label_base=2)


@pytest.mark.parametrize(
    "line, message",
    [
        ("3,8", r"set_1\.csv:4: label 8 of clip 00003; expected 1 to 7"),
        ("3,happy", r"set_1\.csv:4: expected `video_name,label`, got '3,happy'"),
        ("3", r"set_1\.csv:4: expected"),
        ("00001,2", r"set_1\.csv:4: clip 00001 is already listed in .*set_1\.csv:2"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = epath.Path(tmp_path / "set_1.csv")
    raw_trees.write_lines(path, ["video_name,label", "1,1", "2,7", line])
    with pytest.raises(ValueError, match=message):
        dfew.read_list(path)


def test_a_malformed_first_line_is_no_header(tmp_path):
    path = epath.Path(tmp_path / "set_1.csv")
    raw_trees.write_lines(path, ["1,happy", "2,7"], end="\r\n")
    with pytest.raises(ValueError, match=r"set_1\.csv:1: expected `video_name,label`"):
        dfew.read_list(path)
    raw_trees.write_lines(path, ["1,1", "2"], end="\r\n")
    with pytest.raises(ValueError, match=r"set_1\.csv:2: expected `video_name,label`"):
        dfew.read_list(path)


def test_the_first_row_counts_where_there_is_no_header(tmp_path):
    path = epath.Path(tmp_path / "set_1.csv")
    raw_trees.write_lines(path, ["00012.mp4,1", "2,7"])
    assert {n: label for n, (label, _) in dfew.read_list(path).items()} == {"00012": 0, "00002": 6}


def _list(root, part, fold):
    return root / dfew._LISTS[0].format(part=part, fold=fold)


def test_a_clip_tested_in_two_folds_is_an_error(tmp_path):
    raw_trees.make_dfew(tmp_path, **SMALL)
    with _list(tmp_path, "test", 2).open("a") as file:
        file.write("1,1\n")
    with pytest.raises(ValueError, match="00001: in the test sets of fold1 and fold2"):
        plan(tmp_path)


def test_a_training_set_must_be_the_other_folds(tmp_path):
    raw_trees.make_dfew(tmp_path, **SMALL)
    path = _list(tmp_path, "train", 1)
    text = path.read_text()
    assert "\n2,1\n" in text and "\n3,1\n" in text
    path.write_text(text.replace("\n2,1\n", "\n").replace("\n3,1\n", "\n3,7\n") + "1,1\n900,2\n")
    with pytest.raises(ValueError) as error:
        plan(tmp_path)
    message = str(error.value)
    assert "4 contradictions" in message
    assert "00002: not in the training set of fold1" in message
    assert (
        "00003: class 6 in the training set of fold1, class 0 in the test set of fold3" in message
    )
    assert "00001: in the training set of fold1, but also in its test set" in message
    assert "00900: in the training set of fold1, but in no test set" in message


def test_a_missing_list_is_named(tmp_path):
    raw_trees.make_dfew(tmp_path, **SMALL)
    _list(tmp_path, "train", 4).unlink()
    with pytest.raises(FileNotFoundError, match="no list of the train set of fold 4"):
        plan(tmp_path)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        plan(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="does not look like DFEW"):
        plan(tmp_path)
    with pytest.raises(ValueError, match="source_dir is empty"):
        plan("")


SHUFFLED = (
    "order",
    "7fear",
    "label",
    "2sad",
    "1happy",
    "6disgust",
    "5surprise",
    "4angry",
    "3neutral",
)


@pytest.mark.parametrize("annotation", ["Annotation/annotation.xlsx", "Annotation/annotation.csv"])
def test_votes_go_by_the_names_of_the_columns(tmp_path, annotation):
    raw_trees.make_dfew(tmp_path, annotation=annotation, columns=SHUFFLED, **SMALL)
    read = plan(tmp_path)
    for entry in entries(read).values():
        assert list(entry.votes) == raw_trees.dfew_votes(entry.label)
    assert read.facts["votes"] == dict.fromkeys(read.facts["votes"], 0)


def test_votes_that_contradict_the_lists_are_counted(tmp_path):
    raw_trees.make_dfew(tmp_path, annotation="Annotation/annotation.csv", **SMALL)
    path = tmp_path / "Annotation/annotation.csv"
    rows = path.read_text().splitlines()
    rows[1] = "0,9,1,0,0,0,0,1,2"  # clip 1 is listed as happy
    rows[2] = "5,5,0,0,0,0,0,2,0"  # a tie, and no label
    path.write_text("\n".join(rows[:-1]) + "\n")
    read = plan(tmp_path)
    assert read.facts["votes"] == {
        "clips_without_votes": 1,
        "label_is_not_the_most_voted": 1,
        "label_differs_from_annotation": 2,
    }
    assert "votes: label is not the most voted: 1" in read.notes
    assert entries(read)["00001"].label == 0 and entries(read)["00035"].votes == ()


def test_without_annotation_the_votes_are_zero_and_it_says_so(tmp_path):
    raw_trees.make_dfew(tmp_path / "raw", annotation="", **SMALL)
    builder = raw_trees.build(dfew, tmp_path, source_dir=str(tmp_path / "raw"))
    assert "all votes are zero" in builder.summary()
    assert not any(r["votes"].any() for r in raw_trees.read(builder, "fold1").values())


def test_an_annotation_with_other_columns_is_an_error(tmp_path):
    raw_trees.make_dfew(tmp_path, columns=raw_trees.DFEW_HEADER, **SMALL)
    with pytest.raises(ValueError, match=r"annotation\.xlsx: expected a table with the columns"):
        plan(tmp_path)


def test_missing_clips_stop_the_build_with_a_list(tmp_path):
    raw_trees.make_dfew(tmp_path / "raw", **SMALL)
    for number in (3, 17):
        folder = tmp_path / f"raw/Clip/clip_224x224/{number:05d}"
        folder.rename(folder.with_name(f"lost{number}"))
    with pytest.raises(recorded.MissingClipsError, match="2 of 35 clips") as error:
        raw_trees.build(dfew, tmp_path, source_dir=str(tmp_path / "raw"))
    assert "00017" in str(error.value) and "set_2.csv:5" in str(error.value)
    options = {"source_dir": str(tmp_path / "raw"), "allow_missing": True}
    builder = raw_trees.build(dfew, tmp_path, **options)
    assert len(raw_trees.read(builder, "fold2")) == 6
    assert builder.info.metadata["splits"]["fold2"]["missing"] == 1
    assert sorted(builder.info.metadata["missing_clips"]) == ["00003", "00017"]


def test_unpadded_clip_folders_are_found(tmp_path):
    raw_trees.make_dfew(tmp_path, **SMALL)
    for folder in list((tmp_path / "Clip/clip_224x224").iterdir()):
        folder.rename(folder.with_name(folder.name.lstrip("0")))
    assert all(entry.path for entry in entries(plan(tmp_path)).values())


def test_short_clips_are_kept_and_counted(tmp_path):
    raw_trees.make_dfew(tmp_path / "raw", **SMALL)
    builder = raw_trees.build(dfew, tmp_path, source_dir=str(tmp_path / "raw"))
    assert builder.info.metadata["splits"]["fold1"]["short"] == 7
    assert "under 16 frames" in builder.summary()
