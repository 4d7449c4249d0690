"""The matrices of wrong classes, against slow counts."""

import numpy as np
import pytest

from data.synthetic_faces import confusions
from data.synthetic_faces.confusions import CLASSES, CREMA_D, FER2013

SURPRISE = CLASSES.index("surprise")


@pytest.mark.parametrize("kind", confusions.MATRICES)
def test_rows_are_distributions_over_the_wrong_classes(kind):
    matrix = confusions.MATRICES[kind]
    assert matrix.shape == (7, 7) and (matrix >= 0).all() and not matrix.diagonal().any()
    np.testing.assert_allclose(matrix.sum(axis=1), 1)


def test_wrong_classes_are_the_counts_without_the_right_ones():
    for true in range(7):
        wrong = {c: confusions.FER2013_COUNTS[true, c] for c in range(7) if c != true}
        for c, count in wrong.items():
            assert FER2013[true, c] == pytest.approx(count / sum(wrong.values()))


def test_surprise_is_filled_from_fer2013():
    assert not confusions.CREMA_D_COUNTS[SURPRISE].any()
    assert not confusions.CREMA_D_COUNTS[:, SURPRISE].any()
    for true in range(7):
        if true == SURPRISE:
            np.testing.assert_array_equal(CREMA_D[true], FER2013[true])
            continue
        assert CREMA_D[true, SURPRISE] == FER2013[true, SURPRISE]
        others = [c for c in range(7) if c not in (true, SURPRISE)]
        counts = confusions.CREMA_D_COUNTS[true, others]
        expected = (1 - FER2013[true, SURPRISE]) * counts / counts.sum()
        np.testing.assert_allclose(CREMA_D[true, others], expected)


def test_what_readers_know_of_faces():
    """The most frequent confusions of both, as named in the papers."""
    names = {
        kind: {CLASSES[t]: CLASSES[matrix[t].argmax()] for t in range(7)}
        for kind, matrix in confusions.MATRICES.items()
    }
    assert names["crema_d"]["sad"] == "neutral" and names["crema_d"]["angry"] == "disgust"
    assert names["fer2013"]["disgust"] == "angry" and names["fer2013"]["fear"] == "surprise"
    assert names["fer2013"]["surprise"] == "fear" and names["fer2013"]["neutral"] == "sad"
