"""Cross-validation: every clip predicted by a network that has not learned from it.

Enters: a configuration. Leaves: a run for each fold, in fold1/, fold2/ ... of the folder; predictions.npz
with the predictions of all clips out of their folds; results.json and crossval.md, one table.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax import metrics
from rdfer_jax.config import Config
from rdfer_jax.pipeline import source
from rdfer_jax.training import run_dir, train
from rdfer_jax.training.predictions import (
    OUT_OF_FOLD,
    TEST_FILE,
    Predictions,
    read_predictions,
)

log = logging.getLogger(__name__)

#: Arrays of the saved predictions that the folds must have.
NEEDED = ("clip_id", "logits", "clip_logits")


def folds(config: Config, number: int) -> dict[str, Config]:
    """Returns the settings of each fold by its name.

    A data set that is stored in folds (splits fold1, fold2 ...) is tested on each of these in turn. Of
    another one, the training split is cut into `number` parts, see source.assign_folds.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      ValueError: number is below 2, or config.data.fold is set.
    """
    if config.data.fold:
        raise ValueError(
            f"config.data.fold = {config.data.fold!r} asks for one fold; --mode=crossval runs all of them. "
            "Leave it empty"
        )
    names = source.stored_folds(source.find(config.data))
    if names:
        changes = {
            name: {"test_split": name, "train_split": "+".join(n for n in names if n != name)}
            for name in names
        }
    elif number < 2:
        raise ValueError(f"--folds={number}: at least two")
    else:
        changes = {f"fold{i}": {"fold": f"{i}/{number}"} for i in range(1, number + 1)}
    settings = config_lib.to_dict(config)
    return {
        name: config_lib.resolve(settings | {"data": settings["data"] | change})
        for name, change in changes.items()
    }


def crossval(config: Config, workdir: epath.PathLike, number: int = 5) -> dict[str, Any]:
    """Trains and tests every fold, or goes on where it was stopped, and gathers the results.

    Args:
      config: of every fold, except for its splits.
      workdir: for everything.
      number: folds of a data set that is not stored in folds.

    Returns:
      What results.json holds.

    Raises:
      ValueError: as in train.train; or the folder holds folds of other settings.
    """
    workdir = epath.Path(workdir)
    chosen = folds(config, number)
    found = {}
    for name, fold_config in chosen.items():
        results_file = workdir / name / "results.json"
        if results_file.exists():  # what training writes last
            log.info("%s of %d: has finished", name, len(chosen))
            run_dir.check_config(workdir / name, fold_config)
            found[name] = json.loads(results_file.read_text())
        else:
            tested = fold_config.data.fold or fold_config.data.test_split
            log.info("%s of %d: tested on %s", name, len(chosen), tested)
            found[name] = train.train(fold_config, workdir / name)
    results = summary(found)
    if jax.process_index() == 0:
        gather(workdir, list(chosen)).save(workdir / TEST_FILE)
        # Settings and classes of the whole, for --mode=audit.
        run_dir.write_config(workdir, config)
        known = run_dir.read(workdir / next(iter(chosen)))
        run_dir.write_data(workdir, config.data.name, known.classes, known.num_train)
        (workdir / "crossval.md").write_text(table(results) + "\n")
        run_dir.write_json(workdir / "results.json", results)
    return results


def gather(workdir: epath.Path, names: Sequence[str]) -> Predictions:
    """Puts the predictions of the folds' last checkpoints together, with the fold of each clip.

    Raises:
      FileNotFoundError: a fold has no predictions.
      ValueError: the predictions of a fold are damaged, or two folds predicted the same clip.
    """
    parts = []
    for number, name in enumerate(names, 1):
        results = workdir / name / "results.json"
        advice = f"Delete {results} and run the same command: it only evaluates this fold again"
        saved = read_predictions(workdir / name / TEST_FILE, NEEDED, advice)
        parts.append(saved.arrays | {"fold": np.full(len(saved["label"]), number, np.int32)})
    shared = set(parts[0]).intersection(*parts)
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in sorted(shared)}
    ids, counts = np.unique(arrays["clip_id"], return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"clip {str(ids[counts > 1][0])!r} is in two folds of {workdir}")
    return Predictions(OUT_OF_FOLD, saved.classes, arrays)


def summary(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Each fold's results, and mean and standard deviation; the best on validation apart."""
    results: dict[str, Any] = {"folds": dict(found)}
    results["last"] = _mean(list(found.values()))
    if all("best_on_validation" in fold for fold in found.values()):
        results["best_on_validation"] = _mean([f["best_on_validation"] for f in found.values()])
    return results


def _mean(folds_: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the folds, as papers give them: each fold counts the same."""
    found: dict[str, Any] = {}
    for name in ("war", "uar"):
        values = np.array([fold[name] for fold in folds_], float)
        spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        found[name] = {
            "mean": metrics.finite_or_none(float(values.mean())),
            "std": metrics.finite_or_none(spread),
        }
    return found


def table(results: Mapping[str, Any]) -> str:
    """A Markdown table, in percent: a row for each fold, then mean and standard deviation."""
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
