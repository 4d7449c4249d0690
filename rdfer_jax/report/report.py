"""The report of a run: one HTML file to read, send and keep.

Enters: the folder of a run that has been evaluated. Leaves: `report.html`, which needs nothing else. It is
made of saved files, no model is run: config.json, results.json, metrics.jsonl, predictions.npz and,
where it is there, predictions_train.npz.

Shape letters: N clips, C classes.
"""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax import html, metrics
from rdfer_jax.config import Config
from rdfer_jax.report import figures, intervals, tables
from rdfer_jax.training import writers
from rdfer_jax.training.predictions import (
    TEST_FILE,
    TRAIN_FILE,
    Predictions,
    read_predictions,
)

OUTPUT = "report.html"
#: Arrays of the saved predictions that the report shows.
NEEDED = ("clip_id", "logits", "agreement", "noise_score")
#: Rows of the table of AUROCs: what is found, by which score, among which clips, key in results.json.
AUROCS = (
    ("wrong labels", "noise score, from the agreement", "all clips", "noise_auroc_agreement"),
    ("wrong labels", "loss", "all clips", "noise_auroc_loss"),
    (
        "wrong labels",
        "noise score, from the agreement",
        "clips that are hard or have a wrong label",
        "noise_auroc_agreement_among_hard",
    ),
    (
        "wrong labels",
        "loss",
        "clips that are hard or have a wrong label",
        "noise_auroc_loss_among_hard",
    ),
    ("hard clips", "disagreement", "clips with a right label", "hard_auroc_agreement"),
)

_TRAIN = "Give the folder that `python -m rdfer_jax.main --mode=train --workdir=...` wrote"
_EVALUATE = "Evaluate the run: `python -m rdfer_jax.main --config=... --workdir={} --mode=eval`"


class Run(NamedTuple):
    """What a run left.

    Attributes:
      name: of its folder.
      config: its settings, nested.
      results: what results.json holds.
      rows: what metrics.jsonl holds.
      test: predictions of the test split.
      train: predictions of the training split; None where there are none.
      known: what data.json says of the data and of the versions, where there is one.
    """

    name: str
    config: dict[str, Any]
    results: dict[str, Any]
    rows: list[dict[str, Any]]
    test: Predictions
    train: Predictions | None
    known: dict[str, Any]


def write(workdir: epath.PathLike, output: epath.PathLike | None = None) -> epath.Path:
    """Writes the report of a run.

    Args:
      workdir: folder of a run that has been trained and evaluated.
      output: the file to write; None for report.html in the folder of the run.

    Returns:
      The file.

    Raises:
      FileNotFoundError: a file is missing; the message says which, and what to run.
      ValueError: a file is damaged, or the files are not of one evaluation.
    """
    run = read(workdir)
    path = epath.Path(output) if output else epath.Path(workdir) / OUTPUT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(html.render("report/report.html", **view(run)).encode())
    return path


def read(workdir: epath.PathLike) -> Run:
    """Reads what a run left; errors as `write`."""
    workdir = epath.Path(workdir)
    evaluate = _EVALUATE.format(workdir)
    config = _read_json(workdir / "config.json", _TRAIN)
    if not (workdir / writers.METRICS_FILE).exists():
        raise FileNotFoundError(
            f"{workdir / writers.METRICS_FILE}: there is no such file. {_TRAIN}"
        )
    results = _read_json(workdir / "results.json", evaluate)
    test = read_predictions(workdir / TEST_FILE, NEEDED, evaluate)
    path = workdir / TRAIN_FILE
    train = read_predictions(path, NEEDED, evaluate) if path.exists() else None
    known = _read_json(workdir / "data.json", "") if (workdir / "data.json").exists() else {}
    _check_together(results, test, workdir / "results.json", evaluate)
    rows = writers.read_metrics(workdir)
    return Run(workdir.resolve().name, config, results, rows, test, train, known)


