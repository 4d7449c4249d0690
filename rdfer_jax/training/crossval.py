"""Cross-validation: every clip is predicted by a network that was not trained on it.

Input: a configuration. Output: a run for each fold, in fold1/, fold2/ ... of the folder; predictions.npz
with the out-of-fold predictions for all clips; results.json; and crossval.md, a table.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from rdfer_jax import compile_cache, metrics
from rdfer_jax import config as config_lib
from rdfer_jax.config import Config
from rdfer_jax.pipeline import source
from rdfer_jax.training import automatic, run_dir, train
from rdfer_jax.training.predictions import (
    OUT_OF_FOLD,
    TEST_FILE,
    Predictions,
    read_predictions,
)
from rdfer_jax.training.setup import Setup

log = logging.getLogger(__name__)

#: Arrays that the saved predictions of a fold must have.
NEEDED = ("clip_id", "logits", "clip_logits")

_REDO = "Delete {} and run the same command: it only evaluates this fold again"


def folds(config: Config, number: int) -> dict[str, Config]:
    """Returns the settings of each fold, by name.

    A data set that is stored in folds (splits fold1, fold2 ...) is tested on each of them in turn. The
    training split of any other data set is divided into `number` folds, see source.assign_folds.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      ValueError: number is below 2, or config.data.fold is set.
    """
    if config.data.fold:
        raise ValueError(
            f"config.data.fold = {config.data.fold!r} selects one fold, but cross-validation "
            "runs all of them. Leave it empty"
        )
    names = source.stored_folds(source.find(config.data))
    if names:
        changes = {
            name: {"test_split": name, "train_split": "+".join(n for n in names if n != name)}
            for name in names
        }
    elif number < 2:
        raise ValueError(f"--folds={number}: expected at least two")
    else:
        changes = {f"fold{i}": {"fold": f"{i}/{number}"} for i in range(1, number + 1)}
    settings = config_lib.to_dict(config)
    return {
        name: config_lib.resolve(settings | {"data": settings["data"] | change})
        for name, change in changes.items()
    }


def crossval(config: Config, workdir: epath.PathLike, number: int = 5) -> dict[str, Any]:
    """Trains and tests every fold and collects the results; resumes where it was stopped.

    Args:
      config: settings of every fold, except for its splits.
      workdir: folder of all output.
      number: number of folds, for a data set that is not stored in folds.

    Returns:
      The content of results.json.

    Raises:
      ValueError: as in train.train; or the folder holds folds with other settings.
    """
    workdir = epath.Path(workdir)
    config = _settled(config, workdir, number)
    settings = folds(config, number)
    # Folds with equally many training clips have the same programs.
    with compile_cache.shared():
        results_of = {
            name: _run_fold(workdir / name, fold_config, f"{name} of {len(settings)}")
            for name, fold_config in settings.items()
        }
    results = summary(results_of)
    if jax.process_index() == 0:
        gather(workdir, list(settings)).save(workdir / TEST_FILE)
        # Settings and classes of the whole cross-validation, for the audit.
        run_dir.write_config(workdir, config)
        first = run_dir.read(workdir / next(iter(settings)))
        run_dir.write_data(
            workdir, config.data.name, first.classes, first.num_train, faces=first.faces
        )
        (workdir / "crossval.md").write_text(table(results) + "\n")
        run_dir.write_json(workdir / "results.json", results)
    return results


def _settled(config: Config, workdir: epath.Path, number: int) -> Config:
    """Returns settings without "auto", the same for all folds: of an earlier run, or of the first fold."""
    if not config.auto:
        return config
    name, first = next(iter(folds(config, number).items()))
    first = automatic.of_run(first, workdir / name)
    chosen = Setup.create(first).config if first.auto else first
    return automatic.of_other(config, chosen)


def _run_fold(folder: epath.Path, config: Config, title: str) -> dict[str, Any]:
    """Returns the results of a fold, which is trained unless it has finished."""
    results_file = folder / "results.json"
    if results_file.exists():  # the last file that training writes
        log.info("%s: already finished", title)
        run_dir.check_config(folder, config)
        return run_dir.read_json(results_file, _REDO.format(results_file))
    log.info("%s: tested on %s", title, config.data.fold or config.data.test_split)
    return train.train(config, folder)


def gather(workdir: epath.Path, names: Sequence[str]) -> Predictions:
    """Returns the predictions of all folds by their last checkpoints, with the fold of each clip.

    Raises:
      FileNotFoundError: a fold has no predictions.
      ValueError: the predictions of a fold are damaged, or two folds predicted the same clip.
    """
    parts = []
    for number, name in enumerate(names, 1):
        advice = _REDO.format(workdir / name / "results.json")
        saved = read_predictions(workdir / name / TEST_FILE, NEEDED, advice)
        parts.append(saved.arrays | {"fold": np.full(len(saved["label"]), number, np.int32)})
    shared = set(parts[0]).intersection(*parts)
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in sorted(shared)}
    ids, counts = np.unique(arrays["clip_id"], return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"clip {str(ids[counts > 1][0])!r} is in two folds of {workdir}")
    return Predictions(OUT_OF_FOLD, saved.classes, arrays)


def summary(folds_: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the results of each fold, and their mean and standard deviation."""
    results: dict[str, Any] = {"folds": dict(folds_)}
    results["last"] = _mean(list(folds_.values()))
    if all("best_on_validation" in fold for fold in folds_.values()):
        results["best_on_validation"] = _mean([f["best_on_validation"] for f in folds_.values()])
    return results


def _mean(folds_: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns mean and standard deviation over the folds, each with the same weight, as papers do."""
    scores: dict[str, Any] = {}
    for name in ("war", "uar"):
        values = np.array([fold[name] for fold in folds_], float)
        spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        scores[name] = {
            "mean": metrics.finite_or_none(float(values.mean())),
            "std": metrics.finite_or_none(spread),
        }
    return scores


def table(results: Mapping[str, Any]) -> str:
    """Returns a Markdown table in percent: a row for each fold, then mean and standard deviation."""
    kinds = [kind for kind in ("last", "best_on_validation") if kind in results]
    heads = [
        f"{score.upper()}, {kind.replace('_', ' ')}" for kind in kinds for score in ("war", "uar")
    ]
    rows = [["fold", "clips", *heads], ["---"] * (2 + len(heads))]
    for name, fold in results["folds"].items():
        parts = [fold if kind == "last" else fold[kind] for kind in kinds]
        cells = [f"{100 * part[score]:.2f}" for part in parts for score in ("war", "uar")]
        rows.append([name, str(fold["num_examples"]), *cells])
    cells = []
    for kind in kinds:
        for score in ("war", "uar"):
            mean, spread = results[kind][score]["mean"], results[kind][score]["std"]
            cells.append(f"{100 * mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}"))
    total = sum(fold["num_examples"] for fold in results["folds"].values())
    rows.append(["mean ± standard deviation", str(total), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
