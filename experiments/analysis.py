"""What the agreement of a video's clips is good for, measured on what a training run left.

    python -m experiments.analysis --run=DIR [--output=DIR]

Reads DIR/epochs/train_0001.npz and so on, predictions of the training split after each epoch, or else
DIR/predictions_train.npz, and DIR/predictions.npz, the test split. Prints one table; writes
analysis.json and a picture for each question, into DIR/analysis unless told otherwise:

    agreement.png    how far the clips agree, of easy, hard and mislabelled videos, over the epochs
    against.png      agreement against confidence and against loss, of the last epoch
    auroc.png        which score finds wrong labels, and which hard videos, over the epochs
    calibration.png  reliability, and risk against coverage, on the test split
    classes.png      the same by class, after the last epoch

Most of it needs to know what is wrong or hard: where that is not known, the part is left out, and the table
says so. No model is run. saved.py reads, scores.py
has the scores, analysis_plots.py draws.

Shape letters: B videos, N classes, E epochs.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from etils import epath
from numpy.typing import NDArray
from scipy import stats

from experiments import analysis_plots, noise_scores
from experiments.noise_scores import Evidence
from experiments.predictions import SavedError, Test, Training, read_test, read_training
from rdfer_jax import metrics, plots

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: The scores whose detection of flipped labels is given for each class.
BY_CLASS = ("loss of the video", "no clip supports the label", "log-odds of another class")
#: Coverages at which the table and the JSON give the risk.
COVERAGES = (0.5, 0.8, 0.9, 1.0)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

NO_TRAINING = "the run left no predictions of the training split"
_NO_TEST = "the run left no predictions of the test split"


class Task(NamedTuple):
    """What a score should find, and among which videos.

    Attributes:
      goal: which scores are to find it, "flipped" or "hard".
      positive: bool [B], what is to be found.
      among: bool [B], the videos that count.
    """

    goal: str
    positive: Mask
    among: Mask


def tasks(is_flipped_B: Mask | None, is_hard_B: Mask | None) -> dict[str, Task]:
    """The tasks for which the truth is known, by name."""
    found: dict[str, Task] = {}
    if is_flipped_B is not None:
        everything_B = np.ones_like(is_flipped_B)
        found["flipped, among all"] = Task("flipped", is_flipped_B, everything_B)
        if is_hard_B is not None:
            doubtful_B = is_flipped_B | is_hard_B
            found["flipped, among flipped or hard"] = Task("flipped", is_flipped_B, doubtful_B)
            found["hard, among right labels"] = Task("hard", is_hard_B, ~is_flipped_B)
    return found


def detection(
    values: dict[str, Vector], is_flipped_B: Mask | None, is_hard_B: Mask | None
) -> dict[str, dict[str, list[float | None]]]:
    """AUROC of every score after every epoch, by task and score.

    Args:
      values: float64 [E, B] by the name of the score.
      is_flipped_B: bool [B], or None if it is not known.
      is_hard_B: bool [B], or None if it is not known.

    Returns:
      E numbers for each score of each task whose truth is known; None where there is no video to
      find, or none to tell it from.
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
    """Quantiles of some videos' values after each epoch: E numbers by the quantile's name."""
    if not part_B.any():
        return {f"{quantile:.0%}": [None] * len(values_EB) for quantile in QUANTILES}
    found_QE = np.quantile(values_EB[:, part_B], QUANTILES, axis=1)
    return {
        f"{quantile:.0%}": row.tolist() for quantile, row in zip(QUANTILES, found_QE, strict=True)
    }


def rank_correlation(a_B: Vector, b_B: Vector) -> float | None:
    """Spearman's correlation, in [-1, 1]; None if one of the two has only one value."""
    if not len(a_B) or np.ptp(a_B) == 0 or np.ptp(b_B) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(a_B), stats.rankdata(b_B))[0, 1])


def confidences(evidence: Evidence) -> dict[str, Vector]:
    """What may serve as the confidence of the video's prediction: float64 [B] in [0, 1], by name."""
    agreement_B = noise_scores.soft_agreement(evidence)
    softmax_B = noise_scores.video_confidence(evidence)
    return {
        "soft agreement": agreement_B,
        "agreement * max softmax": agreement_B * softmax_B,
        "max softmax": softmax_B,
    }


