"""Labels from a file in place of the stored ones: what they change, and how a slip is answered."""

import dataclasses
import itertools
import logging

import numpy as np
import pytest
import tiny

from rdfer_jax.pipeline import label_files, loader, source
from rdfer_jax.pipeline.feed import close

#: Clip train-0 is happy, train-1 is sad (fear in truth), train-2 is fear; see tiny.record.
REPLACED = {"train-0": "fear", "train-1": "fear", "train-2": "fear", "train-9": "sad"}
COUNT = len(tiny.SPLITS["train"])


def written(path, rows, header="clip_id,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def without_truth(root):
    records = {
        split: [{k: v for k, v in record.items() if k not in source.TRUTH_KEYS} for record in given]
        for split, given in tiny.records().items()
    }
    tiny.build(root, records)
    return tiny.data(root)


@pytest.fixture(scope="module", params=["with truth", "without"])
def data(request, tiny_data, tmp_path_factory):
    """Settings that replace labels, of a data set that knows the truth, and of one that does not."""
    folder = tmp_path_factory.mktemp("replaced")
    settings = tiny_data if request.param == "with truth" else without_truth(folder)
    path = written(folder / "labels.csv", [f"{clip},{name}" for clip, name in REPLACED.items()])
    return dataclasses.replace(settings, labels=path)


def opened(data):
    return source.training_split(source.find(data), data)


def expected(data):
    """By clip, label and true label: of the file, and of tiny.record."""
    stored = {record["clip_id"]: record for record in tiny.records()["train"]}
    knows = source.open_split(source.find(data), "train").has_truth
    return {
        clip: (
            tiny.CLASSES.index(REPLACED[clip]) if clip in REPLACED else record["label"],
            record["true_label" if knows else "label"],
        )
        for clip, record in stored.items()
    }


def test_the_records_have_the_labels_of_the_file_and_what_is_true(data):
    split, plain = opened(data), source.open_split(source.find(data), "train")
    assert split.knows_flips and split.has_truth == plain.has_truth == plain.knows_flips
    seen = {}
    for record, stored in zip(split, plain, strict=True):
        clip = record["clip_id"].decode()
        seen[clip] = record["label"], record["true_label"]
        assert record["is_flipped"] == (record["label"] != record["true_label"])
        assert record["frames"] == stored["frames"]
        for key in stored.keys() - {"frames", "label", "true_label", "is_flipped"}:
            np.testing.assert_array_equal(record[key], stored[key])
        assert record.keys() - stored.keys() <= {"true_label", "is_flipped"}
    assert seen == expected(data)
    assert sum(label != true for label, true in seen.values()) >= 2


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.e2e)])
def test_the_batches_of_training_have_the_labels_of_the_file(data, workers):
    settings = dataclasses.replace(data, num_workers=workers)
    batches = loader.train_loader(
        opened(data), settings, seed=0, local_batch_size=COUNT, process=0, processes=1
    )
    iterator = iter(batches)
    wanted = expected(data)
    for batch in itertools.islice(iterator, 2):
        rows = zip(batch["label"].tolist(), batch["true_label"].tolist(), strict=True)
        assert dict(zip(batch["clip_id"].tolist(), rows, strict=True)) == wanted
        np.testing.assert_array_equal(batch["is_flipped"], batch["label"] != batch["true_label"])
        assert batch["label"].dtype == np.int32 and batch["is_flipped"].dtype == bool
    close(iterator)


def test_the_held_out_part_has_them_too_and_the_test_split_has_not(data):
    rest, held = source.hold_out(opened(data), 40.0)
    parts = [
        {r["clip_id"].decode(): (r["label"], r["true_label"]) for r in p} for p in (rest, held)
    ]
    assert parts[0] | parts[1] == expected(data)
    assert all(part.keys() & REPLACED.keys() for part in parts)
    plain = source.open_split(source.find(data), data.test_split)
    assert plain.knows_flips == plain.has_truth


def test_no_file_changes_nothing(tiny_data):
    split = opened(tiny_data)
    assert [r["label"] for r in split] == [
        r["label"] for r in source.open_split(source.find(tiny_data), "train")
    ]


def test_opening_reads_no_frame(data, monkeypatch):
    def refuse(*_):
        raise AssertionError("a whole record was read")

    monkeypatch.setattr(source.Split, "__getitem__", refuse)
    assert len(opened(data)) == COUNT


