"""What a review tells: the regression, the random sample and the lists, on audits of known truth."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from experiments import reviews
from experiments.reviews import Listed
from experiments.simulated import simulate
from rdfer_jax import find_label_issues
from rdfer_jax.training.predictions import TEST_FILE, TRAIN_FILE, Predictions


def made_up(count=4000, slope=2.0, seed=0):
    """An audit whose P(wrong) is a logistic function of the score, and whose list starts at score 1."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=count)
    wrong = rng.random(count) < 1 / (1 + np.exp(-(slope * score - 1)))
    return Listed(score, wrong, score > 1, score > 0, np.ones(count, bool))


def test_the_regression_is_that_of_scikit_learn():
    audit = made_up(300)
    beta, covariance = reviews.regression(audit.score, audit.wrong)
    x = np.stack([np.ones(300), audit.score], axis=1)
    fitted = LogisticRegression(C=reviews.PRIOR, fit_intercept=False, tol=1e-10).fit(x, audit.wrong)
    np.testing.assert_allclose(beta, fitted.coef_[0], atol=1e-4)
    p = fitted.predict_proba(x)[:, 1]
    information = (x * (p * (1 - p))[:, None]).T @ x + np.eye(2) / reviews.PRIOR
    np.testing.assert_allclose(covariance, np.linalg.inv(information), rtol=1e-3)
    for same in (True, False):  # also where all decisions are the same
        assert np.isfinite(reviews.regression(audit.score, np.full(300, same))[0]).all()


def test_the_list_before_the_review_is_that_of_the_audit():
    data = simulate(500, "confusion", 0.3)
    found = find_label_issues(data.label, data.probs, precision=0.9)
    audit = Listed.of(data)
    np.testing.assert_array_equal(audit.listed, found.kind == "mislabeled")
    whole = find_label_issues(data.label, data.probs).kind == "mislabeled"
    np.testing.assert_array_equal(audit.whole, whole)
    np.testing.assert_array_equal(np.argsort(-audit.score, kind="stable"), np.argsort(found.rank))


def test_a_review_promises_the_start_of_the_list():
    audit, rng = made_up(), np.random.default_rng(2)
    lists = [reviews.kept(audit, 400, rng) for _ in range(20)]
    some = [listed for listed in lists if listed.any()]
    assert len(some) > 10 and not any((listed & ~audit.whole).any() for listed in some)
    right = [audit.wrong[listed].mean() for listed in some]
    assert np.mean(right) > 0.9 and np.mean(np.less(right, 0.9)) <= 0.2


def test_a_review_of_everything_tells_the_length_of_the_list():
    audit, rng = made_up(), np.random.default_rng(3)
    listed = reviews.by_share(audit, 10**6, rng)
    assert (
        listed.sum() == audit.wrong.sum() and audit.score[listed].min() > audit.score[~listed].max()
    )
    longer = reviews.by_share(audit._replace(whole=audit.score > 2), 10**6, rng)
    np.testing.assert_array_equal(longer, listed)


def test_a_cut_by_the_true_regression_keeps_the_promise():
    audit = made_up(20_000)
    listed = reviews.cut(audit, np.array([-1, 2.0]))
    assert audit.wrong[listed].mean() == pytest.approx(0.9, abs=0.02)
    assert audit.score[listed].min() > audit.score[~listed].max()
    assert not reviews.cut(audit, np.array([-9, 0.0])).any()


def test_the_sample_and_every_order_choose_other_clips_of_the_right_kind():
    audit, rng = made_up(), np.random.default_rng(0)
    first = reviews.sample(audit.listed, 100, rng)
    assert len(set(first)) == 100 and audit.listed[first].sum() == 50
    left = np.setdiff1d(np.arange(4000), first)
    for name, order in reviews.ORDERS.items():
        more = order(audit, first, left, rng)
        assert len(set(more)) == reviews.NEXT and not set(more) & set(first), name
        if name == "suspicion":
            rest = np.setdiff1d(left, more)
            assert audit.score[more].min() >= audit.score[rest].max()
        if name == "nearest to the cut":
            assert np.abs(audit.score[more] - 1).max() < 0.1


