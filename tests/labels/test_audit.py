"""Audits from saved predictions: what is refused, what is written, and that it says what is there."""

import csv
import json

import cv2
import numpy as np
import pytest
import tiny
from scipy import stats

from experiments.simulated import simulate
from rdfer_jax import config as config_lib
from rdfer_jax.labels import audit, csv_file
from rdfer_jax.pipeline import label_files
from rdfer_jax.training import run_dir
from rdfer_jax.training.predictions import OUT_OF_FOLD, Predictions

CLASSES = tiny.CLASSES


def save(folder, root, *, split=OUT_OF_FOLD, name="predictions.npz", truth=True):
    """Predictions of the tiny set's training split that know the truth but for one hard clip."""
    records = tiny.records()["train"]
    true = np.array([record["true_label"] for record in records])
    logits = 6.0 * np.eye(3)[true][:, None].repeat(4, axis=1)
    logits[6] = 3.0 * np.eye(3)[[0, 1, 2, 0]]  # its clips disagree
    arrays = {
        "clip_id": np.array([record["clip_id"] for record in records]),
        "label": np.array([record["label"] for record in records]),
        "votes": np.array([record["votes"] for record in records]),
        "logits": logits.mean(axis=1),
        "clip_logits": logits,
        "key_frames": np.zeros((len(records), 2), np.int32),
    }
    if truth:
        arrays |= {key: np.array([r[key] for r in records]) for key in ("true_label", "is_flipped")}
    folder.mkdir(exist_ok=True)
    Predictions(split, CLASSES, arrays).save(folder / name)
    config = tiny.config(data={"dir": str(root)})
    (folder / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
    run_dir.write_data(folder, "tiny_faces/default/1.0.0", CLASSES, len(records))
    return arrays


def test_wrong_labels_are_named_with_what_they_should_be(tmp_path):
    tiny.build(tmp_path)
    arrays = save(tmp_path / "run", tmp_path)
    found = audit.run(tmp_path / "run")
    flipped = arrays["clip_id"][arrays["is_flipped"]]
    assert found["truly_mislabeled"] == len(flipped) and found["precision_at_n"] == 1.0
    assert found["suggested_right"] == 1.0 and found["predictions"] == OUT_OF_FOLD
    output = tmp_path / "run" / "audit"
    assert json.loads((output / "audit.json").read_text()) == found
    rows = list(csv.DictReader((output / "issues.csv").open()))
    assert len(rows) == len(arrays["label"])
    assert {row["clip_id"] for row in rows[: len(flipped)]} == set(flipped)
    true = dict(zip(arrays["clip_id"], arrays["true_label"], strict=True))
    assert all(row["suggested"] == CLASSES[true[row["clip_id"]]] for row in rows[: len(flipped)])
    # As training takes them, and with the truth of every flipped clip.
    suggested = label_files.read(output / "suggested.csv", CLASSES)
    assert suggested == {
        r["clip_id"]: CLASSES.index(r["suggested"]) for r in rows if r["kind"] == "mislabeled"
    }
    assert suggested and all(true[clip_id] == label for clip_id, label in suggested.items())
    page = (output / "audit.html").read_text()
    assert "data:image/jpeg;base64" in page and "truly mislabeled" in page


def test_without_the_data_set_or_the_truth_there_is_still_an_audit(tmp_path, caplog):
    save(tmp_path / "run", tmp_path / "gone", truth=False)
    found = audit.run(tmp_path / "run", tmp_path / "out")
    assert "precision_at_n" not in found and found["num_videos"] == 11
    assert "the page has no pictures: no finished data set" in caplog.text
    assert "data:image/jpeg" not in (tmp_path / "out" / "audit.html").read_text()


@pytest.mark.parametrize(("classes", "clips"), [(3, 22), (2, 40), (7, 300)])
def test_networks_at_chance_suggest_nothing(tmp_path, classes, clips):
    """By the exact tail of the binomial distribution; what an earlier audit wrote is gone."""
    rng = np.random.default_rng(0)
    label = np.arange(clips) % classes
    label[: clips // 4] = 1
    most = np.bincount(label).max()
    tail = [
        sum(stats.binom.pmf(range(n, clips + 1), clips, most / clips)) for n in range(clips + 1)
    ]
    enough = next(n for n in range(clips + 1) if tail[n] < 0.05)
    for right in (enough, enough - 1):
        guess = np.where(np.arange(clips) < right, label, (label + 1) % classes)
        logits = 4.0 * np.eye(classes)[guess][:, None].repeat(2, axis=1)
        arrays = {
            "clip_id": np.array([f"c{i}" for i in range(clips)]),
            "label": label,
            "votes": np.zeros((clips, classes), np.float32),
            "clip_logits": logits + rng.normal(0, 0.1, logits.shape),
        }
        names = tuple(f"class{i}" for i in range(classes))
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        Predictions(OUT_OF_FOLD, names, arrays).save(run / "predictions.npz")
        config = tiny.config(data={"dir": str(tmp_path / "gone")})
        (run / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
        run_dir.write_data(run, "tiny_faces/default/1.0.0", names, clips)
        found = audit.run(run)
        files = sorted(path.name for path in (run / "audit").iterdir())
        if right == enough:
            all_files = ["audit.html", "audit.json", "issues.csv", "sample.csv", "suggested.csv"]
            assert files == all_files
            assert "no better than" not in audit.describe(found)
        else:
            assert files == ["audit.html", "audit.json", "sample.csv"]
            assert json.loads((run / "audit/audit.json").read_text()) == found
            drawn = list(csv.DictReader((run / "audit/sample.csv").open()))
            assert {(row["listed"], row["drawn_from"]) for row in drawn} == {("0", str(clips))}
            written = (run / "audit/audit.html").read_text()
            assert written.count('"sample":true') == len(drawn) == min(clips, 100)
            assert written.count('"kind":"fine"') == len(drawn)
            said = audit.describe(found)
            assert (
                said.startswith("These networks are no better than always naming")
                and "\n" not in said
            )
            assert f"{right / clips:.1%} of {clips} labels" in said
            assert f"always predicting 'class1' gives {most / clips:.1%}" in said


def test_predictions_of_what_was_trained_on_are_refused_unless_forced(tmp_path, caplog):
    save(tmp_path / "run", tmp_path, split="test")
    with pytest.raises(ValueError, match=r"no out-of-fold predictions.*rdfer crossval"):
        audit.run(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"predictions_train.npz: no such file"):
        audit.run(tmp_path / "run", force=True)
    save(tmp_path / "run", tmp_path, split="train", name="predictions_train.npz")
    found = audit.run(tmp_path / "run", force=True)
    assert found["predictions"] == "train" and "these clips were trained on" in caplog.text
    assert found["share"] is None and found["noise_matrix"] is None
    assert "cannot be told: the network was trained on these clips" in audit.describe(found)
    with pytest.raises(ValueError, match="--precision needs out-of-fold predictions"):
        audit.run(tmp_path / "run", force=True, precision=0.9)
    with pytest.raises(FileNotFoundError, match="nothing: no such folder; give the one"):
        audit.run(tmp_path / "nothing")


def simulated(folder, network="truth", votes=None, split=OUT_OF_FOLD, rate=0.3, noise="confusion"):
    """A run with simulated predictions for 1,500 clips, without pictures."""
    data = simulate(1500, noise, rate, network, seed=8)
    classes = tuple(f"class{i}" for i in range(7))
    arrays = {
        "clip_id": np.array([f"c{i}" for i in range(1500)]),
        "label": data.label,
        "votes": np.zeros((1500, 7)) if votes is None else votes(data),
        "clip_logits": np.log(np.maximum(data.probs, 1e-9)),
    }
    folder.mkdir(exist_ok=True)
    Predictions(split, classes, arrays).save(folder / "predictions.npz")
    config = tiny.config(data={"dir": str(folder / "gone")})
    (folder / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
    run_dir.write_data(folder, "tiny_faces/default/1.0.0", classes, 1500)
    return data, classes


def test_a_reviewed_sample_tells_what_predictions_cannot(tmp_path):
    """The owner decides by the truth: the share is known, and the list gets the size that follows."""
    data, classes = simulated(tmp_path / "run", "given")
    found = audit.run(tmp_path / "run")
    assert found["share"]["told"] is False and found["share"]["estimate"] is None
    assert "cannot be told from these predictions" in audit.describe(found)
    output = tmp_path / "run" / "audit"
    sample = list(csv.DictReader((output / "sample.csv").open()))
    page = (output / "audit.html").read_text()
    assert len(sample) == 100 and page.count('"sample":true') == 100
    assert "cannot be told" in page and 'name="sample"' in page
    true = dict(zip((f"c{i}" for i in range(1500)), data.true, strict=True))
    decisions = [(row["clip_id"], classes[true[row["clip_id"]]]) for row in sample]
    # One more, outside of the sample and of what is suggested.
    free = next(f"c{i}" for i in range(1500) if f"c{i}" not in {clip for clip, _ in decisions})
    third = classes[(int(data.label[int(free[1:])]) + 1) % len(classes)]
    decisions.append((free, third))
    csv_file.write(tmp_path / "mine.csv", ("clip_id", "label"), decisions)
    again = audit.run(tmp_path / "run", reviewed=tmp_path / "mine.csv")
    assert again["share"]["source"] == "review" and again["share"]["told"]
    assert again["share"]["low"] < data.is_wrong.mean() < again["share"]["high"]
    assert again["mislabeled"] == pytest.approx(1500 * again["share"]["estimate"], abs=30)
    listed = [row for row in sample if row["listed"] == "1"]
    wrong = sum(classes[true[row["clip_id"]]] != row["label"] for row in listed)
    assert again["review"]["precision"][0] == wrong / len(listed)
    suggested = label_files.read(output / "suggested.csv", classes)
    for clip, name in decisions:
        is_kept = classes[data.label[int(clip[1:])]] == name
        assert suggested.get(clip) == (None if is_kept else classes.index(name))
    assert "of the labels are wrong by the review" in audit.describe(again)
    assert "of the listed labels are wrong" in (output / "audit.html").read_text()
    assert list(csv.DictReader((output / "sample.csv").open())) == sample  # the same sample
    shares = list(csv.DictReader((output / "class_shares.csv").open()))
    assert [row["class"] for row in shares] == list(classes)
    for i, name in enumerate(classes):
        expected = 0.0
        for on in ("0", "1"):
            part = [row for row in sample if row["listed"] == on]
            found = np.mean([true[row["clip_id"]] == i for row in part])
            expected += found * int(part[0]["drawn_from"]) / 1500
        assert float(shares[i]["reviewed"]) == pytest.approx(expected, abs=1e-6), name
    given = np.bincount(data.label, minlength=len(classes)) / 1500
    np.testing.assert_allclose([float(row["given"]) for row in shares], given, atol=1e-6)
    text = audit.describe(
        again | {"review": again["review"] | {"classes": {
            "sad": {"given": 0.1, "reviewed": 0.3, "low": 0.2, "high": 0.4},
            "happy": {"given": 0.1, "reviewed": 0.15, "low": 0.05, "high": 0.2},
        }}}
    )  # fmt: skip
    assert "By the review, sad is 30% of the clips (20% to 40%) and 10% of the labels. With" in text
    assert f"--config.predict.class_shares={output / 'class_shares.csv'}, prediction" in text


def test_a_promise_lists_fewer_clips_that_are_more_often_wrong(tmp_path):
    data, _ = simulated(tmp_path / "run")
    whole, pure = (audit.run(tmp_path / "run", precision=p) for p in (None, 0.95))
    assert 0 < pure["mislabeled"] < whole["mislabeled"] and pure["list_precision"] >= 0.95
    rows = list(csv.DictReader((tmp_path / "run/audit/issues.csv").open()))
    listed = [int(row["clip_id"][1:]) for row in rows if row["kind"] == "mislabeled"]
    assert data.is_wrong[listed].mean() >= 0.92
    assert "At least 9" in audit.describe(pure)


def test_a_review_that_finds_more_wrong_labels_does_not_dilute_a_promise(tmp_path):
    """Wrong labels where the network errs anyway: the review counts them, the list cannot find them."""
    data, classes = simulated(tmp_path / "run", noise="instance")
    before = audit.run(tmp_path / "run", precision=0.9)
    output = tmp_path / "run/audit"
    sample = list(csv.DictReader((output / "sample.csv").open()))
    decisions = [(r["clip_id"], classes[data.true[int(r["clip_id"][1:])]]) for r in sample]
    csv_file.write(tmp_path / "mine.csv", ("clip_id", "label"), decisions)
    after = audit.run(tmp_path / "run", precision=0.9, reviewed=tmp_path / "mine.csv")
    assert after["share"]["estimate"] > 2 * (before["share"]["estimate"] or before["share"]["low"])
    assert after["mislabeled"] <= before["mislabeled"]
    rows = list(csv.DictReader((output / "issues.csv").open()))
    listed = [int(row["clip_id"][1:]) for row in rows if row["kind"] == "mislabeled"]
    assert data.is_wrong[listed].mean() >= 0.87
    assert after["kept"]["low"] >= 0.9 and "By the review, at least" in audit.describe(after)
    review = after["review"] | {"precision": (0.7, 0.6, 0.8)}
    assert "the review found 70% (60% to 80%): rely on the review" in audit.describe(
        after | {"review": review, "kept": None}
    )


def test_the_owners_decisions_promise_what_injected_labels_cannot(tmp_path):
    """People err by a rule that the network has learned: a list is promised once decisions show it."""
    data, classes = simulated(tmp_path / "run", "given", noise="rule")
    audit.run(tmp_path / "run")
    output = tmp_path / "run/audit"

    def review(some=None):
        sample = list(csv.DictReader((output / "sample.csv").open()))
        places = [int(row["clip_id"][1:]) for row in sample][:some]
        rows = [(f"c{i}", classes[data.true[i]]) for i in places]
        csv_file.write(tmp_path / "mine.csv", ("clip_id", "label"), rows)
        found = audit.run(tmp_path / "run", precision=0.9, reviewed=tmp_path / "mine.csv")
        return sample, np.array(places), found

    sample, _, found = review(40)
    assert found["mislabeled"] == found["kept"]["length"] == 0 and found["list_precision"] is None
    said = audit.describe(found)
    assert f"about {found['kept']['more']} more decisions could" in said
    extended = list(csv.DictReader((output / "sample.csv").open()))
    more = [row for row in extended if row not in sample]
    assert len(more) == min(found["kept"]["more"], 100) == len(extended) - len(sample)
    assert {r["listed"] for r in more} == {"1"}
    assert len({(r["listed"], r["drawn_from"]) for r in extended}) == 2  # still of the same list
    for _ in range(3):  # again until it is shown
        _, places, found = review()
        if found["kept"]["length"]:
            break
    rows = list(csv.DictReader((output / "issues.csv").open()))
    listed = [int(row["clip_id"][1:]) for row in rows if row["kind"] == "mislabeled"]
    assert len(listed) > 10 and data.is_wrong[listed].mean() >= found["kept"]["low"] >= 0.9
    assert data.is_wrong[np.intersect1d(listed, places)].all()  # none that was found right
    assert f"of the {len(listed)} mislabeled are wrong (limit at 90%" in audit.describe(found)


def test_a_review_counts_though_the_networks_know_nothing(tmp_path):
    """The sample is of all clips alike, so its decisions tell the share and the classes."""
    data, classes = simulated(tmp_path / "run")
    path = tmp_path / "run/predictions.npz"
    saved = np.random.default_rng(0).normal(size=(1500, 5, 7))
    arrays = {"clip_id": np.array([f"c{i}" for i in range(1500)]), "label": data.label}
    arrays |= {"votes": np.zeros((1500, 7)), "clip_logits": saved}
    Predictions(OUT_OF_FOLD, classes, arrays).save(path)
    audit.run(tmp_path / "run")
    sample = list(csv.DictReader((tmp_path / "run/audit/sample.csv").open()))
    decisions = [(r["clip_id"], classes[data.true[int(r["clip_id"][1:])]]) for r in sample]
    csv_file.write(tmp_path / "mine.csv", ("clip_id", "label"), decisions)
    found = audit.run(tmp_path / "run", reviewed=tmp_path / "mine.csv", precision=0.9)
    wrong = np.mean(
        [name != row["label"] for row, (_, name) in zip(sample, decisions, strict=True)]
    )
    assert found["share"]["estimate"] == pytest.approx(wrong) and not found["better_than_majority"]
    assert found["share"]["low"] < data.is_wrong.mean() < found["share"]["high"]
    said = audit.describe(found)
    assert "no labels are suggested" in said and "of the labels are wrong by the review" in said
    assert (tmp_path / "run/audit/class_shares.csv").exists()
    assert not (tmp_path / "run/audit/suggested.csv").exists()
    written = (tmp_path / "run/audit/audit.html").read_text()
    assert (
        "This page shows the sample." in written and "the 100 clips of the sample, 100" in written
    )


def test_votes_tell_the_share_and_check_hard_clips(tmp_path):
    """Ten annotators see the truth, and disagree more where the expression is weak."""

    def votes(data):
        rng = np.random.default_rng(0)
        sure = np.clip(data.strength / 4, 0.4, 0.95)[:, None]
        return rng.multinomial(10, sure * np.eye(7)[data.true] + (1 - sure) / 7)

    data, _ = simulated(tmp_path / "run", "given", votes)
    found = audit.run(tmp_path / "run")
    assert found["share"]["source"] == "votes" and found["share"]["told"]
    assert found["share"]["estimate"] == pytest.approx(data.is_wrong.mean(), abs=0.02)
    assert found["hard_by_votes"] > 0.65
    assert sum(found["why"].values()) == found["hard"] > 0


def test_a_strip_shows_the_video_and_frames_its_key_frames():
    jpegs = [tiny.picture(0, 6 * i, (16, 16)) for i in range(30)]
    image = cv2.imdecode(np.frombuffer(audit.strip(jpegs, [4, 5]), np.uint8), 1)[..., ::-1]
    side = audit.STRIP_SIDE
    assert image.shape[0] == side and image.shape[1] % side == 0
    cells = image.reshape(side, -1, side, 3).swapaxes(0, 1).astype(int)
    shown = sorted({*(int((i + 0.5) * 30 / 8) for i in range(8)), 4, 5})
    assert len(cells) == len(shown)
    for number, cell in zip(shown, cells, strict=True):
        assert abs(cell[side // 2, side // 2, 1] - 6 * number) < 12
        framed = cell[1, side // 2, 0] > 180
        assert framed == (number in (4, 5))
