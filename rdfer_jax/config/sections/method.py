"""Settings of the method: agreement and loss."""

import dataclasses
from typing import Literal

from rdfer_jax.config.parsing import check_duration
from rdfer_jax.config.sections.base import Section, field


@dataclasses.dataclass(frozen=True)
class Agreement(Section):
    """How the agreement of a video's clips is measured, and how its label is judged by it."""

    measure: Literal["soft", "vote"] = field("soft", "agreement measure")
    temperature: float = field(
        0.5,
        "the clips' logits are divided by it in the measure of agreement alone; below 1, differences "
        "between clips count more",
        low=0.01,
        high=100,
    )
    threshold: float = field(
        0.2,
        "tau: how much the clips must agree to count as agreeing; threshold_kind says of what",
        low=0,
        high=1,
    )
    threshold_kind: Literal["fixed", "quantile", "mixture", "running"] = field(
        "quantile",
        "what threshold means; quantile: of the agreements of all training videos, so that a share of tau "
        "of them does not agree; fixed: the smallest agreement, which lies above 0.85 for most videos; "
        "mixture: threshold and noise_threshold are probabilities under two normal distributions "
        "fitted to all training videos; running: tau, and each video has its own threshold on the "
        "label's probability, which all clips pass if clean and none if noisy",
    )
    score: Literal["odds", "support", "posterior"] = field(
        "odds",
        "noise score, how likely a label is wrong; odds: odds of the best other class against the "
        "label; support: 1 minus the label's highest probability in any clip; posterior: 1 minus the "
        "label's probability given the prediction and a noise matrix that is estimated from the memory",
    )
    noise_threshold: float = field(
        0.5, "a video can be judged noisy only if its noise score is above this", low=0, high=1
    )
    noisy_agrees: bool = field(
        True,
        "whether a video can be judged noisy only if its clips agree; off: the consensus on another class "
        "and the noise score suffice, which takes a higher noise_threshold",
    )
    prior_correction: float = field(
        0.0,
        "r: the odds of the noise score are those of p / m^r, m the mean of the remembered predictions, so "
        "that labels of rare classes do not look wrong for being rare; 0: off, 1: as if all classes were "
        "equally frequent",
        low=0,
        high=1,
    )
    protect_below: float = field(
        0.0,
        "share of the training labels below which a class is rare; a label of a rare class is judged "
        "noisy only if its noise score is above protect_threshold; 0: off",
        low=0,
        high=1,
    )
    protect_threshold: float = field(
        0.9, "the noise threshold of rare classes, see protect_below", low=0, high=1
    )
    memory_decay: float = field(
        0.8,
        "decay of the moving average of each video's predictions; 0: no memory",
        low=0,
        high=0.999,
    )
    remember: float = field(
        0.6,
        "decay of the moving average of each video's agreement; 0, or no memory: the agreement of the "
        "present clips",
        low=0,
        high=0.999,
    )
    remember_clips: bool = field(
        False,
        "also remember the predictions of each clip by itself; training does not read them, they measure "
        "what several clips bring",
    )
    running_decay: float = field(
        0.9,
        "m: decay of each video's running threshold, per visit, for threshold_kind = running",
        low=0,
        high=0.999,
    )
    teacher_decay: float = field(
        0.0,
        "decay of the moving average of the weights (teacher), per step; 0: no teacher",
        low=0,
        high=0.99999,
    )
    gradient: bool = field(False, "let gradients flow through the agreement")


