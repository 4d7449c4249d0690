"""Injected label noise: rates, classes, nesting, and its way into training."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from data.schema import DFEW_CLASSES
from data.synthetic_faces.confusions import CONFUSION, CREMA_D, FER2013
from rdfer_jax.labels import inject
from rdfer_jax.pipeline import decode, source
from rdfer_jax.training import evaluate, train
from rdfer_jax.training.predictions import Predictions

ROOT = Path(__file__).parents[2]
COUNT, CLASSES = 7000, 7
LABELS = np.arange(COUNT) % CLASSES
#: Clips 0, 4, ... have no votes, then unanimous ones, a few for another class, and no agreement.
VOTES = np.zeros((COUNT, CLASSES))
VOTES[np.arange(COUNT), LABELS] = 7
VOTES[2::4] = np.roll(VOTES[2::4], 1, axis=1) * 3 / 7 + VOTES[2::4]
VOTES[3::4] = 1
VOTES[::4] = 0
PICTURES = np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4)).astype(np.uint8)
#: Every kind, as it is asked for.
WAYS = {
    "symmetric": {"kind": "symmetric"},
    "confusion": {"kind": "confusion"},
    "fer2013": {"kind": "fer2013"},
    "crema_d": {"kind": "crema_d"},
    "votes": {"kind": "instance", "votes": VOTES},
    "pictures": {"kind": "instance", "thumbnails": PICTURES},
}
ways = pytest.mark.parametrize("way", WAYS)


def draw(way, rate=0.3, seed=0, **changes):
    return inject.flip(LABELS, CLASSES, **({"rate": rate, "seed": seed} | WAYS[way] | changes))


def assert_share(flipped, rate):
    """Asserts that a share of independent draws is within five deviations of the binomial's."""
    limit = 5 * np.sqrt(rate * (1 - rate) / len(flipped))
    assert abs(np.mean(flipped) - rate) <= limit, f"{np.mean(flipped)} is not {rate} +- {limit}"


def transitions(new, flipped):
    """Counts of the wrong classes by the true class, [C, C]."""
    counts = np.zeros((CLASSES, CLASSES), int)
    np.add.at(counts, (LABELS[flipped], new[flipped]), 1)
    return counts


@ways
@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1, 0.3, 0.6, 0.95])
def test_as_many_labels_are_flipped_as_asked(way, rate):
    new = draw(way, rate, seed=3)
    assert new.shape == LABELS.shape and new.dtype == np.int64
    assert new.min() >= 0 and new.max() < CLASSES
    assert_share(new != LABELS, rate)
    if way != "votes":  # where the rate is of the whole, not of each clip
        for c in range(CLASSES):
            assert_share((new != LABELS)[c == LABELS], rate)


@pytest.mark.parametrize(
    ("way", "matrix"),
    [
        ("symmetric", (1 - np.eye(CLASSES)) / (CLASSES - 1)),
        ("confusion", CONFUSION),
        ("fer2013", FER2013),
        ("crema_d", CREMA_D),
    ],
)
def test_the_wrong_classes_come_as_often_as_in_the_matrix(way, matrix):
    new = draw(way, 0.9)
    counts = transitions(new, new != LABELS)
    total = counts.sum(axis=1, keepdims=True)
    deviation = np.sqrt(matrix * (1 - matrix) / total)
    assert (np.abs(counts / total - matrix) <= 5 * deviation + 1e-12).all()


def test_a_given_matrix_is_used_in_any_scale():
    matrix = np.zeros((CLASSES, CLASSES))
    matrix[np.arange(CLASSES), (np.arange(CLASSES) + 2) % CLASSES] = np.arange(1, CLASSES + 1)
    new = draw("confusion", confusion=matrix)
    flipped = new != LABELS
    assert_share(flipped, 0.3)
    np.testing.assert_array_equal(new[flipped], (LABELS[flipped] + 2) % CLASSES)