def view(run: Run) -> dict[str, Any]:
    """Returns what the template shows."""
    confusion_CC = np.array(run.results["confusion_matrix"])
    right = int(np.trace(confusion_CC))
    return {
        "run": run,
        "war": intervals.wilson(right, int(confusion_CC.sum())),
        "uar": intervals.uar(confusion_CC),
        "resamples": intervals.RESAMPLES,
        "chance": 1 / len(run.test.classes),
        "most_frequent": float(confusion_CC.sum(axis=1).max() / confusion_CC.sum()),
        "classes": tables.classes(run.test.classes, confusion_CC),
        "confusions": tables.confusions(run.test.classes, confusion_CC),
        "mistakes": tables.mistakes(run.test.classes, run.test.arrays),
        "curves": figures.curves(run.rows),
        "agreement": _agreement(run.test),
        "noise": _noise(run.train),
        "aurocs": AUROCS,
        "settings": _settings(run.config),
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _agreement(test: Predictions) -> dict[str, Any]:
    """What the agreement of a clip's views says about its prediction."""
    probs_NC = tables.probabilities(test.arrays["logits"])
    agreement_N = test.arrays["agreement"].astype(np.float64)
    correct_N = probs_NC.argmax(axis=1) == test.arrays["label"]
    groups = figures.tenths(agreement_N, correct_N)
    return {
        "histogram": figures.histogram(
            "agreement",
            "Agreement of right and of wrong predictions",
            "agreement of the views of a clip",
            agreement_N,
            correct_N,
            ("right", "wrong"),
        ),
        "auroc": metrics.finite_or_none(metrics.auroc(agreement_N, correct_N)),
        "groups": groups,
        "tenths": figures.accuracy_by_agreement(groups, float(correct_N.mean())),
        "risk": figures.risk_coverage(
            {"highest probability": probs_NC.max(axis=1), "agreement": agreement_N}, correct_N
        ),
    }


def _noise(train: Predictions | None) -> figures.Figure | None:
    """How the noise score tells wrong labels from right ones, where it is known which are wrong."""
    if train is None or "is_flipped" not in train.arrays:
        return None
    return figures.histogram(
        "noise",
        "Noise score of wrong and of right labels",
        "noise score",
        train.arrays["noise_score"].astype(np.float64),
        train.arrays["is_flipped"].astype(bool),
        ("wrong label", "right label"),
    )


def _settings(config: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The settings by section: name, meaning, value, and the default where it is another."""
    standard = json.loads(json.dumps(config_lib.to_dict(Config())))
    sections: dict[str, list[dict[str, Any]]] = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        known = standard.get(name, {}) if nested else standard
        meanings = _meanings(config_lib.SECTIONS.get(name)) if nested else _meanings(Config)
        for key, setting in (value if nested else {name: value}).items():
            changed = key in known and known[key] != setting
            sections.setdefault(name if nested else "run", []).append(
                {
                    "name": key,
                    "text": meanings.get(key, ""),
                    "value": json.dumps(setting, ensure_ascii=False),
                    "default": json.dumps(known[key], ensure_ascii=False) if changed else None,
                }
            )
    return sections


def _meanings(section: Any) -> dict[str, str]:
    """What settings mean, from config/sections.py; builder options are not described there."""
    fields = dataclasses.fields(section) if section else ()
    return {field.name: field.metadata.get("text", "") for field in fields}


def _read_json(path: epath.Path, advice: str) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file. {advice}")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}). {advice}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a JSON object. {advice}")
    return found


def _check_together(
    results: Mapping[str, Any], test: Predictions, path: epath.Path, advice: str
) -> None:
    """Raises ValueError unless results.json is of these predictions."""
    label_N, best_N = test.arrays["label"], test.arrays["logits"].argmax(axis=1)
    found = metrics.confusion_matrix(label_N, best_N, len(test.classes)).tolist()
    if results.get("confusion_matrix") != found or results.get("split") != test.split:
        raise ValueError(
            f"{path}: not of the evaluation that wrote predictions.npz beside it. {advice}"
        )