def test_fields_are_read_in_the_order_of_the_part(tiny_data):
    positions = np.array([7, 0, 3])
    part = source.open_split(source.find(tiny_data), "train+test").select(positions + 6)
    fields = part.columns("votes", "clip_id", "key_end")
    assert fields["clip_id"].tolist() == [record["clip_id"].decode() for record in part]
    assert fields["key_end"].tolist() == [record["key_end"] for record in part]
    assert fields["votes"].shape == (3, 3) and fields["votes"].dtype == np.float32
    with pytest.raises(KeyError):
        part.columns("nothing")


def test_it_is_said_how_many_labels_changed(data, caplog):
    caplog.set_level(logging.INFO, "rdfer_jax")
    opened(data)
    (line,) = (record.getMessage() for record in caplog.records)
    # train-1 is called fear where sad is stored, train-9 sad where happy is; train-2 is fear anyway.
    assert "replaced 4 labels of split train of" in line and ", 3 of them" in line
    assert line.endswith("kept 7") and "labels.csv" in line


def test_clips_of_other_splits_keep_their_labels_and_are_counted(data, tmp_path, caplog):
    """An audit of all folds names the clips of the fold that is tested on, too."""
    caplog.set_level(logging.INFO, "rdfer_jax")
    rows = [f"{clip},{name}" for clip, name in REPLACED.items()]
    both = written(tmp_path / "both.csv", [*rows, "test-0,fear", "test-2,sad"])
    split = opened(dataclasses.replace(data, labels=both))
    assert {r["clip_id"].decode(): (r["label"], r["true_label"]) for r in split} == expected(data)
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert (
        "ignored 2 of 6 given labels: they are for split test, which is not used for training"
        in said
    )


def test_what_spreadsheets_write_is_read(tmp_path):
    text = '\ufefflabel,note,clip_id\r\nsad,"a, b","x, 1"\r\n\r\nfear,,Gesicht-\u00e4\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert label_files.read(tmp_path / "a.csv", tiny.CLASSES) == {"x, 1": 1, "Gesicht-\u00e4": 2}


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["train-0"], "clip_id",
         r"bad.csv: no column 'label' in the first line. Expected .*, got 'clip_id'"),
        (["train-0,sad"], "clip,label", r"bad.csv: no column 'clip_id' in the .* 'clip,label'"),
        (["train-0,sad", "train-1,feer"], "clip_id,label",
         r"bad.csv, line 3, clip 'train-1': unknown class 'feer'. Did you mean 'fear'\?"),
        (["train-0,1"], "clip_id,label", r"unknown class '1'. Known: happy, sad, fear$"),
        (["train-0"], "clip_id,label", r"line 2, clip 'train-0': unknown class ''"),
        (["train-0,sad", "train-1,sad", "train-0,fear"], "clip_id,label",
         r"bad.csv, line 4, clip 'train-0': duplicate clip_id. Keep one"),
        (["train-0,sad", "trian-3,fear", "test-0,sad"], "clip_id,label",
         r"bad.csv: 1 of 2 clips are not in split train of .*1.0.0: 'trian-3'. "
         r"Set config.data.labels to a file for .* Did you mean 'train-3'\?"),
        (["Anna,fear"], "clip_id,label", r"not in split train .*'Anna'\. Set .* Known: .*train-1"),
        (["test-0,fear"], "clip_id,label", r"bad.csv: all 1 clips are in split test, which"),
        (["trian-3,fear"], "clip_id,label", r"'trian-3'. Set .* Did you mean 'train-3'\?"),
    ],
)  # fmt: skip
def test_a_slip_in_the_file_is_an_error_that_says_where(tiny_data, tmp_path, rows, header, message):
    path = written(tmp_path / "bad.csv", rows, header)
    with pytest.raises(ValueError, match=message):
        opened(dataclasses.replace(tiny_data, labels=path))


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "bad.csv").touch()
    with pytest.raises(
        ValueError, match=r"bad.csv: no column 'clip_id' in the first line. Expected .*, got ''"
    ):
        label_files.read(tmp_path / "bad.csv", tiny.CLASSES)


@pytest.mark.parametrize("name", ["nowhere.csv", "."])
def test_a_missing_file_is_an_error_that_says_what_to_do(tiny_data, tmp_path, name):
    data = dataclasses.replace(tiny_data, labels=str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=r"labels = .* no such file.*rdfer inject"):
        opened(data)
