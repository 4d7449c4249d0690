import ast
import csv
import dataclasses
import json
import pathlib

import hypothesis
import numpy as np
import pytest
import scipy.spatial.distance
from hypothesis import strategies as st

from rdfer_jax.labels import csv_file, issues, noise_matrix, promise, share, suspicion
from rdfer_jax.labels.noise_matrix import fit_noise

quick = hypothesis.settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def _random(seed, videos=40, clips=3, classes=4):
    """Labels and clips' distributions of any kind, votes for about half of the videos."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.5), (videos, clips))
    votes = rng.multinomial(5, np.full(classes, 1 / classes), videos) * rng.integers(
        2, size=(videos, 1)
    )
    return rng.integers(classes, size=videos), probs, votes


# ---- references: one video after the other, from the formulas


def _entropy(distribution):
    return -sum(p * np.log(p) for p in distribution if p > 0)


def _blend(belief, votes):
    return (belief + votes / sum(votes)) / 2 if sum(votes) > 0 else belief


def _slow_verdicts(labels, clip_probs, votes, clips_belief):
    """The scores of each video, and its kind."""
    videos, clips, classes = clip_probs.shape
    found, why = [], []
    for n in range(videos):
        belief = _blend(clip_probs[n].mean(axis=0), votes[n])
        sharp = _blend(clips_belief[n], votes[n])
        other = max((c for c in range(classes) if c != labels[n]), key=lambda c: belief[c])
        suggested = other if belief[other] > belief[labels[n]] else labels[n]
        quality = belief[labels[n]] / (belief[labels[n]] + belief[other])
        mean_entropy = np.mean([_entropy(clip) for clip in clip_probs[n]])
        divergence = _entropy(clip_probs[n].mean(axis=0)) - mean_entropy
        agreement = 1 - divergence / np.log(min(clips, classes)) if clips > 1 else 1.0
        ease = agreement * (1 - _entropy(sharp) / np.log(classes))
        found.append([suggested, quality, ease, agreement, belief[labels[n]], belief[suggested]])
        flat = _entropy(sharp) / np.log(classes)
        second, first = sorted(sharp)[-2:]
        two = first + second >= 0.8 and second >= 0.25
        why.append(
            "clips disagree" if agreement < 1 - flat else "two expressions" if two else "unsure"
        )
    return why, np.array(found)


@quick
@hypothesis.given(seeds, st.integers(1, 4), st.integers(2, 5), st.booleans())
def test_verdicts_agree_with_a_loop(seed, clips, classes, with_votes):
    labels, probs, votes = _random(seed, 25, clips, classes)
    votes *= with_votes
    found = issues.find_label_issues(labels, probs, votes if with_votes else None)
    clips_belief = fit_noise(labels, probs.mean(axis=1)).belief
    why, scores = _slow_verdicts(labels, probs, votes, clips_belief)
    clip_beliefs = np.array(
        [[_blend(clip, row) for clip in video] for video, row in zip(probs, votes, strict=True)]
    )
    suspicious = suspicion.suspicion(labels, clip_beliefs)
    order = sorted(range(25), key=lambda n: (-suspicious.score[n], n))
    assert [order.index(n) for n in range(25)] == found.rank.tolist()
    kinds = ["hard" if row[2] < 0.5 else "fine" for row in scores]
    for n in order[: round(found.share.estimate * 25)]:
        if scores[n][0] != labels[n]:
            kinds[n] = "mislabeled"
    assert found.kind.tolist() == kinds
    hard = [w if kind == "hard" else "" for w, kind in zip(why, kinds, strict=True)]
    assert found.why.tolist() == hard
    np.testing.assert_allclose(
        found.false_alarms, suspicious.false_alarms(found.share.sure), atol=1e-6
    )
    names = ("suggested", "label_quality", "ease", "agreement", "p_label", "p_suggested")
    for name, expected in zip(names, scores.T, strict=True):
        values = getattr(found, name)
        np.testing.assert_allclose(values, expected, atol=1e-9, err_msg=name)
        assert name == "suggested" or (values.min() >= 0 and values.max() <= 1)
    beliefs = clip_beliefs.mean(axis=1)
    fitted = fit_noise(labels, beliefs)
    assert found.sharpness == pytest.approx(fitted.sharpness, abs=1e-9)
    assert found.share == share.of_predictions(labels, beliefs, fitted.share)


@quick
@hypothesis.given(seeds)
def test_agreement_of_two_clips_agrees_with_scipy(seed):
    _, probs, _ = _random(seed, videos=5, clips=2)
    expected = [1 - scipy.spatial.distance.jensenshannon(*pair, base=2) ** 2 for pair in probs]
    np.testing.assert_allclose(issues.clip_agreement(probs), expected, atol=1e-9)


def test_agreement_of_known_cases():
    eye = np.eye(3)
    np.testing.assert_allclose(
        issues.clip_agreement(eye[[[0, 0, 0], [0, 1, 2]]]), [1, 0], atol=1e-12
    )
    np.testing.assert_array_equal(issues.clip_agreement(np.full((2, 1, 3), 1 / 3)), [1, 1])


# ---- planted truth


def _planted():
    """Clear clips with right and with wrong labels, clips that disagree, and flat ones."""
    true = np.tile(np.arange(4), 50)
    kinds = np.repeat(["fine", "mislabeled", "hard"], [120, 20, 60])
    labels = np.where(kinds == "mislabeled", (true + 1) % 4, true)
    probs = np.repeat((np.eye(4) * 0.96 + 0.01)[true][:, None], 3, axis=1)
    clips_disagree, flat = slice(140, 170), slice(170, 200)
    probs[clips_disagree, 1] = (np.eye(4) * 0.96 + 0.01)[(true[clips_disagree] + 2) % 4]
    probs[flat] = (np.eye(4) * 0.12 + 0.22)[true[flat]][:, None]
    shuffle = np.random.default_rng(2).permutation(200)
    return labels[shuffle], probs[shuffle], kinds[shuffle], true[shuffle]


def test_planted_wrong_labels_and_hard_clips_are_found():
    labels, probs, kinds, true = _planted()
    found = issues.find_label_issues(labels, probs)
    assert found.kind.tolist() == kinds.tolist()
    np.testing.assert_array_equal(found.suggested, true)
    assert set(found.rank[kinds == "mislabeled"]) == set(range(20))
    assert sorted(found.rank) == list(range(200))
    np.testing.assert_array_equal(found.label_quality < 0.5, labels != true)
    # Here none of the hard clips has a wrong label, so the sure ones have more.
    assert found.share.estimate == pytest.approx(20 / 140, abs=0.01)


def test_hard_below_says_how_many_are_hard():
    labels, probs, kinds, _ = _planted()
    assert "hard" not in issues.find_label_issues(labels, probs, hard_below=0).kind
    found = issues.find_label_issues(labels, probs, hard_below=1)
    np.testing.assert_array_equal(found.kind == "hard", kinds != "mislabeled")


def test_votes_count_half_and_only_where_they_are_known():
    labels, probs, _, true = _planted()
    without = issues.find_label_issues(labels, probs)
    unknown = issues.find_label_issues(labels, probs, np.zeros((200, 4)))
    for field in dataclasses.fields(without):
        np.testing.assert_array_equal(getattr(unknown, field.name), getattr(without, field.name))
    votes = np.zeros((200, 4))
    votes[7, true[7]] = 3
    found = issues.find_label_issues(labels, probs, votes)
    expected = without.p_suggested.copy()
    expected[7] = (expected[7] + 1) / 2
    np.testing.assert_allclose(found.p_suggested, expected, atol=1e-12)
    # The unit of the votes does not matter, and flat votes make an easy clip hard.
    same = issues.find_label_issues(labels, probs, votes / 3)
    np.testing.assert_array_equal(same.label_quality, found.label_quality)
    easy = int(np.argmax(without.ease))
    votes[easy] = 1
    assert issues.find_label_issues(labels, probs, votes).kind[easy] == "hard"


def test_a_class_that_is_never_given_is_named_and_gives_no_nan():
    labels, probs, _, _ = _planted()
    labels[labels == 3] = 0
    findings = issues.find_label_issues(labels, probs)
    for value in (findings.given, findings.label_quality, findings.ease):
        assert np.isfinite(value).all()
    np.testing.assert_allclose(findings.given.sum(axis=1), 1)
    assert issues.summary(findings, list("abcd"))["absent_classes"] == ["d"]


@pytest.mark.parametrize("labels", [[0], [1], [0, 1], [1, 1, 1]])
def test_extreme_probabilities_give_numbers(labels):
    probs = np.tile([[[1.0, 0.0, 0.0]]], (len(labels), 2, 1))
    found = issues.find_label_issues(labels, probs)
    numbers = (found.given, found.sharpness, found.share[:4], found.false_alarms)
    for value in (*numbers, found.label_quality, found.ease):
        assert np.isfinite(value).all()
    flat = issues.find_label_issues(labels, np.full((len(labels), 2, 3), 1 / 3))
    assert set(flat.kind) == {"hard"}
    np.testing.assert_array_equal(flat.suggested, labels)


# ---- invariances


@quick
@hypothesis.given(seeds)
def test_the_order_of_the_videos_changes_nothing(seed):
    labels, probs, votes = _random(seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    found = issues.find_label_issues(labels, probs, votes)
    moved = issues.find_label_issues(labels[order], probs[order], votes[order])
    for field in dataclasses.fields(found):
        expected, value = getattr(found, field.name), getattr(moved, field.name)
        if field.name in ("share", "given", "sharpness", "kept"):
            assert field.name in ("share", "kept") or np.allclose(value, expected, atol=1e-6)
        elif field.name in ("kind", "why"):
            np.testing.assert_array_equal(value, expected[order])
        else:
            np.testing.assert_allclose(value, expected[order], atol=1e-6)
    np.testing.assert_allclose(moved.share[:4], found.share[:4], atol=1e-6)


@quick
@hypothesis.given(seeds)
def test_the_order_of_classes_and_clips_changes_nothing(seed):
    labels, probs, votes = _random(seed)
    rng = np.random.default_rng(seed)
    order, clips = rng.permutation(4), rng.permutation(3)
    place = np.argsort(order)
    found = issues.find_label_issues(labels, probs, votes)
    moved = issues.find_label_issues(place[labels], probs[:, clips][..., order], votes[:, order])
    np.testing.assert_array_equal(moved.suggested, place[found.suggested])
    for name in ("label_quality", "ease", "agreement", "p_label", "p_suggested", "rank"):
        np.testing.assert_allclose(getattr(moved, name), getattr(found, name), atol=1e-9)
    np.testing.assert_allclose(moved.given, found.given[np.ix_(order, order)], atol=1e-6)


# ---- bad input

GOOD = np.full((2, 1, 2), 0.5)


@pytest.mark.parametrize(
    ("labels", "probs", "votes", "message"),
    [
        (
            [0.0, 1.0],
            GOOD,
            None,
            r"labels: expected integers of shape \[N\].*float64 of shape \(2,\)",
        ),
        ([[0, 1]], GOOD, None, r"labels: expected integers.*\(1, 2\)"),
        (np.zeros(0, int), GOOD[:0], None, r"N > 0"),
        ([True, False], GOOD, None, "labels: expected integers.*bool"),
        ([0, 2], GOOD, None, r"labels must lie in \[0, 2\).*from 0 to 2"),
        ([-1, 1], GOOD, None, r"labels must lie in \[0, 2\).*from -1 to 1"),
        ([0, 1], GOOD[:, 0, 0], None, r"\[N, C\] or \[N, K, C\], got \(2,\)"),
        ([0, 1], GOOD[None], None, r"\[N, C\] or \[N, K, C\], got \(1, 2, 1, 2\)"),
        ([0, 1], GOOD[:, :0], None, r"\[N, K, C\], got \(2, 0, 2\)"),
        ([0, 1, 0], GOOD, None, r"probs: expected 3 rows.*\(2, 1, 2\)"),
        ([0, 0], np.ones((2, 1, 1)), None, r"at least 2 classes.*\(2, 1, 1\)"),
        ([0, 1], [[[0.5, 0.5]], [[np.nan, 1]]], None, "^probs of video 1 contain nan.*softmax"),
        ([0, 1], [[[1.5, -0.5]], [[0, 1]]], None, "^probs of video 0 contain -0.5.*softmax"),
        ([0, 1], [[[0.5, 0.5]], [[0.7, 1]]], None, "^probs of video 1 sum to 1.7.*softmax"),
        ([0, 1], GOOD, [[1, 2]], r"votes: expected shape \(2, 2\) of \[N, C\], got \(1, 2\)"),
        ([0, 1], GOOD, [[1, 2], [3, -1]], "votes of video 1 contain -1.0.*zeros"),
        ([0, 1], GOOD, [[1, np.nan], [0, 0]], "votes of video 0 contain nan.*zeros"),
        ([0, 1], GOOD, [[1, np.inf], [0, 0]], "votes of video 0 contain inf.*zeros"),
    ],
)
def test_bad_input_is_refused(labels, probs, votes, message):
    with pytest.raises(ValueError, match=message):
        issues.find_label_issues(labels, probs, votes)


def test_hard_below_must_be_a_share():
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="hard_below must lie in"):
            issues.find_label_issues([0, 1], GOOD, hard_below=bad)


def test_one_prediction_per_video_is_one_clip():
    labels, probs, _ = _random(0, clips=1)
    found, expected = (issues.find_label_issues(labels, p) for p in (probs[:, 0], probs))
    for field in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


def test_probabilities_may_be_rounded():
    rounded = np.full((2, 2, 3), 0.3333, np.float32)
    found = issues.find_label_issues([0, 1], rounded)
    np.testing.assert_allclose(found.p_label, 1 / 3, atol=1e-12)


# ---- files


def test_csv_holds_every_video_the_most_suspicious_first(tmp_path):
    probs = np.array([[[0.9, 0.1]], [[0.2, 0.8]], [[0.5, 0.5]], [[0.6, 0.4]]])
    found = issues.find_label_issues([0, 0, 1, 1], probs)
    kinds = ["fine", "mislabeled", "hard", "hard"]
    found = dataclasses.replace(
        found,
        kind=np.array(kinds),
        why=np.array(["", "", "unsure", "clips disagree"]),
        ease=np.array([1, 0.25, 0.5, 0.12345]),
        false_alarms=np.full(4, 0.125),
    )
    names = ["a", 'b,"1"', "c\nd", "é"]
    issues.write_issues(tmp_path / "issues.csv", names, found, ["happy", "very, sad"])
    text = (tmp_path / "issues.csv").read_text()
    assert text.splitlines()[:2] == [
        "clip_id,kind,why,label,suggested,false_alarms,label_quality,ease,agreement,p_label,p_suggested",
        '"b,""1""",mislabeled,,happy,"very, sad",0.1250,0.2000,0.2500,1.0000,0.2000,0.8000',
    ]
    with (tmp_path / "issues.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip_id"] for row in rows] == ['b,"1"', "é", "c\nd", "a"]
    assert [row["suggested"] for row in rows] == ["very, sad", "happy", "very, sad", "happy"]
    assert [row["label_quality"] for row in rows] == ["0.2000", "0.4000", "0.5000", "0.9000"]
    assert rows[1]["ease"] == "0.1235"
    assert tuple(rows[0]) == issues.COLUMNS


