"""How frequent the classes are by a review: shrinking, the file, and what it does to probabilities."""

import numpy as np
import pytest
from scipy import special

from rdfer_jax import class_shares
from rdfer_jax import config as config_lib
from rdfer_jax.class_shares import ClassShares

CLASSES = ("happy", "sad", "neutral")
GIVEN = np.array([0.5, 0.3, 0.2])
CONFIG = config_lib.resolve(config_lib.default())


def test_a_sample_that_agrees_changes_little_and_one_that_does_not_is_believed():
    other = np.array([0.2, 0.2, 0.6])
    rng = np.random.default_rng(0)

    def mean_distance(truth, size):
        """Mean distances of the sample's shares, and of what it is shrunk to, from the truth."""
        samples = rng.multinomial(size, truth, 400) / size
        shrunk = np.array([class_shares.shrunk(GIVEN, one, size) for one in samples])
        np.testing.assert_allclose(shrunk.sum(axis=1), 1)
        return [np.abs(found - truth).sum(axis=1).mean() for found in (samples, shrunk)]

    raw, shrunk = mean_distance(GIVEN, 50)
    assert shrunk < 0.5 * raw
    raw, shrunk = mean_distance(other, 200)
    assert shrunk < 1.1 * raw
    np.testing.assert_array_equal(class_shares.shrunk(GIVEN, GIVEN, 100), GIVEN)


def test_the_file_gives_bayes_rule(tmp_path):
    estimate = np.array([0.4, 0.2, 0.4])
    rows = ClassShares(GIVEN, estimate, estimate - 0.1, estimate + 0.1, estimate)
    class_shares.write(tmp_path / "shares.csv", CLASSES, rows)
    shift = class_shares.read(tmp_path / "shares.csv", CLASSES[::-1], CONFIG)[::-1]
    # P(class | x) is proportional to P(x | class) P(class).
    likelihood = np.array([0.1, 0.5, 0.3])
    before, after = (likelihood * prior / (likelihood * prior).sum() for prior in (GIVEN, estimate))
    np.testing.assert_allclose(special.softmax(np.log(before) + shift), after, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,share\nhappy,0.5\n", "expected the columns class, given and estimate"),
        (
            "class,given,estimate\nhappy,0.5,much\n",
            "expected the columns class, given and estimate",
        ),
        (
            "class,given,estimate\nhappy,0.5,0.5\nsad,0.5,0.5\n",
            "for each of the classes happy, sad, neutral",
        ),
        (
            "class,given,estimate\nhappy,0.5,0\nsad,0.3,0.5\nneutral,0.2,0.5\n",
            "expected shares above 0",
        ),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, text, message):
    path = tmp_path / "shares.csv"
    with pytest.raises(FileNotFoundError, match=r"config.predict.class_shares = .*no such file"):
        class_shares.read(path, CLASSES, CONFIG)
    path.write_text(text)
    with pytest.raises(ValueError, match=f"shares.csv: .*{message}"):
        class_shares.read(path, CLASSES, CONFIG)
