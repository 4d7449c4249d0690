"""What is the agreement of a video's clips good for? Measured on the saved predictions of a training run.

    python -m experiments.analysis --run=DIR [--output=DIR]   # seconds

Reads the predictions of the training split after each epoch, DIR/epochs/train_0001.npz and so on, or else
DIR/predictions_train.npz; and those of the test split, DIR/predictions.npz. Prints tables and writes
analysis.json and one chart per question, by default to DIR/analysis:

    agreement.png    agreement of easy, hard and mislabeled videos over the epochs
    against.png      agreement against confidence and against loss, after the last epoch
    auroc.png        which score finds wrong labels, and which hard videos, over the epochs
    calibration.png  reliability, and risk against coverage, on the test split
    classes.png      the same by class, after the last epoch

Most of this needs to know which labels are wrong and which videos are hard. Otherwise that part is left
out, and the tables say so. No model is run. predictions.py reads the files, noise_scores.py has the scores,
plots.py the charts.

Shape letters: B videos, N classes, E epochs.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from etils import epath
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from experiments import analysis_tables as tables
from experiments import noise_scores, plots
from experiments.noise_scores import Evidence
from experiments.predictions import SavedError, Test, Training, read_test, read_training
from rdfer_jax import metrics, paths
from rdfer_jax.calibration import ece, excess_aurc, reliability
from rdfer_jax.plots import save

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: The scores whose AUROC for wrong labels is given for each class.
BY_CLASS = ("loss of the video", "no clip supports the label", "log-odds of another class")
#: Coverages at which tables and JSON give the risk.
COVERAGES = (0.5, 0.8, 0.9, 1.0)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

NO_TRAINING = "the run saved no predictions of the training split"
_NO_TEST = "the run saved no predictions of the test split"


class Task(NamedTuple):
    """A detection task.

    Attributes:
      goal: what to find, "flipped" (wrong labels) or "hard"; selects the scores.
      positive: bool [B], the videos to find.
      among: bool [B], the videos that count.
    """

    goal: str
    positive: Mask
    among: Mask


def tasks(is_flipped_B: Mask | None, is_hard_B: Mask | None) -> dict[str, Task]:
    """Returns the tasks for which the truth is known, by name."""
    known: dict[str, Task] = {}
    if is_flipped_B is not None:
        everything_B = np.ones_like(is_flipped_B)
        known["flipped, among all"] = Task("flipped", is_flipped_B, everything_B)
        if is_hard_B is not None:
            doubtful_B = is_flipped_B | is_hard_B
            known["flipped, among flipped or hard"] = Task("flipped", is_flipped_B, doubtful_B)
            known["hard, among right labels"] = Task("hard", is_hard_B, ~is_flipped_B)
    return known


def detection(
    values: dict[str, Vector], is_flipped_B: Mask | None, is_hard_B: Mask | None
) -> dict[str, dict[str, list[float | None]]]:
    """Returns the AUROC of every score after every epoch, by task and score.

    Args:
      values: float64 [E, B] by the name of the score.
      is_flipped_B: bool [B], or None if unknown.
      is_hard_B: bool [B], or None if unknown.

    Returns:
      E numbers for each score of each task whose truth is known; None if all videos are positive or
      all are negative.
    """
    return {
        name: {
            score: [
                metrics.finite_or_none(metrics.auroc(row_B[task.among], task.positive[task.among]))
                for row_B in values[score]
            ]
            for score in noise_scores.names(task.goal)
            if score in values
        }
        for name, task in tasks(is_flipped_B, is_hard_B).items()
    }


def spread(values_EB: Vector, part_B: Mask) -> dict[str, list[float | None]]:
    """Returns the quantiles of some videos' values after each epoch: E numbers by quantile."""
    if not part_B.any():
        return {f"{quantile:.0%}": [None] * len(values_EB) for quantile in QUANTILES}
    quantiles_QE = np.quantile(values_EB[:, part_B], QUANTILES, axis=1)
    return {
        f"{quantile:.0%}": row.tolist()
        for quantile, row in zip(QUANTILES, quantiles_QE, strict=True)
    }