@dataclasses.dataclass(frozen=True)
class Loss(Section):
    """The loss: that of the method, or one it is compared with."""

    method: Literal[
        "agreement",
        "cross_entropy",
        "focal",
        "gce",
        "sce",
        "elr",
        "small_loss",
        "scn",
        "forward",
        "self_calibrated",
        "ssr",
        "votes",
        "oracle",
    ] = field(
        "agreement",
        "how wrong labels are handled; forward: forward correction by a noise matrix that is estimated "
        "from the memory; self_calibrated: a loss for each kind of the partition, for "
        "agreement.threshold_kind = running; ssr: selection and relabeling by neighbors in feature space; "
        "votes: the targets are the annotators' votes, where there are any; "
        "oracle: drop the labels known to be wrong",
    )
    label_smoothing: float = field(
        0.1, "label smoothing: probability spread over all classes", low=0, high=0.9
    )
    logit_adjustment: float = field(
        0.0,
        "tau: the loss takes logits + tau log prior, prior being the shares of the training labels, so "
        "that rare classes are not neglected; 0: off, 1: for balanced classes",
        low=0,
        high=4,
    )
    clips: float = field(0.1, "weight of the clip loss", low=0)
    long: float = field(0.1, "weight of the long-term stream's loss", low=0)
    instants: float = field(0.1, "weight of the key instants' loss", low=0)
    hard: float = field(
        0.5,
        "gamma: weight of a hard video is 1 + gamma (1 - agreement), or what hard_scale says",
        low=0,
    )
    hard_scale: Literal["agreement", "rank"] = field(
        "rank",
        "what gamma multiplies; agreement: 1 - agreement, seldom above 0.2; rank: 1 minus the rank of the "
        "agreement among all training videos, from 0 to 1",
    )
    hard_elsewhere: bool = field(
        False, "reinforce hard videos, too, whose consensus is another class than their label"
    )
    noisy_weight: float = field(1.0, "weight of a noisy video", low=0, high=1)
    refurbish: Literal["noisy", "all", "posterior"] = field(
        "noisy",
        "which targets are blended with the prediction; noisy: those of noisy videos; all: every "
        "target, by the square of its noise score; posterior: every target is the probability of the "
        "true class given the remembered prediction, the label and the noise matrix",
    )
    sharpness: float = field(
        3.0,
        "a: for refurbish = posterior, the remembered prediction p counts as p^a",
        low=0.1,
        high=20,
    )
    noisy_target: float = field(
        1.0, "beta: share of the prediction in a blended target", low=0, high=1
    )
    limit_share: Literal["none", "confident_learning", "sure_half"] = field(
        "none",
        "limit on the share of the training videos that may be judged noisy: an estimate of the share of "
        "wrong labels from the memory; confident_learning: that of confident learning, which counts "
        "mistakes of the network, too; sure_half: the share of other labels among the surest half of the "
        "predictions of each class; none: no limit",
    )
    max_contradicted: float = field(
        0.6,
        "while the memory names another class than the label for a larger share of the training videos, "
        "the network knows too little, and all videos count as clean; 1: no such limit. Raise it if more "
        "labels than that are wrong",
        low=0,
        high=1,
    )
    correct_margin: float = field(
        0.1,
        "self_calibrated: a noisy video gets the consensus as its label if its probability exceeds the "
        "video's running threshold by more than this, or 0.99",
        low=0,
        high=1,
    )
    robust_from: str = field(
        "40 %",
        "duration after which the method starts to act: the partition in agreement, relabeling in "
        "scn and ssr, the noise matrix in forward; small_loss reaches its final keep rate by then",
    )
    focal_gamma: float = field(2.0, "focal loss: exponent of 1 - p", low=0)
    gce_q: float = field(0.7, "generalized cross-entropy: q", low=0.01, high=1)
    sce_alpha: float = field(0.1, "symmetric cross-entropy: weight of the cross-entropy", low=0)
    sce_beta: float = field(
        1.0, "symmetric cross-entropy: weight of the reverse cross-entropy", low=0
    )
    elr_weight: float = field(
        3.0,
        "early-learning regularization: weight of the penalty; the authors take 3 with "
        "agreement.memory_decay 0.7 and, for wrong labels that follow the class, 1 with 0.9",
        low=0,
    )
    forget_rate: float = field(
        0.2, "small_loss: fraction of a batch dropped, by largest loss", low=0, high=0.9
    )
    ssr_neighbors: int = field(20, "SSR: k, nearest training videos that vote on a label", low=1)
    ssr_clean: float = field(
        1.0,
        "SSR: a video is learned from if the vote for its label is at least this share of the strongest",
        low=0,
        high=1,
    )
    ssr_relabel: float = field(
        0.8,
        "SSR: a label is replaced by a class whose remembered probability exceeds this; label smoothing "
        "s keeps probabilities below 1 - s + s / N",
        low=0,
        high=1,
    )
    scn_margin: float = field(
        0.2, "SCN: margin by which a prediction must win to relabel a video", low=0, high=1
    )
    scn_share: float = field(
        0.3,
        "SCN: fraction of a batch that may be relabeled, by smallest label probability",
        low=0,
        high=1,
    )

    def check(self) -> None:
        """Checks `robust_from`; see Section."""
        check_duration("loss.robust_from", self.robust_from)