def test_the_usual_confusion():
    np.testing.assert_array_equal(inject.default_confusion(DFEW_CLASSES), CONFUSION)
    np.testing.assert_array_equal(inject.default_confusion(7), CONFUSION)
    # By name, where the classes are sorted otherwise: fear is taken for surprise.
    names = sorted(DFEW_CLASSES)
    matrix = inject.default_confusion(names)
    assert matrix[names.index("fear"), names.index("surprise")] == CONFUSION[6, 4] == 0.6
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    for classes in (3, ("a", "b", "c")):
        np.testing.assert_array_equal(
            inject.default_confusion(classes), [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
        )
    other = [*DFEW_CLASSES[:6], "contempt"]
    np.testing.assert_array_equal(inject.default_confusion(other), np.roll(np.eye(7), 1, axis=1))


def test_the_confusion_of_people():
    np.testing.assert_array_equal(inject.default_confusion(7, "fer2013"), FER2013)
    names = sorted(DFEW_CLASSES)
    matrix = inject.default_confusion(names, "crema_d")
    assert matrix[names.index("sad"), names.index("neutral")] == CREMA_D[1, 2]
    with pytest.raises(
        ValueError, match=r"kind 'fer2013': expected the classes happy, .*, got a, b"
    ):
        inject.default_confusion(("a", "b"), "fer2013")


@ways
def test_a_higher_rate_flips_the_same_labels_and_more(way):
    before = draw(way, 0.0)
    np.testing.assert_array_equal(before, LABELS)
    for rate in (0.05, 0.2, 0.31, 0.5, 0.75, 0.9):
        after = draw(way, rate)
        flipped = before != LABELS
        np.testing.assert_array_equal(after[flipped], before[flipped])
        assert (after != LABELS).sum() > flipped.sum()
        before = after


@ways
def test_the_seed_decides(way):
    np.testing.assert_array_equal(draw(way, seed=5), draw(way, seed=5))
    one, two = draw(way, seed=5) != LABELS, draw(way, seed=6) != LABELS
    assert_share(one & two, 0.3**2 if way != "votes" else np.mean(one & two))
    assert (one != two).any()


@pytest.mark.parametrize("way", ["symmetric", "confusion"])
def test_further_clips_change_nothing(way):
    part = inject.flip(LABELS[:100], CLASSES, rate=0.3, seed=0, **WAYS[way])
    np.testing.assert_array_equal(part, draw(way)[:100])


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=40),
    st.sampled_from(("symmetric", "confusion", "instance")),
    st.floats(0, 0.999),
    st.integers(0, 2**32),
)
def test_any_labels_give_labels_and_leave_the_given_ones(labels, kind, rate, seed):
    labels = np.array(labels)
    kept, pictures = labels.copy(), np.zeros((len(labels), 2))
    new = inject.flip(labels, 3, kind, rate, seed, thumbnails=pictures)
    assert new.shape == labels.shape and new.min() >= 0 and new.max() <= 2
    np.testing.assert_array_equal(labels, kept)


def test_disputed_clips_are_flipped_more_often_and_to_what_was_voted():
    new = draw("votes", 0.2)
    flipped = new != LABELS
    none, agreed, some, all_ = (flipped[i::4].mean() for i in range(4))
    assert agreed < none < all_ and agreed < some < all_
    # Probabilities in proportion to 0.1 + the normalized entropy, which is 0, 0.61/log 7 and 1.
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3)) / np.log(7)
    assert some / agreed == pytest.approx((0.1 + entropy) / 0.1, rel=0.35)
    assert all_ / some == pytest.approx(1.1 / (0.1 + entropy), rel=0.2)
    # Three of ten votes are for the next class; beside the confusion that is 3 of 13 parts more.
    rows = np.flatnonzero(flipped & (np.arange(COUNT) % 4 == 2))
    voted = (LABELS[rows] + 1) % CLASSES
    weight = CONFUSION[LABELS[rows], voted]
    expected = ((weight + 0.3) / 1.3).mean()
    share = (new[rows] == voted).mean()
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / len(rows))
    assert abs(share - weight.mean()) > 5 * np.sqrt(expected * (1 - expected) / len(rows))