def rank_correlation(a_B: Vector, b_B: Vector) -> float | None:
    """Returns Spearman's correlation, in [-1, 1]; None if one of the two is constant."""
    if not len(a_B) or np.ptp(a_B) == 0 or np.ptp(b_B) == 0:
        return None
    return float(stats.spearmanr(a_B, b_B).statistic)


def confidences(evidence: Evidence) -> dict[str, Vector]:
    """Returns candidates for the confidence of a prediction: float64 [B] in [0, 1], by name."""
    agreement_B = noise_scores.soft_agreement(evidence)
    softmax_B = noise_scores.video_confidence(evidence)
    return {
        "soft agreement": agreement_B,
        "agreement * max softmax": agreement_B * softmax_B,
        "max softmax": softmax_B,
    }


def calibration(test: Test) -> dict[str, Any]:
    """Returns the calibration and the risk of every confidence on the test split.

    Returns:
      videos, accuracy, and by the name of the confidence: ece, aurc, excess_aurc, risk_at_coverage (at
      COVERAGES) and the reliability curve.
    """
    correct_B = test.correct
    found: dict[str, Any] = {"videos": len(correct_B), "accuracy": float(correct_B.mean())}
    for name, confidence_B in confidences(test.evidence).items():
        curve = reliability(confidence_B, correct_B)
        risk_B = metrics.risk_coverage(confidence_B, correct_B).risk
        taken = np.ceil(np.array(COVERAGES) * len(risk_B)).astype(int)
        found.setdefault("confidences", {})[name] = {
            "ece": ece(confidence_B, correct_B),
            "aurc": metrics.aurc(confidence_B, correct_B),
            "excess_aurc": excess_aurc(confidence_B, correct_B),
            "risk_at_coverage": {
                f"{coverage:.0%}": float(risk)
                for coverage, risk in zip(COVERAGES, risk_B[taken - 1], strict=True)
            },
            "reliability": {
                "center": curve.center.tolist(),
                "confidence": [metrics.finite_or_none(value) for value in curve.confidence],
                "accuracy": [metrics.finite_or_none(value) for value in curve.accuracy],
                "count": curve.size.tolist(),
            },
        }
    return found


def by_class(training: Training | None, test: Test | None) -> dict[str, dict[str, Any]]:
    """Returns the numbers of each class, by its name.

    A training video belongs to the class of its given label, which is the label to be checked.

    Returns:
      As far as they are known: videos and agreement, count and mean agreement of each kind of video after
      the last epoch; auroc_flipped, for the scores BY_CLASS; test_videos and recall, on the test split.
    """
    rows: dict[str, dict[str, Any]] = {}
    if training is not None:
        for index, name in enumerate(training.classes):
            rows[name] = _class_in_training(training, training.label == index)
    if test is not None:
        label_B, best_B = test.evidence.label, test.evidence.logp.argmax(axis=1)
        confusion_NN = metrics.confusion_matrix(label_B, best_B, len(test.classes))
        recall_N = metrics.recall_per_class(confusion_NN)
        for name, count, recall in zip(test.classes, confusion_NN.sum(1), recall_N, strict=True):
            rows.setdefault(name, {}).update(
                test_videos=int(count), recall=metrics.finite_or_none(recall)
            )
    return rows


def _class_in_training(training: Training, is_member_B: Mask) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if training.is_flipped is not None:
        flipped = training.is_flipped[is_member_B]
        row["auroc_flipped"] = {
            score: metrics.finite_or_none(
                metrics.auroc(training.scores[score][-1, is_member_B], flipped)
            )
            for score in BY_CLASS
        }
    if (kinds := training.kinds) is not None:
        members = {kind: is_member_B & part_B for kind, part_B in kinds.items()}
        agreement_B = training.agreement[-1]
        row["videos"] = {kind: int(mask_B.sum()) for kind, mask_B in members.items()}
        row["agreement"] = {kind: _mean(agreement_B[mask_B]) for kind, mask_B in members.items()}
    return row


