import pytest
import raw_trees
from etils import epath

from data import recorded, workers
from data.mafw import mafw_dataset_builder as mafw

SMALL = {"frames": 2, "size": 32}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 10**9)


def plan(root, **options):
    return mafw.read_plan(mafw.Options(name="x", source_dir=str(root), **options))


def entries(read):
    return {entry.clip_id: entry for fold in read.splits.values() for entry in fold}


def expected_votes(name):
    return [8.0 if e == name else 3.0 if e == "neutral" else 0.0 for e in mafw.CLASSES]


@pytest.mark.parametrize("clips", ["data/frames", "data/clips"])
def test_builds_and_reads_back(tmp_path, capsys, clips):
    truth = raw_trees.make_mafw(tmp_path / "raw", clips=clips, frames=12, size=64)
    builder = raw_trees.build(mafw, tmp_path, source_dir=str(tmp_path / "raw"), short_side=40)
    assert raw_trees.read_truth(builder) == truth
    for record in raw_trees.read(builder, "fold5").values():
        assert len(record["frames"]) == 12 and raw_trees.levels_rise(record)
        assert record["votes"].tolist() == expected_votes(record["class"])
    output = capsys.readouterr().out
    assert f"frames from {clips}\n" in output and "votes from Labels/single_set.xlsx" in output
    assert "11 / 1839 *" in output and "5 / 1390 *" in output and "55 / 9172 *" in output


def test_published_counts_add_up():
    single = mafw.PUBLISHED["single"]
    assert sum(single["all"][name] for name in mafw.CLASSES) == single["all"]["total"] == 9172
    assert sum(single[f"fold{k}"]["total"] for k in raw_trees.FOLDS) == 9172


def test_captions_in_gbk_are_read_past(tmp_path):
    truth = raw_trees.make_mafw(tmp_path, captions=True, **SMALL)
    path = tmp_path / "Train & Test Set/single/with_caption/set_1/test.txt"
    with pytest.raises(UnicodeDecodeError):
        path.read_text("utf-8")
    read = plan(tmp_path)
    assert raw_trees.truth_of(read) == truth
    assert "lists from Train & Test Set/single/with_caption" in read.notes


def test_a_caption_may_hold_odd_characters(tmp_path):
    path = epath.Path(tmp_path / "test.txt")
    path.write_bytes(
        "00001.mp4\tanger\t他\u2028说\u0085\x0b\tone\n00002.mp4\tfear\t\xe9\ttwo\n".encode()
        + b"00003.mp4\tfear\t\xff\xff\x81\tthree\n"
    )
    assert {n: c for n, (c, _) in mafw.read_list(path).items()} == {
        "00001": "anger",
        "00002": "fear",
        "00003": "fear",
    }


def test_lists_without_captions_are_preferred(tmp_path):
    raw_trees.make_mafw(tmp_path, captions=True, **SMALL)
    raw_trees.make_mafw(tmp_path, **SMALL)
    assert "lists from Train & Test Set/single/no_caption" in plan(tmp_path).notes


def test_face_crops_are_preferred_unless_asked(tmp_path):
    raw_trees.make_mafw(tmp_path, **SMALL)
    raw_trees.make_mafw(tmp_path, clips="data/faces", **SMALL)
    assert plan(tmp_path).facts["source"] == "data/faces"
    assert plan(tmp_path, frames_dir="data/frames").facts["source"] == "data/frames"


def test_compound_classes(tmp_path):
    compounds = ("anger_disgust", "sadness_fear", "surprise_happiness", "fear_surprise_anxiety")
    tree = {"task": "compound", "compounds": compounds}
    truth = raw_trees.make_mafw(tmp_path / "raw", **tree, **SMALL)
    options = {"source_dir": str(tmp_path / "raw"), "task": "compound"}
    builder = raw_trees.build(mafw, tmp_path, **options)
    assert raw_trees.read_truth(builder) == truth
    names = builder.info.features["label"].names
    assert names[:11] == list(mafw.CLASSES)
    assert names[11:] == [
        "anger_disgust",
        "fear_sadness",
        "fear_surprise_anxiety",
        "happiness_surprise",
    ]
    record = next(iter(raw_trees.read(builder, "fold1").values()))
    assert record["votes"].shape == (15,) and not record["votes"].any()
    assert "15 classes occur; 43 are published" in builder.summary()
    assert "75 / 8996 *" in builder.summary()


