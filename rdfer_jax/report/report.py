"""The report of a run: one HTML file that loads nothing.

Enters: the folder of a run that has been evaluated. Leaves: report.html, made from saved files only:
config.json, results.json, metrics.jsonl, predictions.npz and, if they exist, predictions_train.npz and
data.json. No model is run.

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
from rdfer_jax import html, intervals, metrics
from rdfer_jax.config import Config
from rdfer_jax.report import charts, tables
from rdfer_jax.training import run_dir, writers
from rdfer_jax.training.predictions import (
    TEST_FILE,
    TRAIN_FILE,
    Predictions,
    read_predictions,
)

OUTPUT = "report.html"
#: Arrays of the saved predictions that the report shows.
NEEDED = ("clip_id", "logits", "agreement", "noise_score")
#: Rows of the AUROC table: what to find, by which score, among which clips, key in results.json.
AUROCS = (
    ("wrong labels", "noise score, based on agreement", "all clips", "noise_auroc_agreement"),
    ("wrong labels", "loss", "all clips", "noise_auroc_loss"),
    (
        "wrong labels",
        "noise score, based on agreement",
        "hard clips and clips with wrong labels",
        "noise_auroc_agreement_among_hard",
    ),
    (
        "wrong labels",
        "loss",
        "hard clips and clips with wrong labels",
        "noise_auroc_loss_among_hard",
    ),
    ("hard clips", "disagreement", "clips with right labels", "hard_auroc_agreement"),
)

_TRAIN = "Give the folder of a training run, as written by `rdfer train --workdir=...`"
_EVALUATE = "Evaluate the run: `rdfer eval --config=... --workdir={}`"


class Run(NamedTuple):
    """The saved files of a run.

    Attributes:
      name: name of its folder.
      config: its settings, nested.
      results: contents of results.json.
      rows: contents of metrics.jsonl.
      test: predictions of the test split.
      train: predictions of the training split; None if they were not saved.
      data: contents of data.json: data set and library versions; empty if there is no such file.
    """

    name: str
    config: dict[str, Any]
    results: dict[str, Any]
    rows: list[dict[str, Any]]
    test: Predictions
    train: Predictions | None
    data: dict[str, Any]


def write(workdir: epath.PathLike, output: epath.PathLike | None = None) -> epath.Path:
    """Writes the report of a run.

    Args:
      workdir: folder of a run that has been trained and evaluated.
      output: file to write; by default report.html in the folder of the run.

    Returns:
      The path of the report.

    Raises:
      FileNotFoundError: a file is missing; the message names it and the command that writes it.
      ValueError: a file is damaged, or the files are from different evaluations.
    """
    run = read(workdir)
    path = epath.Path(output) if output else epath.Path(workdir) / OUTPUT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(html.render("report/report.html", **context(run)).encode())
    return path


def read(workdir: epath.PathLike) -> Run:
    """Reads the saved files of a run; raises the errors of `write`."""
    workdir = epath.Path(workdir)
    evaluate = _EVALUATE.format(workdir)
    config = run_dir.read_json(workdir / "config.json", _TRAIN)
    if not (workdir / writers.METRICS_FILE).exists():
        raise FileNotFoundError(f"{workdir / writers.METRICS_FILE}: no such file. {_TRAIN}")
    results = run_dir.read_json(workdir / "results.json", evaluate)
    test = read_predictions(workdir / TEST_FILE, NEEDED, evaluate)
    path = workdir / TRAIN_FILE
    train = read_predictions(path, NEEDED, evaluate) if path.exists() else None
    path = workdir / "data.json"
    data = run_dir.read_json(path, run_dir.RESTORE) if path.exists() else {}
    _check_together(results, test, workdir / "results.json", evaluate)
    rows = writers.read_metrics(workdir)
    return Run(workdir.resolve().name, config, results, rows, test, train, data)


def context(run: Run) -> dict[str, Any]:
    """Returns the values of the template."""
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
        "curves": charts.curves(run.rows),
        "agreement": _agreement(run.test),
        "noise": _noise(run.train),
        "aurocs": AUROCS,
        "settings": _settings(run.config),
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _agreement(test: Predictions) -> dict[str, Any]:
    """Returns the charts and numbers on agreement and accuracy."""
    probs_NC = tables.probabilities(test.arrays["logits"])
    agreement_N = test.arrays["agreement"].astype(np.float64)
    correct_N = probs_NC.argmax(axis=1) == test.arrays["label"]
    groups = charts.group_by_agreement(agreement_N, correct_N)
    return {
        "histogram": charts.histogram(
            "agreement-histogram",
            "Agreement of right and wrong predictions",
            "agreement of the views of a clip",
            agreement_N,
            correct_N,
            ("right predictions", "wrong predictions"),
        ),
        "auroc": metrics.finite_or_none(metrics.auroc(agreement_N, correct_N)),
        "groups": groups,
        "by_group": charts.accuracy_by_agreement(groups, float(correct_N.mean())),
        "risk": charts.risk_coverage(
            {"highest probability": probs_NC.max(axis=1), "agreement": agreement_N}, correct_N
        ),
    }


def _noise(train: Predictions | None) -> charts.Chart | None:
    """Returns the noise scores of wrong and right labels; None if it is unknown which are wrong."""
    if train is None or "is_flipped" not in train.arrays:
        return None
    return charts.histogram(
        "noise",
        "Noise score of wrong and right labels",
        "noise score",
        train.arrays["noise_score"].astype(np.float64),
        train.arrays["is_flipped"].astype(bool),
        ("wrong labels", "right labels"),
    )


def _settings(config: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns the settings by section: name, text, value, and the default if the value differs."""
    defaults = json.loads(json.dumps(config_lib.to_dict(Config())))
    sections: dict[str, list[dict[str, Any]]] = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        default = defaults.get(name, {}) if nested else defaults
        texts = _texts(config_lib.SECTIONS.get(name)) if nested else _texts(Config)
        for key, setting in (value if nested else {name: value}).items():
            changed = key in default and default[key] != setting
            sections.setdefault(name if nested else "run", []).append(
                {
                    "name": key,
                    "text": texts.get(key, ""),
                    "value": json.dumps(setting, ensure_ascii=False),
                    "default": json.dumps(default[key], ensure_ascii=False) if changed else None,
                }
            )
    return sections


def _texts(section: Any) -> dict[str, str]:
    """The descriptions of settings from config/sections/; builder options have none."""
    fields = dataclasses.fields(section) if section else ()
    return {field.name: field.metadata.get("text", "") for field in fields}


def _check_together(
    results: Mapping[str, Any], test: Predictions, path: epath.Path, advice: str
) -> None:
    """Raises ValueError unless results.json is of these predictions."""
    label_N, best_N = test.arrays["label"], test.arrays["logits"].argmax(axis=1)
    found = metrics.confusion_matrix(label_N, best_N, len(test.classes)).tolist()
    if results.get("confusion_matrix") != found or results.get("split") != test.split:
        raise ValueError(f"{path}: not from the evaluation that wrote predictions.npz. {advice}")
