"""FER2013 and FER+ on generated files in the published form; the majority against a plain count."""

import collections
import gzip

import cv2
import numpy as np
import pytest
import raw_trees
from etils import epath
from ferplus_files import CLASS, COLUMNS, NUMBERS, USAGES, make_rows, write

from data.ferplus import ferplus_dataset_builder as ferplus
from data.ferplus import pictures


def majority(votes):
    """Returns the class that most people saw, or None."""
    (first, most), *others = collections.Counter(
        dict(zip(COLUMNS, votes, strict=True))
    ).most_common()
    return None if others[0][1] == most else CLASS.get(first)


def built(tmp_path, rows, **options):
    source = write(tmp_path / "raw", rows)
    builder = raw_trees.build(ferplus, tmp_path, source_dir=str(source), **options)
    names = builder.info.features["label"].names
    records = {}
    for split in builder.info.splits:
        for record in builder.as_data_source(split=split):
            record["class"] = names[record["label"]]
            record["truth"] = names[record["true_label"]]
            records[record["clip_id"].decode()] = record | {"split": split}
    return builder, records


@pytest.mark.parametrize("label", ["original", "voted"])
def test_builds_and_reads_back(tmp_path, label):
    rows = make_rows()
    builder, records = built(tmp_path, rows, label=label)
    expected = {
        f"fer{n:07d}": (row, true) for n, row in enumerate(rows) if (true := majority(row[3]))
    }
    assert records.keys() == expected.keys() and len(expected) < len(rows)
    for name, ((emotion, pixels, usage, votes), true) in expected.items():
        record = records[name]
        assert record["split"] == ferplus.pictures_lib.SPLITS[usage]
        given = NUMBERS[emotion] if label == "original" and usage == "Training" else true
        assert (record["truth"], record["class"]) == (true, given)
        assert bool(record["is_flipped"]) == (given != true)
        assert bool(record["is_hard"]) == (max(votes) < 7)
        by_class = {CLASS[column]: votes[i] for i, column in enumerate(COLUMNS) if column in CLASS}
        in_order = [by_class[name] for name in builder.info.features["label"].names]
        assert record["votes"].tolist() == in_order
        (jpeg,) = record["frames"]
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        gray = np.array(pixels).reshape(48, 48)
        assert image.shape == (48, 48, 3) and np.abs(image - gray[..., None].astype(int)).max() < 6


def test_what_is_left_out_is_counted(tmp_path):
    rows = make_rows()
    copied = next(row for row in rows if row[2] == "PrivateTest" and majority(row[3]))
    rows[0][1], rows[0][3] = list(copied[1]), [10] + [0] * 9
    builder, records = built(tmp_path, rows)
    assert "fer0000000" not in records
    for split, usage in zip(("train", "validation", "test"), USAGES, strict=True):
        counted = builder.info.metadata["splits"][split]
        votes = [row[3] for row in rows if row[2] == usage]
        ties = [v for v in votes if v.count(max(v)) > 1]
        sure = [COLUMNS[v.index(max(v))] for v in votes if v.count(max(v)) == 1]
        assert counted["tie"] == len(ties)
        assert counted["no face"] == sure.count("NF")
        assert counted["contempt"] == sure.count("contempt")
        assert counted["unknown"] == sure.count("unknown")
        assert counted["copy"] == (split == "train")
        kept = sum(counted["clips"]) + sum(counted[reason] for reason in pictures.REASONS)
        assert kept == len(votes)
    assert (
        "rows that differ from the published file: train 40 (published: 28709)" in builder.summary()
    )


def test_the_other_names_of_the_files_are_read(tmp_path):
    rows = make_rows(per_usage=10)
    plain = pictures.read(epath.Path(write(tmp_path / "a", rows)))
    zipped = pictures.read(epath.Path(write(tmp_path / "b", rows, gzipped=True)))
    # Kaggle's second release has another order of columns, and spaces in the header.
    root = write(tmp_path / "c", rows)
    lines = ["emotion, Usage, pixels"]
    lines += [f"{e},{usage},{' '.join(map(str, p))}" for e, p, usage, _ in rows]
    (root / "fer2013.csv").unlink()
    (root / "icml_face_data.csv").write_text("\n".join(lines))
    other = pictures.read(epath.Path(root))
    for read in (zipped, other):
        assert [(p.name, p.original, p.votes) for p in read] == [
            (p.name, p.original, p.votes) for p in plain
        ]
        assert all((a.gray == b.gray).all() for a, b in zip(read, plain, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[3].__setitem__(0, 7), "csv:5: expected an emotion of 0 to 6, got '7'"),
        (lambda rows: rows[3].__setitem__(1, [0] * 2303), "csv:5: .*with 2303 values"),
        (
            lambda rows: rows[3].__setitem__(1, [256] * 2304),
            "csv:5: expected 2304 gray values of 0",
        ),
        (lambda rows: rows[3].__setitem__(1, ["-1"] * 2304), "csv:5: expected 2304 gray values"),
        (lambda rows: rows[3].__setitem__(2, "Test"), "csv:5: expected Usage to be one of"),
        (lambda rows: rows[3].__setitem__(3, [0] * 10), "csv:5: expected votes, got none"),
        (lambda rows: rows[3].__setitem__(3, ["x"] + [1] * 9), "a number of votes for neutral"),
    ],
)
def test_malformed_rows_are_named(tmp_path, change, message):
    rows = make_rows(per_usage=5)
    change(rows)
    with pytest.raises(ValueError, match=message):
        pictures.read(epath.Path(write(tmp_path, rows)))


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    rows = make_rows(per_usage=5)
    root = epath.Path(write(tmp_path, rows))
    votes = (root / "fer2013new.csv").read_text().splitlines()
    (root / "fer2013new.csv").write_text("\n".join(votes[:-1]))
    with pytest.raises(ValueError, match=r"fer2013.csv: has more rows than the 14 of .*new.csv"):
        pictures.read(root)
    (root / "fer2013new.csv").write_text("\n".join([votes[0], votes[-1], *votes[2:]]))
    with pytest.raises(ValueError, match=r"new.csv:2: expected Usage 'Training' as in .*csv:2"):
        pictures.read(root)
    (root / "fer2013new.csv").write_text("\n".join(votes))
    data = gzip.compress((root / "fer2013.csv").read_bytes())
    (root / "fer2013.csv").unlink()
    (root / "fer2013.csv.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"fer2013.csv.gz: cannot be read"):
        pictures.read(root)
    (root / "fer2013.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected one of fer2013.csv"):
        pictures.read(root)