def calibration(test: Test) -> dict[str, Any]:
    """Calibration, and risk against coverage, of every confidence on the test split.

    Returns:
      videos, accuracy, and by the confidence's name: ece, aurc, excess_aurc, risk at COVERAGES, and
      the reliability curve.
    """
    correct_B = test.correct
    found: dict[str, Any] = {"videos": len(correct_B), "accuracy": float(correct_B.mean())}
    for name, confidence_B in confidences(test.evidence).items():
        curve = metrics.reliability(confidence_B, correct_B)
        risk_B = metrics.risk_coverage(confidence_B, correct_B).risk
        taken = np.ceil(np.array(COVERAGES) * len(risk_B)).astype(int)
        found.setdefault("confidences", {})[name] = {
            "ece": metrics.ece(confidence_B, correct_B),
            "aurc": metrics.aurc(confidence_B, correct_B),
            "excess_aurc": metrics.excess_aurc(confidence_B, correct_B),
            "risk_at_coverage": {
                f"{coverage:.0%}": float(risk)
                for coverage, risk in zip(COVERAGES, risk_B[taken - 1], strict=True)
            },
            "reliability": {
                "centre": curve.centre.tolist(),
                "confidence": [metrics.finite_or_none(value) for value in curve.confidence],
                "accuracy": [metrics.finite_or_none(value) for value in curve.accuracy],
                "count": curve.size.tolist(),
            },
        }
    return found


def by_class(training: Training | None, test: Test | None) -> dict[str, dict[str, Any]]:
    """What is known of each class, by its name.

    A training video belongs to the class of its given label, since that is what is in doubt.

    Returns:
      Where it is known: videos and agreement, number and mean of each kind of video after the last
      epoch; auroc_flipped, of the scores BY_CLASS; test_videos and recall, on the test split.
    """
    found: dict[str, dict[str, Any]] = {}
    if training is not None:
        agreement_B = training.agreement[-1]
        for index, name in enumerate(training.classes):
            row, own_B = found.setdefault(name, {}), training.label == index
            if training.is_flipped is not None:
                row["auroc_flipped"] = {
                    score: metrics.finite_or_none(
                        metrics.auroc(training.scores[score][-1, own_B], training.is_flipped[own_B])
                    )
                    for score in BY_CLASS
                }
            if (known := training.kinds) is not None:
                row["videos"] = {
                    kind: int((own_B & part_B).sum()) for kind, part_B in known.items()
                }
                row["agreement"] = {
                    kind: _mean(agreement_B[own_B & part_B]) for kind, part_B in known.items()
                }
    if test is not None:
        label_B, best_B = test.evidence.label, test.evidence.logp.argmax(axis=1)
        confusion_NN = metrics.confusion_matrix(label_B, best_B, len(test.classes))
        recall_N = metrics.recall_per_class(confusion_NN)
        for name, count, recall in zip(test.classes, confusion_NN.sum(1), recall_N, strict=True):
            found.setdefault(name, {}).update(
                test_videos=int(count), recall=metrics.finite_or_none(recall)
            )
    return found


def analyze(training: Training | None, test: Test | None) -> dict[str, Any]:
    """Everything that goes into analysis.json.

    Returns:
      epochs, videos, agreement (quantiles by kind), against (rank correlations by kind), auroc (by
      task), test, classes, and left_out: of each part that is missing, why.
    """
    report: dict[str, Any] = {"left_out": {}}
    left_out = report["left_out"]
    if training is None:
        left_out["agreement, against, auroc, and these by class"] = NO_TRAINING
    else:
        report |= {"epochs": list(training.epochs), "videos": {"all": len(training.label)}}
        report["auroc"] = detection(training.scores, training.is_flipped, training.is_hard)
        if training.is_flipped is None:
            left_out["auroc, and by class"] = "it is not known which labels are flipped"
        elif training.is_hard is None:
            left_out["auroc among hard, and of hard"] = "it is not known which videos are hard"
        if (known := training.kinds) is None:
            left_out["agreement and against, by kind"] = (
                "it is not known both which labels are flipped and which videos are hard"
            )
        else:
            last = _last(training)
            report["videos"] |= {kind: int(part_B.sum()) for kind, part_B in known.items()}
            report["agreement"] = {
                kind: spread(training.agreement, part_B) for kind, part_B in known.items()
            }
            report["against"] = {
                kind: {
                    name: rank_correlation(last["agreement"][part_B], last[name][part_B])
                    for name in ("confidence", "loss")
                }
                for kind, part_B in known.items()
            }
    if test is None:
        left_out["test, and recall by class"] = _NO_TEST
    else:
        report["test"] = calibration(test)
    report["classes"] = by_class(training, test)
    return report


def pictures(
    training: Training | None, test: Test | None, report: dict[str, Any]
) -> dict[str, bytes]:
    """A PNG for each part of the report, by the file's name."""
    found = {}
    if training is not None and (known := training.kinds) is not None:
        found["agreement.png"] = analysis_plots.agreement(
            training.agreement, known, training.epochs
        )
        last = _last(training)
        found["against.png"] = analysis_plots.against(
            last["agreement"], last["confidence"], last["loss"], known, report["against"]
        )
    if training is not None and report["auroc"]:
        found["auroc.png"] = analysis_plots.auroc(
            report["auroc"], training.epochs, noise_scores.MEMORY
        )
    if test is not None:
        found["calibration.png"] = analysis_plots.calibration(
            confidences(test.evidence), test.correct
        )
    if any(report["classes"].values()):
        found["classes.png"] = analysis_plots.classes(report["classes"])
    return found