def analyze(training: Training | None, test: Test | None) -> dict[str, Any]:
    """Returns the contents of analysis.json.

    Returns:
      epochs, videos, agreement (quantiles by kind), against (rank correlations by kind), auroc (by
      task), test, classes, and left_out: the reason for each missing part.
    """
    report: dict[str, Any] = {"left_out": {}}
    left_out = report["left_out"]
    if training is None:
        left_out["agreement, against, auroc, and these by class"] = NO_TRAINING
    else:
        report |= _analyze_training(training)
        if training.is_flipped is None:
            left_out["auroc, and by class"] = "it is unknown which labels are wrong"
        elif training.is_hard is None:
            left_out["auroc among hard, and of hard"] = "it is unknown which videos are hard"
        if training.kinds is None:
            left_out["agreement and against, by kind"] = (
                "it is unknown which labels are wrong or which videos are hard"
            )
    if test is None:
        left_out["test, and recall by class"] = _NO_TEST
    else:
        report["test"] = calibration(test)
    report["classes"] = by_class(training, test)
    return report


def _analyze_training(training: Training) -> dict[str, Any]:
    report: dict[str, Any] = {
        "epochs": list(training.epochs),
        "videos": {"all": len(training.label)},
        "auroc": detection(training.scores, training.is_flipped, training.is_hard),
    }
    if (kinds := training.kinds) is not None:
        last = _last(training)
        report["videos"] |= {kind: int(part_B.sum()) for kind, part_B in kinds.items()}
        report["agreement"] = {
            kind: spread(training.agreement, part_B) for kind, part_B in kinds.items()
        }
        report["against"] = {
            kind: {
                name: rank_correlation(last["agreement"][part_B], last[name][part_B])
                for name in ("confidence", "loss")
            }
            for kind, part_B in kinds.items()
        }
    return report


def pictures(
    training: Training | None, test: Test | None, report: dict[str, Any]
) -> dict[str, Figure]:
    """Returns a chart for each part of the report, by file name."""
    charts = {}
    if training is not None and (kinds := training.kinds) is not None:
        charts["agreement.png"] = plots.agreement(training.agreement, kinds, training.epochs)
        last = _last(training)
        charts["against.png"] = plots.against(
            last["agreement"], last["confidence"], last["loss"], kinds, report["against"]
        )
    if training is not None and report["auroc"]:
        charts["auroc.png"] = plots.auroc(report["auroc"], training.epochs, noise_scores.MEMORY)
    if test is not None:
        charts["calibration.png"] = plots.calibration(confidences(test.evidence), test.correct)
    if any(report["classes"].values()):
        charts["classes.png"] = plots.classes(report["classes"])
    return charts


def _last(training: Training) -> dict[str, Vector]:
    """Returns agreement, confidence and loss after the last epoch: float64 [B] by name."""
    return {
        "agreement": training.agreement[-1],
        "confidence": 1 - training.scores["1 - max softmax of the clips"][-1],
        "loss": training.scores["loss of the video"][-1],
    }


def _mean(values: Vector) -> float | None:
    return float(values.mean()) if values.size else None


def run(directory: epath.PathLike, output: epath.PathLike | None = None) -> dict[str, Any]:
    """Reads a run, writes analysis.json and the charts, and returns the report.

    Args:
      directory: folder of the training run.
      output: folder for the files; by default the folder analysis in it.

    Raises:
      SavedError: there is nothing to analyze, or a file cannot be read.
    """
    directory = epath.Path(directory)
    output = directory / "analysis" if output is None else epath.Path(output)
    training, test = read_training(directory), read_test(directory)
    if training is None and test is None:
        raise SavedError(
            f"{directory} has no predictions.npz, predictions_train.npz or epochs/train_*.npz: "
            "is it the workdir of a run that was trained or evaluated?"
        )
    report = analyze(training, test)
    output.mkdir(parents=True, exist_ok=True)
    (output / "analysis.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    for name, figure in pictures(training, test, report).items():
        save(figure, output / name)
    return report


def define_flags() -> None:
    """Defines the flags; not on import, so that they do not clash with those of other programs."""
    paths.DEFINE_path("run", None, "Folder of the training run; may be gs://.")
    paths.DEFINE_path("output", None, "Folder to write to; by default RUN/analysis.")
    flags.mark_flag_as_required("run")


def main(_: Sequence[str]) -> None:
    """Analyzes a run: prints the tables, writes the JSON and the charts."""
    try:
        report = run(flags.FLAGS.run, flags.FLAGS.output)
    except SavedError as error:
        sys.exit(f"error: {error}")
    print(tables.text(report))


if __name__ == "__main__":
    define_flags()
    app.run(main)
