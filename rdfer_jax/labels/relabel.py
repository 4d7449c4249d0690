"""Replaces doubtful labels by what a trained network believes, so that a second training starts from them.

    rdfer relabel --workdir=runs/first --output=labels.csv
    rdfer train --config=dfew --config.data.labels=labels.csv --workdir=runs/second

Enters: the given labels, and the memory of a run, which holds its predictions of each training video over
the epochs. Leaves: a CSV file with the columns clip_id and label. No true label is used.
"""

import numpy as np
from etils import epath
from numpy.typing import ArrayLike

from rdfer_jax.labels import csv_file
from rdfer_jax.labels.noise_matrix import Ints, checked_pair, posterior
from rdfer_jax.labels.skill import measure
from rdfer_jax.memory import Memory, remembered
from rdfer_jax.pipeline import label_files
from rdfer_jax.training import run_dir
from rdfer_jax.training.setup import Setup

#: Default thresholds by score. Both scores exceed 1/2 only if another class is more likely than the label,
#: odds also if all are unlikely.
THRESHOLDS = {"odds": 0.6, "posterior": 0.5}


def new_labels(
    labels_N: ArrayLike, probs_NC: ArrayLike, score: str = "odds", threshold: float | None = None
) -> Ints:
    """Returns the most likely class of each video whose score exceeds a threshold, else its label.

    odds: p(best other class) / (p(best other class) + p(label)); the most likely class is that of p.
    posterior: 1 - P(label | p, label), by Bayes' rule with p as the prior and the noise matrix of confident
      learning; the most likely class is that of the posterior.

    Args:
      labels_N: int [N], the given labels, in [0, C).
      probs_NC: float [N, C], class probabilities of each video.
      score: odds or posterior.
      threshold: in [0, 1]; that of THRESHOLDS if None.

    Raises:
      ValueError: an argument has the wrong shape, type or value.
    """
    if score not in THRESHOLDS:
        raise ValueError(f"score: expected one of {', '.join(THRESHOLDS)}, got {score!r}")
    threshold = THRESHOLDS[score] if threshold is None else threshold
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a number in [0, 1], got {threshold}")
    labels_N, probs_NC = checked_pair(labels_N, probs_NC)
    belief_NC = posterior(labels_N, probs_NC) if score == "posterior" else probs_NC
    at_label_N = belief_NC[np.arange(len(labels_N)), labels_N]
    doubt_N = 1 - at_label_N
    if score == "odds":
        other_NC = np.where(np.eye(probs_NC.shape[1], dtype=bool)[labels_N], 0, probs_NC)
        other_N = other_NC.max(axis=1)
        doubt_N = other_N / np.maximum(other_N + at_label_N, 1e-30)
    return np.where(doubt_N > threshold, belief_NC.argmax(axis=1), labels_N)


def write(
    workdir: epath.PathLike,
    output: epath.PathLike,
    score: str = "odds",
    threshold: float | None = None,
) -> tuple[int, int]:
    """Writes the labels for a second training, see `new_labels`.

    Args:
      workdir: folder of a training run with a memory, config.agreement.memory_decay.
      output: the CSV file; may be gs://. An existing file is replaced.
      score: as in `new_labels`.
      threshold: as in `new_labels`.

    Returns:
      The number of videos in the file, and how many of them got another class.

    Raises:
      CheckpointNotFoundError: the run has no checkpoint.
      DatasetNotFoundError: the data set of the run has not been built.
      FileNotFoundError: the folder is not that of a run.
      ValueError: the run has no memory, has not visited every training video, or predicts the given labels
        no better than the most frequent class; or as in `new_labels`.
    """
    setup = Setup.create(run_dir.read(workdir).config)
    step, state = setup.restore(workdir, "last")
    if state.memory is None:
        raise ValueError(
            f"{workdir} remembers no predictions: expected a run with config.agreement.memory_decay above "
            "0, got 0"
        )
    labels_N = np.asarray(state.memory.label)
    if (labels_N < 0).any():
        raise ValueError(
            f"{workdir}: after {step} steps {(labels_N < 0).sum()} of {len(labels_N)} training videos were "
            "not visited; train for an epoch or longer"
        )
    skill = measure(labels_N, np.asarray(remembered(state.memory)).argmax(axis=-1))
    if not skill.proven:
        raise ValueError(
            f"{workdir}: this network is no better than always naming the most frequent class: "
            f"{skill.describe(setup.classes[skill.majority])}. Train longer, or on more clips"
        )
    return len(labels_N), write_remembered(setup, state.memory, output, score, threshold)


def write_remembered(
    setup: Setup,
    memory: Memory,
    output: epath.PathLike,
    score: str = "odds",
    threshold: float | None = None,
) -> int:
    """Writes the labels that follow from a memory of the training videos, and returns how many are new.

    Arguments and errors as in `new_labels` and `write`.
    """
    labels_N = np.asarray(memory.label)
    relabeled_N = new_labels(labels_N, np.asarray(remembered(memory)), score, threshold)
    clips_N = setup.train.columns("clip_id")["clip_id"].tolist()
    names_N = np.array(setup.classes)[relabeled_N].tolist()
    csv_file.write(output, label_files.COLUMNS, zip(clips_N, names_N, strict=True))
    return int((relabeled_N != labels_N).sum())