def test_the_variance_falls_as_the_order_promises():
    """The greedy order lowers the variance of the list's precision more than random clips do."""
    audit, rng = made_up(), np.random.default_rng(0)
    first = reviews.sample(audit.listed, 100, rng)
    left = np.setdiff1d(np.arange(4000), first)
    beta, _ = reviews.regression(audit.score[first], audit.wrong[first])
    x = np.stack([np.ones(4000), audit.score], axis=1)
    p = 1 / (1 + np.exp(-(x @ beta)))

    def variance(chosen):
        rows = np.concatenate([first, chosen])
        information = (x[rows] * (p * (1 - p))[rows, None]).T @ x[rows] + np.eye(2) / reviews.PRIOR
        gradient = ((p * (1 - p))[:, None] * x)[audit.listed].mean(axis=0)
        return gradient @ np.linalg.inv(information) @ gradient

    chosen = reviews.by_variance(audit, first, left, 20)
    others = [variance(rng.permutation(left)[:20]) for _ in range(200)]
    assert variance(chosen) < min(others)


def test_the_gain_of_followed_class_shares_is_that_of_the_true_ones_if_all_is_reviewed(
    tmp_path, monkeypatch
):
    """Half of one class carries another label, and the network has learned these shares."""
    rng = np.random.default_rng(0)
    classes = ("happy", "sad", "neutral")
    true = rng.integers(3, size=600)
    label = np.where((true == 2) & (rng.random(600) < 0.5), 1, true)
    test = rng.integers(3, size=400)
    given, right = (np.bincount(one, minlength=3) / 600 for one in (label, true))
    logits = rng.normal(size=(400, 3)) + 1.5 * np.eye(3)[test] + np.log(given / right)
    views = 3 * np.eye(3)[true][:, None] + rng.normal(size=(600, 2, 3))
    train = {"clip_id": np.arange(600).astype(str), "label": label, "true_label": true}
    train |= {"logits": views.mean(1), "clip_logits": views}
    (tmp_path / "run").mkdir()
    Predictions("train", classes, train).save(tmp_path / "run" / TRAIN_FILE)
    tested = {"clip_id": np.arange(400).astype(str), "label": test, "logits": logits}
    Predictions("test", classes, tested).save(tmp_path / "run" / TEST_FILE)
    monkeypatch.setattr(reviews, "SIZES", (10**6,))
    monkeypatch.setattr(reviews, "FOLLOWED", 2)
    shrunk = given + (right - given) * (1 - 2 / (600 * ((right - given) ** 2 / given).sum()))
    recalls = [
        [(best == test)[test == c].mean() for c in range(3)]
        for best in (logits.argmax(1), (logits + np.log(shrunk / given)).argmax(1))
    ]
    (row,) = reviews.gains([tmp_path])
    assert (
        row["uar"] == pytest.approx(np.mean(recalls[1]) - np.mean(recalls[0])) and row["uar"] > 0.01
    )
    share = np.bincount(test) / 400
    assert row["war"] == pytest.approx(np.dot(share, recalls[1]) - np.dot(share, recalls[0]))
    assert row["lowest war"] == row["war"]


def test_the_tables_show_what_was_measured():
    found = reviews.summary([made_up(), made_up(seed=1)], repeats=40, order_repeats=20)
    assert found["audits"] == 2 and found["too short"] == 0
    true = np.mean([a.wrong[a.listed].mean() for a in (made_up(), made_up(seed=1))])
    for row in found["promise"]:
        assert row["precision"] == pytest.approx(true)
        assert row["reviewed"] == pytest.approx(true, abs=0.03) and row["covered"] > 0.85
    widths = [row["width"] for row in found["promise"]]
    assert widths == sorted(widths, reverse=True)
    errors = {row["order"]: row["rmse"] for row in found["orders"]}
    assert errors["variance"] < errors["none"]  # where the regression holds, it works
    assert abs(found["orders"][0]["bias"]) < 0.03
    text = reviews.text(found)
    assert "| random, on the list |" in text
