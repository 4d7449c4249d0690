"""Which wrong class a label gets: our own matrix, and those of real people.

All matrices are [7, 7] in DFEW's order: the probability of each wrong class (column) given that the label
of a clip of the true class (row) is wrong. The diagonal is 0, and rows sum to 1. How often a class is
mislabeled is not in them: the flip rate is that of the data set.

`FER2013_COUNTS` and `CREMA_D_COUNTS` were printed by

    python -m experiments.confusions --fer2013=fer2013.csv --ferplus=fer2013new.csv --crema_d=votes.csv

from the published files; neither a picture nor a row of them is part of this project.
"""

import numpy as np

from ..schema import DFEW_CLASSES as CLASSES

#: Invented: our own numbers, modeled on the confusions that studies of human judgment report: fear with
#: surprise, disgust with anger, sadness with neutral; happiness is rarely confused, and then with neutral
#: or surprise.
CONFUSION = np.array(
    [
        # happy  sad   neutral angry surpr. disgust fear
        [0.00, 0.05, 0.45, 0.05, 0.35, 0.05, 0.05],  # happy
        [0.03, 0.00, 0.45, 0.20, 0.02, 0.15, 0.15],  # sad
        [0.20, 0.45, 0.00, 0.20, 0.08, 0.04, 0.03],  # neutral
        [0.03, 0.15, 0.25, 0.00, 0.09, 0.40, 0.08],  # angry
        [0.15, 0.04, 0.12, 0.06, 0.00, 0.03, 0.60],  # surprise
        [0.04, 0.20, 0.15, 0.50, 0.03, 0.00, 0.08],  # disgust
        [0.02, 0.15, 0.05, 0.10, 0.60, 0.08, 0.00],  # fear
    ]
)

#: Measured: pictures of FER2013 by the majority of FER+'s ten votes (row) and FER2013's label (column).
#: 33,500 pictures whose majority is one of the seven classes and is not shared with another answer; 34.0 %
#: have another label. FER2013 was labeled by a web search for words of emotion, then cleaned by people.
#: Goodfellow et al. (2013), "Challenges in representation learning: a report on three machine learning
#: contests"; Barsoum et al. (2016), "Training deep networks for facial expression recognition with
#: crowd-sourced label distribution", https://github.com/microsoft/FERPlus (MIT). The file with FER2013's
#: labels was put together again from public copies; 181 of its rows have the majority as their label, of
#: which 169 are counted here, on the diagonal.
FER2013_COUNTS = np.array(
    [
        # happy, sad, neutral, angry, surprise, disgust, fear
        [8217, 67, 366, 136, 269, 13, 131],  # happy, 9199
        [11, 2444, 273, 338, 28, 103, 1025],  # sad, 4222
        [424, 2862, 5214, 1389, 253, 38, 1593],  # neutral, 11773
        [24, 125, 21, 2291, 33, 89, 442],  # angry, 3025
        [155, 50, 35, 163, 3147, 5, 685],  # surprise, 4240
        [0, 8, 0, 50, 1, 159, 10],  # disgust, 228
        [3, 27, 0, 37, 96, 9, 641],  # fear, 813
    ]
)

#: Measured: votes (column) of people who saw the face only, without the voice, on 7,442 clips of actors by
#: the intended class (row). CREMA-D has no surprise, whose row and column are 0.
#: Cao et al. (2014), "CREMA-D: crowd-sourced emotional multimodal actors dataset",
#: https://github.com/CheyneyComputerScience/CREMA-D (Open Database License).
CREMA_D_COUNTS = np.array(
    [
        # happy, sad, neutral, angry, surprise, disgust, fear
        [10829, 83, 1058, 106, 0, 165, 113],  # happy, 12354
        [194, 3924, 4996, 416, 0, 1221, 1472],  # sad, 12223
        [444, 839, 7500, 466, 0, 811, 427],  # neutral, 10487
        [344, 301, 1729, 6933, 0, 2341, 555],  # angry, 12203
        [0, 0, 0, 0, 0, 0, 0],  # surprise, 0
        [155, 2463, 717, 984, 0, 6641, 1253],  # disgust, 12213
        [186, 1682, 2628, 1100, 0, 1249, 5329],  # fear, 12174
    ]
)


def wrong_classes(counts_CC: np.ndarray) -> np.ndarray:
    """Returns counts as probabilities of the wrong classes: no diagonal, rows that sum to 1 (or 0)."""
    wrong_CC = np.where(np.eye(len(counts_CC), dtype=bool), 0.0, counts_CC)
    return wrong_CC / np.maximum(wrong_CC.sum(axis=1, keepdims=True), 1)


def with_surprise(matrix_CC: np.ndarray, other_CC: np.ndarray) -> np.ndarray:
    """Fills the missing row and column of surprise from another matrix of wrong classes.

    The row is that of the other matrix. In the rows of the other classes, surprise gets the share that it
    has there, and what remains is divided as in `matrix_CC`.
    """
    surprise = CLASSES.index("surprise")
    share_C = other_CC[:, surprise]
    filled_CC = (1 - share_C)[:, None] * matrix_CC
    filled_CC[:, surprise] = share_C
    filled_CC[surprise] = other_CC[surprise]
    return filled_CC


FER2013 = wrong_classes(FER2013_COUNTS)
CREMA_D = with_surprise(wrong_classes(CREMA_D_COUNTS), FER2013)

#: Of pairs of classes that differ in movement only: our own numbers, six in ten wrong labels name the other
#: member of the pair.
MOVEMENT = wrong_classes(np.kron(np.eye(4), [[0, 8], [8, 0]]) + 1)

#: The matrices by the kind of flips that uses them.
MATRICES = {"confusion": CONFUSION, "fer2013": FER2013, "crema_d": CREMA_D}
