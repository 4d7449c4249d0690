"""What a cell keeps of its predictions for the tables of the protocol, as JSON.

Enters: the predictions of the test split and of the training split, and the memory, after the last step.
Leaves: the predicted class of each test clip; the AUROC of each score of each detection task, with the
covariance of their errors; how the mask calls the training videos, counted against the truth; and a
histogram of agreement by the kind of video.

Scores are measured for the K clips of a video, for one clip alone (the view of the whole video), and for
the video's own prediction: the same score, so that what the clips bring is seen by itself.

Shape letters: B videos, K clips, N classes.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments import noise_scores
from experiments.noise_scores import Evidence
from experiments.statistics import auroc_covariance
from rdfer_jax.config import Config
from rdfer_jax.labels.noise_matrix import posterior
from rdfer_jax.memory import Memory, remembered, remembered_agreement
from rdfer_jax.state import TrainState
from rdfer_jax.steps import judge_videos
from rdfer_jax.training.predictions import Predictions

Vector = NDArray[np.float64]

#: Kinds of training videos, and what the mask calls them; counts of calls are in this order.
KINDS = ("clean, easy", "clean, hard", "flipped")
CALLS = ("clean", "hard", "noisy")
#: Fields of the memory that a cell keeps, as columns memory_NAME of its predictions of the training split.
MEMORY = ("probs", "label", "agreement", "threshold", "visits")
#: Bins of the histogram of agreement, from 0 to 1.
BINS = 50
#: The memory of a video's first clips alone; the very first spans the video.
FIRST_CLIPS = "memory of {} of the clips"


def wrong_posterior(evidence: Evidence) -> Vector:
    """1 - P(label | prediction, T), T by confident learning of the same predictions; no truth is used."""
    mean_BN = np.maximum(evidence.mean, 1e-12)
    mean_BN /= mean_BN.sum(axis=1, keepdims=True)
    return 1 - evidence.at_label(posterior(evidence.label, mean_BN))


#: Scores of a wrong label, and of a hard video, by name; see noise_scores.
FLIPPED = {
    "loss": noise_scores.clips_loss,
    "margin": noise_scores.margin,
    "odds": noise_scores.log_odds,
    "posterior": wrong_posterior,
}
HARD = {"1 - max softmax": lambda e: 1 - noise_scores.confidence(e)}


def collect(
    test: Predictions, train: Predictions | None, state: TrainState, config: Config
) -> dict[str, Any]:
    """Returns what the tables need.

    Args:
      test: predictions of the test split.
      train: predictions of the training split, if it is known which labels are wrong.
      state: after the last step; its memory and class prior are read.
      config: all settings.
    """
    found: dict[str, Any] = {
        "test": {
            "label": digits(test["label"]),
            "prediction": digits(test["logits"].argmax(-1)),
        }
    }
    if "is_hard" in test:
        found["test"]["hard"] = digits(test["is_hard"])
    if train is None or "is_hard" not in train:
        return found
    flipped_B, hard_B = train["is_flipped"].astype(bool), train["is_hard"].astype(bool)
    kind_B = kinds(train)
    agreement_B = np.asarray(train["agreement"], np.float64)
    found["agreement"] = {"clips": histogram(agreement_B, kind_B)}
    memory = state.memory
    if memory is not None and not bool(np.asarray(memory.visits > 0).all()):
        memory = None  # the training was shorter than an epoch
    if memory is not None:
        past_B = np.asarray(remembered_agreement(memory, config.agreement.remember), np.float64)
        found["agreement"]["memory"] = histogram(past_B, kind_B)
    found["calls"] = calls(train, memory, state.class_prior, config, kind_B)
    clips = None if memory is None else state.clip_memory
    flipped, hard = scores(train, memory, config, clips)
    doubtful_B = flipped_B | hard_B
    found["detection"] = {
        "flipped, among all": aurocs(flipped, flipped_B, np.ones_like(flipped_B)),
        "flipped, among flipped or hard": aurocs(flipped, flipped_B, doubtful_B),
        "hard, among right labels": aurocs(hard, hard_B, ~flipped_B),
    }
    return found


def kinds(train: Predictions) -> NDArray[np.integer]:
    """Returns the kind of each training video, int [B], in the order of KINDS."""
    return np.where(train["is_flipped"].astype(bool), 2, train["is_hard"].astype(int))


def digits(values_B: ArrayLike) -> str:
    """Returns small numbers as a text with one character each, 0-9 and then a-z."""
    return "".join("0123456789abcdefghijklmnopqrstuvwxyz"[i] for i in np.asarray(values_B, int))


def numbers(text: str) -> NDArray[np.int64]:
    """Returns the numbers that `digits` wrote."""
    return np.array([int(character, 36) for character in text], np.int64)


def histogram(values_B: Vector, kind_B: NDArray[np.integer]) -> list[list[int]]:
    """Returns the number of videos by kind and bin, KINDS x BINS."""
    return [
        np.histogram(values_B[kind_B == kind], BINS, (0, 1))[0].tolist()
        for kind in range(len(KINDS))
    ]


def calls(
    train: Predictions,
    memory: Memory | None,
    class_prior_N: Any,
    config: Config,
    kind_B: NDArray[np.integer],
) -> list[list[int]]:
    """Returns the number of videos by kind and call, KINDS x CALLS, as training judges them at its end."""
    label_B = jnp.asarray(train["label"], jnp.int32)
    _, parts = judge_videos(
        config, class_prior_N, memory, jnp.arange(len(label_B)), label_B,
        jnp.asarray(train["clip_logits"]),
    )  # fmt: skip
    call_B = np.select([np.asarray(parts.clean), np.asarray(parts.hard)], [0, 1], 2)
    table = np.zeros((len(KINDS), len(CALLS)), int)
    np.add.at(table, (kind_B, call_B), 1)
    return table.tolist()


def scores(
    train: Predictions, memory: Memory | None, config: Config, clip_memory_BKN: Any = None
) -> tuple[dict[str, Vector], dict[str, Vector]]:
    """Returns the scores of wrong labels and of hard videos, float64 [B] by name and view.

    Args:
      train: predictions of the training split.
      memory: of all videos; None if there is none.
      config: all settings.
      clip_memory_BKN: state.clip_memory, for what the memory would hold of fewer clips.
    """
    label_B, logits_BN = train["label"], train["logits"]
    clips_BKN = train["clip_logits"]
    views = {
        "K clips": Evidence.of(logits_BN, clips_BKN, label_B),
        "one clip": Evidence.of(clips_BKN[:, 0], clips_BKN[:, :1], label_B),
        "video": Evidence.of(logits_BN, logits_BN[:, None], label_B),
    }
    if memory is not None:
        held = {"memory": np.asarray(remembered(memory), np.float64)}
        if clip_memory_BKN is not None:
            clip_memory_BKN = np.asarray(clip_memory_BKN, np.float64)
            for number in range(1, clip_memory_BKN.shape[1]):
                mean_BN = clip_memory_BKN[:, :number].mean(axis=1)
                mean_BN /= mean_BN.sum(axis=1, keepdims=True)
                held[FIRST_CLIPS.format(number)] = mean_BN
        for name, probs_BN in held.items():
            log_BN = np.log(np.maximum(probs_BN, 1e-12))
            views[name] = Evidence.of(log_BN, log_BN[:, None], label_B)
    flipped = {
        f"{name}, {view}": function(evidence)
        for name, function in FLIPPED.items()
        for view, evidence in views.items()
    }
    hard = {
        f"{name}, {view}": function(evidence)
        for name, function in HARD.items()
        for view, evidence in views.items()
    }
    hard["1 - agreement, K clips"] = 1 - np.asarray(train["agreement"], np.float64)
    if memory is not None:
        past_B = remembered_agreement(memory, config.agreement.remember)
        hard["1 - agreement, memory"] = 1 - np.asarray(past_B, np.float64)
    return flipped, hard


def aurocs(
    found: Mapping[str, Vector], positive_B: NDArray[np.bool_], among_B: NDArray[np.bool_]
) -> dict[str, Any] | None:
    """Returns the scores' names, AUROCs and covariance of errors; None if all are of one kind."""
    positive = positive_B[among_B]
    if positive.all() or not positive.any():
        return None
    auroc_K, covariance_KK = auroc_covariance([s[among_B] for s in found.values()], positive)
    return {
        "scores": list(found),
        "auroc": auroc_K.round(6).tolist(),
        "covariance": [[float(f"{value:.4g}") for value in row] for row in covariance_KK],
    }
