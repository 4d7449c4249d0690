"""Simulated predictions for the clips of a data set with known wrong labels; no network and no video.

Enters: the number of videos, the noise, the kind of network, a seed. Leaves: true and given labels, and
what a network that was not trained on a video would predict for its K clips.

A video of class c shows the features x = m v_c + e, and each clip x_k = x + e_k with normal e and e_k. The
strength m of the expression differs between videos; where it is low, the video is hard and its clips
disagree. The vectors v_c of similar expressions, such as fear and surprise, are close to each other. So the
probabilities of the classes given the clip are known exactly (Bayes' rule), and the networks are made from
them; see NETWORKS.

Letters: N videos, K clips, C classes, D features.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rdfer_jax.labels import inject

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: DFEW's clips of each class, in its order; see data/dfew/README.md.
DFEW_COUNTS = (2445, 1894, 2669, 2173, 1469, 145, 902)
NUM_CLASSES = len(DFEW_COUNTS)
#: What the predictions are calibrated to. truth: P(true | clip). given: P(given | clip), which a network
#: learns that is trained with cross-entropy on the given labels. memorized: the mean of the two.
#: overconfident, underconfident: those of truth to the power 2.5 or 0.4, normalized.
NETWORKS = ("truth", "given", "memorized", "overconfident", "underconfident")
#: How wrong labels are chosen. confusion, symmetric: see rdfer_jax.labels.inject, independent of the video.
#: instance: as people who see the video and are unsure; wrong labels are more frequent in hard videos, and
#: go to the classes that these resemble. mixed: half of the wrong labels each, symmetric and instance.
NOISES = ("confusion", "symmetric", "instance", "mixed")
#: Not in the grid. A quarter of the wrong labels is symmetric; the others are by a rule: in videos with a
#: trait that the network sees, people call the class by its next one, FOLLOWED of the time. A network that
#: is calibrated to the given labels then doubts the right labels of these videos.
RULE, FOLLOWED = "rule", 0.8
POWER = {"overconfident": 2.5, "underconfident": 0.4}
#: Of noise by instance: what is added to the doubt and to the weight of each wrong class, so that also sure
#: videos get wrong labels, and of any class.
UNDOUBTED, RARELY = 0.05, 1e-3
#: Strength of the expression: smallest, largest, and the exponent of the uniform number between them. And
#: the standard deviation of the clips around their video.
WEAKEST, STRONGEST, EXPONENT, CLIP_DEVIATION = 0.6, 4.5, 0.7, 0.5


@dataclasses.dataclass(frozen=True)
class Simulated:
    """A simulated data set with predictions.

    Attributes:
      true: int64 [N], the true classes.
      label: int64 [N], the given labels.
      probs: float64 [N, K, C], the predictions for the clips.
      strength: float64 [N], m, low for hard videos.
    """

    true: Ints
    label: Ints
    probs: Floats
    strength: Floats

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """Whether the given label is wrong, bool [N]."""
        return self.true != self.label


def simulate(
    num_videos: int,
    noise: str = "confusion",
    rate: float = 0.2,
    network: str = "truth",
    seed: int = 0,
    clips: int = 5,
    balanced: bool = False,
) -> Simulated:
    """Draws a data set and the predictions of a network.

    Args:
      num_videos: N.
      noise: one of NOISES, or RULE.
      rate: expected share of wrong labels, in [0, 1).
      network: one of NETWORKS.
      seed: of all random numbers.
      clips: K.
      balanced: equally frequent classes instead of DFEW's.

    Raises:
      ValueError: noise or network is unknown.
    """
    if noise not in (*NOISES, RULE) or network not in NETWORKS:
        raise ValueError(
            f"expected noise in {', '.join((*NOISES, RULE))} and network in {', '.join(NETWORKS)}, got "
            f"{noise!r} and {network!r}"
        )
    rng = np.random.default_rng([seed, num_videos])
    prior_C = np.ones(NUM_CLASSES) if balanced else np.array(DFEW_COUNTS, float)
    prior_C /= prior_C.sum()
    true_N = rng.choice(NUM_CLASSES, num_videos, p=prior_C)
    vectors_CD = _vectors()
    strength_N = WEAKEST + (STRONGEST - WEAKEST) * rng.random(num_videos) ** EXPONENT
    video_ND = strength_N[:, None] * vectors_CD[true_N]
    video_ND += rng.standard_normal(video_ND.shape)
    clip_NKD = video_ND[:, None] + CLIP_DEVIATION * rng.standard_normal(
        (num_videos, clips, NUM_CLASSES)
    )
    truth_NKC = _posterior(clip_NKD, strength_N[:, None], 1 + CLIP_DEVIATION**2, prior_C)
    seen_NC = _posterior(video_ND, strength_N, 1.0, prior_C)
    given_NCC = (
        _given_by_rule(rng, num_videos, rate)
        if noise == RULE
        else _given_if(seen_NC, true_N, noise, rate)
    )
    sum_NC = given_NCC[np.arange(num_videos), true_N].cumsum(axis=1)
    label_N = (sum_NC / sum_NC[:, -1:] <= rng.random((num_videos, 1))).sum(axis=1)
    return Simulated(true_N, label_N, _predicted(truth_NKC, given_NCC, network), strength_N)


def _vectors() -> Floats:
    """The directions of the classes, float64 [C, C]; similar for those that people confuse."""
    confused_CC = inject.default_confusion(NUM_CLASSES)
    similar_CC = np.eye(NUM_CLASSES) + (confused_CC + confused_CC.T) / 2
    values_C, basis_CC = np.linalg.eigh(similar_CC)
    return basis_CC * np.sqrt(np.maximum(values_C, 0))


def _posterior(x: Floats, strength: Floats, variance: float, prior_C: Floats) -> Floats:
    """P(class | features): x ~ Normal(strength v_c, variance), with the class's prior; float64 [..., C]."""
    vectors_CD = _vectors()
    square_C = (vectors_CD**2).sum(axis=1)
    mean = strength[..., None]
    logits = (mean * (x @ vectors_CD.T) - mean**2 * square_C / 2) / variance + np.log(prior_C)
    return special.softmax(logits, axis=-1)