def test_summary_counts_and_is_valid_json():
    labels, probs, _, true = _planted()
    found = issues.find_label_issues(labels, probs)
    summary = json.loads(json.dumps(issues.summary(found, list("abcd")), allow_nan=False))
    counts = {"num_videos": 200, "mislabeled": 20, "hard": 60, "fine": 120}
    assert {key: summary[key] for key in counts} == counts
    assert summary["share"] == found.share.to_dict()
    assert summary["sharpness"] == found.sharpness
    assert summary["why"] == {"clips disagree": 30, "two expressions": 0, "unsure": 30}
    assert summary["list_precision"] == 1 - found.false_alarms[found.kind == "mislabeled"].max()
    np.testing.assert_array_equal(summary["noise_matrix"], found.given)
    assert summary["absent_classes"] == []
    for c, name in enumerate("abcd"):
        assert summary["per_class"][name]["num_videos"] == (labels == c).sum()
        wrong = ((labels == c) & (labels != true)).sum()
        assert summary["per_class"][name]["mislabeled"] == wrong
    pairs = [(x["label"], x["suggested"], x["count"]) for x in summary["confusions"]]
    assert sorted(pairs) == [("a", "d", 5), ("b", "a", 5), ("c", "b", 5), ("d", "c", 5)]
    # Of the five of each pair, keep all of one, none of another, and one each of two.
    one = [np.flatnonzero((labels != true) & (labels == c))[0] for c in (0, 3)]
    kept = ((labels != true) & (labels == 2)) | np.isin(np.arange(200), one)
    found = dataclasses.replace(found, kind=np.where(kept, "mislabeled", "fine"))
    pairs = [tuple(x.values()) for x in issues.summary(found, list("abcd"))["confusions"]]
    assert pairs == [("c", "b", 5), ("a", "d", 1), ("d", "c", 1)]