def test_a_compound_has_one_class_in_whatever_order_its_parts_are(tmp_path):
    raw_trees.make_mafw(tmp_path, task="compound", **SMALL)
    path = tmp_path / "Train & Test Set/compound/no_caption/set_2/test.txt"
    text = path.read_text()
    assert "anger_disgust" in text
    path.write_text(text.replace("anger_disgust", "Disgust_Anger"))
    read = plan(tmp_path, task="compound")
    assert len(read.classes) == 14
    clip = next(line.split(".")[0] for line in text.splitlines() if "anger_disgust" in line)
    assert read.classes[entries(read)[clip].label] == "anger_disgust"


@pytest.mark.parametrize(
    "line, message",
    [
        ("00003.mp4 joy", r"test\.txt:2: unknown label 'joy'"),
        ("00003.mp4 anger_anger", r"test\.txt:2: unknown label 'anger_anger'"),
        ("00003.mp4", r"test\.txt:2: expected `file\.mp4 label`"),
        ("00003 anger", r"test\.txt:2: expected `file\.mp4 label`"),
        ("00003.mp4 anger 7", r"test\.txt:2: expected `file\.mp4 label`"),
        ("00001.mp4 fear", r"test\.txt:2: clip 00001 is already listed in .*test\.txt:1"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = epath.Path(tmp_path / "test.txt")
    raw_trees.write_lines(path, ["00001.mp4 anger", line])
    with pytest.raises(ValueError, match=message):
        mafw.read_list(path)


def test_a_compound_in_the_single_task_is_an_error(tmp_path):
    raw_trees.make_mafw(tmp_path, task="compound", **SMALL)
    folder = tmp_path / "Train & Test Set"
    (folder / "compound").rename(folder / "single")
    with pytest.raises(ValueError, match="labels of the single task are compounds"):
        plan(tmp_path)
    with pytest.raises(FileNotFoundError, match="no lists of task=compound"):
        plan(tmp_path, task="compound")
    with pytest.raises(ValueError, match="task='both'"):
        plan(tmp_path, task="both")


def test_folds_must_be_a_cross_validation(tmp_path):
    raw_trees.make_mafw(tmp_path, **SMALL)
    with (tmp_path / "Train & Test Set/single/no_caption/set_3/test.txt").open("a") as file:
        file.write("00001.mp4 anger\n")
    with pytest.raises(ValueError, match="00001: in the test sets of fold1 and fold3"):
        plan(tmp_path)


@pytest.mark.parametrize("votes", ["Labels/single_set/Set.csv", "Labels/annotation.xlsx"])
def test_votes_go_by_the_names_of_the_columns(tmp_path, votes):
    raw_trees.make_mafw(tmp_path, votes=votes, **SMALL)
    read = plan(tmp_path)
    for entry in entries(read).values():
        assert list(entry.votes) == expected_votes(read.classes[entry.label])
    assert f"votes from {votes}, for 55 of 55 clips" in read.notes


@pytest.mark.parametrize("damage", ["no file", "other columns", "words", "other clips", "no table"])
def test_votes_that_cannot_be_read_are_zero_and_it_says_so(tmp_path, damage):
    raw_trees.make_mafw(tmp_path, votes="" if damage == "no file" else "Labels/single.csv", **SMALL)
    changes = {
        "other columns": ("Fear", "Dread"),
        "words": (",8", ",much"),
        "other clips": ("000", "9"),
    }
    if damage in changes:
        path = tmp_path / "Labels/single.csv"
        path.write_text(path.read_text().replace(*changes[damage]))
    if damage == "no table":
        (tmp_path / "Labels/single.csv").rename(tmp_path / "Labels/single.xlsx")
    read = plan(tmp_path)
    assert not any(entry.votes for entry in entries(read).values())
    assert any("all votes are zero" in note for note in read.notes)
    assert read.facts["clips_without_votes"] == 55


def test_missing_clips_stop_the_build_with_a_list(tmp_path):
    raw_trees.make_mafw(tmp_path / "raw", clips="data/clips", **SMALL)
    (tmp_path / "raw/data/clips/00007.mp4").unlink()
    with pytest.raises(recorded.MissingClipsError, match="00007: no folder or video"):
        raw_trees.build(mafw, tmp_path, source_dir=str(tmp_path / "raw"))
    options = {"source_dir": str(tmp_path / "raw"), "allow_missing": True}
    assert raw_trees.build(mafw, tmp_path, **options).info.metadata["missing_clips"] == ["00007"]
