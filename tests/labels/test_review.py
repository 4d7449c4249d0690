"""The sample to review: how it is drawn, and what decisions say about all labels and about the list."""

import numpy as np
import pytest
from scipy import stats

from rdfer_jax.labels import csv_file, review

CLASSES = ("happy", "sad")
LABELS = np.zeros(1000, int)


@pytest.mark.parametrize(
    ("listed", "others", "expected"),
    [(200, 800, (50, 50)), (10, 990, (10, 90)), (0, 500, (0, 100)), (30, 20, (30, 20))],
)
def test_half_of_the_sample_is_listed(listed, others, expected):
    flags = np.random.default_rng(1).permutation(np.arange(listed + others) < listed)
    sample = review.draw(flags)
    assert (flags[sample].sum(), (~flags[sample]).sum()) == expected
    assert len(set(sample.tolist())) == len(sample) and (np.diff(sample) > 0).all()
    np.testing.assert_array_equal(sample, review.draw(flags))


def test_every_clip_can_be_drawn():
    seen = np.zeros(300)
    for seed in range(60):
        seen[review.draw(np.arange(300) < 100, seed=seed)] += 1
    assert seen[:100].mean() == pytest.approx(30) and seen[100:].mean() == pytest.approx(15)
    assert seen.min() > 0


def _write(folder, wrong_listed=40, wrong_others=3):
    """A sample of 1,000 clips of which 100 are listed, and decisions on all of it and on other clips."""
    clips = [f"c{i}" for i in range(1000)]
    flags = np.arange(1000) < 100
    sample = review.draw(flags)
    review.write_sample(folder / "sample.csv", clips, ["happy"] * 1000, flags, sample)
    wrong = [*sample[flags[sample]][:wrong_listed], *sample[~flags[sample]][:wrong_others]]
    rows = [(clips[i], "sad" if i in wrong else "happy") for i in sample.tolist()]
    elsewhere = [(clips[i], "sad") for i in range(1000) if i not in sample][:7]
    csv_file.write(folder / "decisions.csv", ("clip_id", "label"), rows + elsewhere)
    return clips


def test_decisions_give_the_share_and_the_precision(tmp_path):
    clips = _write(tmp_path)
    found = review.read(tmp_path / "sample.csv", tmp_path / "decisions.csv", clips, LABELS, CLASSES)
    limits = stats.binomtest(40, 50).proportion_ci(method="wilson")
    assert found.precision == pytest.approx((0.8, limits.low, limits.high))
    assert found.share.estimate == pytest.approx((100 * 0.8 + 900 * 0.06) / 1000)
    assert found.share.low < found.share.estimate < found.share.high
    assert (found.reviewed, found.ignored, len(found.sample)) == (100, 7, 100)
    assert "80% of the listed labels are wrong (67% to 89%)" in found.describe()
    assert "7 decisions on other clips are not used" in found.describe()
    assert found.to_dict(CLASSES)["sampled"] == 100


def test_what_does_not_fit_is_refused(tmp_path):
    clips = _write(tmp_path)
    sample, decisions = tmp_path / "sample.csv", tmp_path / "decisions.csv"
    with pytest.raises(FileNotFoundError, match="without --reviewed first"):
        review.read(tmp_path / "none.csv", decisions, clips, LABELS, CLASSES)
    with pytest.raises(ValueError, match="clips of these predictions"):
        review.read(sample, decisions, clips[:500], LABELS[:500], CLASSES)
    csv_file.write(decisions, ("clip_id", "label"), [("c999", "happy")])
    with pytest.raises(ValueError, match="no decision on the listed clips"):
        review.read(sample, decisions, clips, LABELS, CLASSES)
    csv_file.write(decisions, ("clip_id", "label"), [("c1", "joy")])
    with pytest.raises(ValueError, match=r"decisions.csv, line 2, clip 'c1': unknown class 'joy'"):
        review.read(sample, decisions, clips, LABELS, CLASSES)
    sample.write_text("clip_id,label\nc1,happy\n")
    csv_file.write(decisions, ("clip_id", "label"), [("c1", "happy")])
    with pytest.raises(ValueError, match="expected the columns clip_id, label, listed, drawn_from"):
        review.read(sample, decisions, clips, LABELS, CLASSES)


def test_decisions_tell_how_frequent_the_classes_are():
    """Against a slow mean over many samples of half the list and half of the others."""
    rng = np.random.default_rng(0)
    true = rng.choice(3, 2000, p=[0.6, 0.3, 0.1])
    given = np.where(rng.random(2000) < 0.5, 0, true)
    listed = rng.random(2000) < np.where(given != true, 0.5, 0.1)
    counts = np.bincount(given)
    found, inside = [], []
    for _ in range(100):
        parts = [rng.permutation(np.flatnonzero(listed == value))[:50] for value in (True, False)]
        shares = review.shares_of_classes(
            counts,
            [int(listed.sum()), int((~listed).sum())],
            [np.bincount(true[part], minlength=3) for part in parts],
        )
        found.append(shares.reviewed)
        inside.append(
            (shares.low <= np.bincount(true) / 2000) & (np.bincount(true) / 2000 <= shares.high)
        )
    np.testing.assert_allclose(shares.given, counts / 2000)
    np.testing.assert_allclose(np.mean(found, axis=0), np.bincount(true) / 2000, atol=0.02)
    assert np.mean(inside) > 0.9
    between = np.sort([shares.given, shares.reviewed], axis=0)
    assert ((between[0] <= shares.estimate) & (shares.estimate <= between[1])).all()