def _last(training: Training) -> dict[str, Vector]:
    """What a video's agreement is held against, after the last epoch: float64 [B] by name."""
    return {
        "agreement": training.agreement[-1],
        "confidence": 1 - training.scores["1 - max softmax of the clips"][-1],
        "loss": training.scores["loss of the video"][-1],
    }


def table(report: dict[str, Any]) -> str:
    """Returns a report as text for people."""
    lines = []
    if "epochs" in report:
        counts = dict(report["videos"])
        total = counts.pop("all")
        parts = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        lines += [f"Training split, {total:,} videos{': ' + parts if parts else ''}", ""]
    if report.get("auroc"):
        columns = {
            task: {score: values[-1] for score, values in found.items()}
            for task, found in report["auroc"].items()
        }
        lines += _grid(f"AUROC, {_epoch(report['epochs'][-1])}", columns)
    if "agreement" in report:
        columns = {
            kind: {q: v[-1] for q, v in row.items()} for kind, row in report["agreement"].items()
        }
        lines += _grid("quantile of the agreement", columns)
        lines += _grid("its rank correlation with", report["against"])
    if "test" in report:
        test = report["test"]
        columns = {
            short: {name: row[key] for name, row in test["confidences"].items()}
            for short, key in (("ECE", "ece"), ("AURC", "aurc"), ("E-AURC", "excess_aurc"))
        }
        for coverage in next(iter(test["confidences"].values()))["risk_at_coverage"]:
            columns[f"errors at {coverage}"] = {
                name: row["risk_at_coverage"][coverage] for name, row in test["confidences"].items()
            }
        lines += [f"Test split, {test['videos']:,} videos, accuracy {test['accuracy']:.4f}", ""]
        lines += _grid("confidence", columns)
    if any(report["classes"].values()):
        lines += _grid("class (given label)", _class_columns(report["classes"]))
    lines += [f"Left out: {part}: {reason}." for part, reason in report["left_out"].items()]
    return "\n".join(lines).rstrip()


def _class_columns(classes: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    columns: dict[str, dict[str, float | None]] = {}
    for name, row in classes.items():
        for score, value in row.get("auroc_flipped", {}).items():
            columns.setdefault(f"AUROC, {score}", {})[name] = value
        for kind, value in row.get("agreement", {}).items():
            columns.setdefault(f"agreement, {kind}", {})[name] = value
        if "recall" in row:
            columns.setdefault("test recall", {})[name] = row["recall"]
    return columns


def _grid(corner: str, columns: dict[str, dict[str, float | None]]) -> list[str]:
    """Lines of a table with a row for each key that occurs in a column."""
    rows = list(dict.fromkeys(key for column in columns.values() for key in column))
    first = max(map(len, [corner, *rows]))
    lines = ["  ".join([f"{corner:<{first}}", *columns])]
    for row in rows:
        cells = [f"{row:<{first}}"]
        for name, column in columns.items():
            value = column.get(row)
            text = ("-" if row in column else "") if value is None else f"{value:.4f}"
            cells.append(f"{text:>{len(name)}}")
        lines.append("  ".join(cells).rstrip())
    return [*lines, ""]


def _epoch(epoch: int | None) -> str:
    return "final" if epoch is None else f"epoch {epoch}"


def _mean(values: Vector) -> float | None:
    return float(values.mean()) if values.size else None


def run(directory: epath.PathLike, output: epath.PathLike | None = None) -> dict[str, Any]:
    """Reads a run, writes analysis.json and the pictures, and returns the report.

    Args:
      directory: of the training run.
      output: where the files go; None is the folder analysis in it.

    Raises:
      SavedError: there is nothing to analyse, or a file cannot be read.
    """
    directory = epath.Path(directory)
    output = directory / "analysis" if output is None else epath.Path(output)
    training, test = read_training(directory), read_test(directory)
    if training is None and test is None:
        raise SavedError(
            f"{directory} holds no predictions.npz, predictions_train.npz or epochs/train_*.npz: "
            "is it the workdir of a run that was trained or evaluated?"
        )
    report = analyze(training, test)
    output.mkdir(parents=True, exist_ok=True)
    (output / "analysis.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    for name, png in pictures(training, test, report).items():
        plots.save(png, output / name)
    return report


def define_flags() -> None:
    """Defines the flags of the command line: not at import, where they would clash with others."""
    flags.DEFINE_string("run", None, "directory of the training run; may be gs://")
    flags.DEFINE_string("output", None, "directory to write to; by default RUN/analysis")
    flags.mark_flag_as_required("run")


def main(_: Sequence[str]) -> None:
    """Analyses, prints the table, writes the JSON and the pictures."""
    try:
        report = run(flags.FLAGS.run, flags.FLAGS.output)
    except SavedError as error:
        sys.exit(f"error: {error}")
    print(table(report))


if __name__ == "__main__":
    define_flags()
    app.run(main)