def test_pictures_decide_the_class():
    """Equal pictures of one class are taken for the same other class nearly always."""
    pictures = np.random.default_rng(1).normal(size=(10, 64))[np.arange(COUNT) % 70 // 7]
    new = draw("pictures", 0.5, thumbnails=pictures)
    flipped = new != LABELS
    largest = [
        np.bincount(new[rows & flipped], minlength=CLASSES).max() / (rows & flipped).sum()
        for rows in (np.arange(COUNT) % 70 == i for i in range(70))
    ]
    assert np.mean(largest) > 0.9
    # But not all clips of a class: each of the classes has several wrong ones.
    assert (np.count_nonzero(transitions(new, flipped), axis=1) > 2).all()
    brighter = draw("pictures", 0.5, thumbnails=pictures * 3 + 100)
    np.testing.assert_array_equal(brighter, new)


def test_rates_of_clips_differ_as_in_the_paper():
    rates = inject._truncated_normal((np.arange(100_000) + 0.5) / 100_000, 0.4)
    assert rates.mean() == pytest.approx(0.4, abs=1e-3)
    assert rates.std() == pytest.approx(0.1, abs=1e-3)
    assert rates.min() >= 0 and rates.max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "symetric"},
            "kind 'symetric': choose from symmetric, confusion, fer2013, crema_d, instance",
        ),
        ({"rate": 1.0}, r"rate 1.0: must lie in \[0, 1\)"),
        ({"rate": -0.1}, "rate -0.1"),
        ({"rate": float("nan")}, "rate nan"),
        ({"labels_N": LABELS[:, None]}, r"labels: expected integers of shape \[N\]"),
        ({"labels_N": LABELS.astype(float)}, "labels: expected integers"),
        ({"labels_N": LABELS[:0]}, "labels: expected integers"),
        ({"num_classes": 6}, r"labels must lie in \[0, 6\), got \[0, 6\]"),
        ({"labels_N": LABELS - 1}, r"got \[-1, 5\]"),
        ({"num_classes": 1}, "at least two classes"),
        ({"confusion": np.ones((3, 3))}, r"confusion: expected shape \(7, 7\), got \(3, 3\)"),
        ({"confusion": np.ones((7, 7))}, "zero diagonal"),
        ({"confusion": np.diag(np.ones(6), 1)}, "no row of zeros"),
        ({"confusion": np.full((7, 7), np.nan)}, "finite and non-negative"),
        ({"confusion": -CONFUSION}, "confusion must be finite and non-negative"),
        ({"kind": "instance"}, "needs votes or thumbnails"),
        ({"kind": "instance", "votes": VOTES * 0}, "needs votes or thumbnails"),
        ({"kind": "instance", "votes": VOTES[:9]}, r"votes: expected shape \(7000, 7\)"),
        ({"kind": "instance", "votes": -VOTES}, "votes must be finite"),
        (
            {"kind": "instance", "thumbnails": PICTURES[:9]},
            r"thumbnails: expected shape \(7000, \.\.\.\), got",
        ),
        ({"seed": -1}, "non-negative|expected"),
    ],
)
def test_what_does_not_fit_is_an_error(changes, message):
    arguments = {
        "labels_N": LABELS, "num_classes": CLASSES, "kind": "confusion", "rate": 0.3, "seed": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        inject.flip(**(arguments | changes))


def table(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def without(keys, **changes):
    """The records of the tiny data set without some fields, and with others changed."""
    return {
        split: [{k: v for k, v in r.items() if k not in keys} | changes for r in records]
        for split, records in tiny.records().items()
    }


def test_true_labels_are_flipped_and_written_in_order(tiny_data, tmp_path):
    path = tmp_path / "new" / "flips.csv"
    counts = inject.write_flips(tiny_data, "confusion", 0.6, 1, path)
    rows = table(path)
    records = list(source.open_split(source.find(tiny_data), "train"))
    assert [row["clip_id"] for row in rows] == [record["clip_id"].decode() for record in records]
    true = np.array([record["true_label"] for record in records])
    assert [row["true_label"] for row in rows] == [tiny.CLASSES[label] for label in true]
    new = inject.flip(true, 3, "confusion", 0.6, 1)
    assert [row["label"] for row in rows] == [tiny.CLASSES[label] for label in new]
    assert [row["is_flipped"] for row in rows] == [str(int(f)) for f in new != true]
    assert 0 < (new != true).sum() < len(true)
    assert (true != [record["label"] for record in records]).any()
    assert counts == {
        name: (int((true == c).sum()), int((new != true)[true == c].sum()))
        for c, name in enumerate(tiny.CLASSES)
    }


@pytest.mark.parametrize("votes", [True, False])
def test_pictures_are_decoded_only_where_there_are_no_votes(tmp_path, monkeypatch, votes):
    keys = [key for key in tiny.record("train", 0, 1) if key in source.TRUTH_KEYS]
    tiny.build(tmp_path, without(keys, **({} if votes else {"votes": np.zeros(3, np.float32)})))
    data = tiny.data(tmp_path)
    decoded = []

    def count(jpeg, size, fit):
        decoded.append((jpeg, size))
        return decode_frame(jpeg, size, fit)

    decode_frame = decode.decode_frame
    monkeypatch.setattr(decode, "decode_frame", count)
    inject.write_flips(data, "instance", 0.5, 0, tmp_path / "flips.csv")
    records = list(source.open_split(source.find(data), "train"))
    assert decoded == ([] if votes else [(record["frames"][0], 8) for record in records])
    rows = table(tmp_path / "flips.csv")
    stored = [tiny.CLASSES[record["label"]] for record in records]
    assert [row["true_label"] for row in rows] == stored
    assert 0 < sum(row["is_flipped"] == "1" for row in rows) < len(rows)
    inject.write_flips(data, "symmetric", 0.5, 0, tmp_path / "flips.csv")
    assert len(decoded) == (0 if votes else len(records))


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    tiny.build(tmp_path, without((), votes=np.zeros(3, np.float32), frames=[b"no image"]))
    with pytest.raises(ValueError, match=r"clip 'train-\d+': frame 0: 8 bytes are not a JPEG"):
        inject.write_flips(tiny.data(tmp_path), "instance", 0.5, 0, tmp_path / "flips.csv")


def test_a_slip_is_found_before_the_data_set_is_read(tmp_path):
    with pytest.raises(ValueError, match="rate 30"):
        inject.write_flips(tiny.data(tmp_path / "none"), "symmetric", 30, 0, tmp_path / "flips.csv")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "rdfer_jax.main", "inject", "--config=configs/synthetic.py", *arguments],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.e2e
def test_the_command_writes_the_same_and_says_how_many(tiny_data, tmp_path):
    data = [f"--config.data.dir={tiny_data.dir}", "--config.data.name=tiny_faces"]
    flags = ["--kind=symmetric", "--rate=0.5", "--seed=4"]
    done = command(*data, *flags, f"--output={tmp_path / 'one.csv'}")
    assert done.returncode == 0, done.stderr
    counts = inject.write_flips(tiny_data, "symmetric", 0.5, 4, tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    (line,) = done.stdout.splitlines()
    wrong, clips = counts["happy"][1], counts["happy"][0]
    total = sum(flipped for _, flipped in counts.values())
    assert f"{total} of 11 labels flipped" in line and f"happy {wrong} of {clips}" in line
    done = command(*data, "--rate=1.5", f"--output={tmp_path / 'three.csv'}")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "error: rate 1.5: must lie in [0, 1)" in done.stderr
    assert not (tmp_path / "three.csv").exists()


@pytest.mark.slow
def test_training_and_evaluation_see_the_flips(tmp_path):
    tiny.build(tmp_path, without(source.TRUTH_KEYS))
    path = tmp_path / "flips.csv"
    inject.write_flips(tiny.data(tmp_path), "confusion", 0.5, 0, path)
    rows = {row["clip_id"]: row for row in table(path)}
    config = tiny.config(
        data={"dir": str(tmp_path), "labels": str(path), "validation_percent": 30.0},
        train={"duration": "1 steps", "tensorboard": False},
    )
    workdir = tmp_path / "run"

    def check(found):
        saved = np.load(workdir / "predictions_train.npz")
        assert len(saved["clip_id"]) == 8  # without the three that are held out
        for clip, label, true, flipped in zip(
            *(saved[key].tolist() for key in ("clip_id", "label", "true_label", "is_flipped")),
            strict=True,
        ):
            wanted = rows[clip]
            assert tiny.CLASSES[label] == wanted["label"]
            assert tiny.CLASSES[true] == wanted["true_label"]
            assert str(int(flipped)) == wanted["is_flipped"]
        assert found["noise_share"] == saved["is_flipped"].mean() > 0
        assert 0 <= found["noise_auroc_agreement"] <= 1
        assert "found, AUROC" in evaluate.describe(found)
        assert "true_label" not in np.load(workdir / "predictions.npz")
        (workdir / "predictions_train.npz").unlink()
        (workdir / "agreement.png").unlink()

    trained = train.train(config, workdir)
    check(trained)
    evaluated = evaluate.evaluate(config, workdir)
    check(evaluated)
    trained.pop("best_on_validation")
    assert evaluated == trained


def predictions(**known):
    """Predictions of four clips, of which the second is flipped and found by both scores."""
    logits = np.log([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.7, 0.3]])
    arrays = {
        "logits": logits,
        "label": np.zeros(4, int),
        "agreement": np.array([0.9, 0.9, 0.3, 0.8]),
        "noise_score": np.array([0.1, 0.8, 0.9, 0.2]),
        "is_flipped": np.array([False, True, False, False]),
    }
    return Predictions("train", ("a", "b"), arrays | known)


def test_flips_are_looked_for_among_hard_clips_only_where_these_are_known():
    found = evaluate.noise_detection(predictions())
    wanted = {
        "noise_split": "train",
        "noise_share": 0.25,
        "noise_auroc_agreement": pytest.approx(2 / 3),
        "noise_auroc_loss": 1.0,
    }
    assert found == wanted
    hard = evaluate.noise_detection(predictions(is_hard=np.array([False, False, True, False])))
    among = {"noise_auroc_agreement_among_hard": 0.0, "noise_auroc_loss_among_hard": 1.0}
    assert {name: value for name, value in hard.items() if "among" in name} == among
    assert found.items() <= hard.items()
    result = {
        "checkpoint": "last", "step": 1, "split": "test", "war": 0.5, "uar": 0.5, "num_examples": 2,
        "recall_per_class": {"a": 1.0}, "confusion_matrix": [[1, 0], [1, 0]],
    }  # fmt: skip
    assert "hard" not in evaluate.describe(result | found)
    assert "flipped or hard clips only: by agreement 0.0000" in evaluate.describe(result | hard)
    # Without hard clips there is nothing to tell the flipped ones from.
    easy = evaluate.noise_detection(predictions(is_hard=np.zeros(4, bool)))
    assert easy["noise_auroc_loss_among_hard"] is None
    assert "hard" not in evaluate.describe(result | easy)
