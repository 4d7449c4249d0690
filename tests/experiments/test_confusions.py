"""Counting confusions from files in the published formats."""

import csv
import gzip

import numpy as np
import pytest
from absl.testing import flagsaver

from data.ferplus.pictures import VOTED
from data.schema import DFEW_CLASSES as CLASSES
from experiments import confusions

ANSWERS = tuple(VOTED)
#: Picture, FER2013's code, FER+'s votes; and the pair that it counts as, if it counts.
PICTURES = (
    ("a.png", 3, {"happiness": 9, "neutral": 1}, ("happy", "happy")),
    ("b.png", 2, {"surprise": 6, "fear": 4}, ("surprise", "fear")),
    ("b2.png", 2, {"surprise": 7, "fear": 3}, ("surprise", "fear")),
    ("c.png", 0, {"disgust": 4, "anger": 4, "NF": 2}, None),  # shared
    ("d.png", 0, {"contempt": 6, "anger": 4}, None),
    ("e.png", 4, {"unknown": 6, "sadness": 4}, None),
    ("f.png", 4, {"sadness": 4, "unknown": 3, "NF": 3}, ("sad", "sad")),
    ("", 6, {"neutral": 10}, None),  # no face
    ("g.png", 1, {"anger": 10}, ("angry", "disgust")),
    ("h.png", 5, {"neutral": 5, "fear": 2, "surprise": 3}, ("neutral", "surprise")),
)


def expected():
    counts = np.zeros((7, 7), int)
    for *_, pair in PICTURES:
        if pair:
            counts[CLASSES.index(pair[0]), CLASSES.index(pair[1])] += 1
    return counts


def write(path, rows, opener=open):
    with opener(path, "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def fer_files(folder, opener=open):
    fer = [{"emotion": code, "pixels": "0 " * 9, "Usage": "Training"} for _, code, *_ in PICTURES]
    plus = [
        {"Usage": "Training", "Image name": name} | {a: votes.get(a, 0) for a in ANSWERS}
        for name, _, votes, _ in PICTURES
    ]
    return write(folder / "fer2013.csv", fer, opener), write(folder / "fer2013new.csv", plus)


CREMA = (
    ("happy", {"happy": 9, "sad": 1}),
    ("happy", {"neutral": 3, "happy": 2}),
    ("sad", {"neutral": 6, "fear": 3, "angry": 1, "disgust": 2}),
)


def crema_file(folder):
    names = [name for name in CLASSES if name != "surprise"]
    rows = [
        {"clip": i, "intended": intended} | {name: votes.get(name, 0) for name in names}
        for i, (intended, votes) in enumerate(CREMA)
    ]
    return write(folder / "votes.csv", rows)


@pytest.mark.parametrize("opener", [open, gzip.open])
def test_the_program_prints_the_counts(tmp_path, capsys, opener):
    fer, plus = fer_files(tmp_path, opener)
    with flagsaver.flagsaver(fer2013=fer, ferplus=plus, crema_d=crema_file(tmp_path)):
        confusions.main(["confusions"])
    printed = capsys.readouterr().out.split("crema_d =")
    found = np.array(eval(printed[0].removeprefix("fer2013 =").strip()))
    np.testing.assert_array_equal(found, expected())
    slow = np.zeros((7, 7), int)
    for intended, votes in CREMA:
        for name, count in votes.items():
            slow[CLASSES.index(intended), CLASSES.index(name)] += count
    np.testing.assert_array_equal(np.array(eval(printed[1].strip())), slow)


def test_files_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match=r"as many rows .* got 1 and 0"):
        confusions.fer2013(["0"], [])