def test_names_must_fit(tmp_path):
    found = issues.find_label_issues([0, 1], GOOD)
    for write in (issues.write_issues, issues.write_labels):
        with pytest.raises(ValueError, match="3 clip_ids for 2 videos"):
            write(tmp_path / "x.csv", ["a", "b", "c"], found, ["x", "y"])
    for write in (
        lambda: issues.write_issues(tmp_path / "x.csv", ["a", "b"], found, ["x"]),
        lambda: issues.write_labels(tmp_path / "x.csv", ["a", "b"], found, ["x"]),
        lambda: issues.summary(found, ["x"]),
    ):
        with pytest.raises(ValueError, match="1 class names for 2 classes"):
            write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", [issues, noise_matrix, promise, share, suspicion, csv_file])
def test_needs_neither_jax_nor_a_model(module):
    tree = ast.parse(pathlib.Path(module.__file__).read_text())
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            own = node.module == "rdfer_jax.labels"
            modules |= {f"{node.module}.{a.name}" for a in node.names} if own else {node.module}
    third_party = {"numpy", "numpy.typing", "scipy", "etils"}
    standard = {"csv", "dataclasses", "io", "math", "collections.abc", "typing"}
    ours = {
        f"rdfer_jax.labels.{name}"
        for name in ("noise_matrix", "promise", "share", "suspicion", "csv_file")
    }
    assert modules <= third_party | standard | ours