def _given_if(seen_NC: Floats, true_N: Ints, noise: str, rate: float) -> Floats:
    """P(given | true class, video), float64 [N, true, given], with a mean share of `rate` wrong labels."""
    eye_CC = np.eye(NUM_CLASSES)
    even_CC = (1 - eye_CC) / (NUM_CLASSES - 1)
    if noise in ("symmetric", "confusion"):
        wrong_CC = even_CC if noise == "symmetric" else inject.default_confusion(NUM_CLASSES)
        return np.broadcast_to((1 - rate) * eye_CC + rate * wrong_CC, (len(true_N), *eye_CC.shape))
    if noise == "mixed":
        halves = (_given_if(seen_NC, true_N, kind, rate) for kind in ("symmetric", "instance"))
        return np.mean(list(halves), axis=0)
    doubt_NC = UNDOUBTED + 1 - seen_NC
    at_true_N = doubt_NC[np.arange(len(true_N)), true_N]
    rate_NC = (
        doubt_NC * (inject.scaled(at_true_N, rate) / at_true_N).max() if rate else 0 * doubt_NC
    )
    wrong_NCC = (seen_NC[:, None] + RARELY) * (1 - eye_CC)
    wrong_NCC /= wrong_NCC.sum(axis=-1, keepdims=True)
    rate_NC1 = np.minimum(rate_NC, 1)[..., None]
    return (1 - rate_NC1) * eye_CC + rate_NC1 * wrong_NCC


def _given_by_rule(rng: np.random.Generator, num_videos: int, rate: float) -> Floats:
    """P(given | true class, video) of noise by the RULE, float64 [N, true, given]."""
    eye_CC = np.eye(NUM_CLASSES)
    even_CC = (1 - eye_CC) / (NUM_CLASSES - 1)
    others_CC = (1 - rate / 4) * eye_CC + rate / 4 * even_CC
    trait_CC = FOLLOWED * np.roll(eye_CC, 1, axis=1) + (1 - FOLLOWED) * others_CC
    # The shares of all wrong labels and of those outside the trait follow from this.
    has_trait_N = rng.random(num_videos) < 0.75 * rate / FOLLOWED
    return np.where(has_trait_N[:, None, None], trait_CC, others_CC)


def _predicted(truth_NKC: Floats, given_NCC: Floats, network: str) -> Floats:
    if network in POWER:
        return special.softmax(POWER[network] * np.log(np.maximum(truth_NKC, 1e-12)), axis=-1)
    share = {"truth": 0.0, "given": 1.0, "memorized": 0.5}[network]
    return (1 - share) * truth_NKC + share * (truth_NKC @ given_NCC)
