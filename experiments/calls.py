"""What would another rule call clean, hard and noisy at the end of finished runs?

    python -m experiments.calls --cells='runs/report/cells/report-agreement-confusion-b*-e22' \\
        --set=agreement.noisy_agrees=False --set=agreement.noise_threshold=0.65

Judges the training videos of cells of a grid by what they remembered, with the settings they were trained
with and with those of --set, and counts what the calls hold. Only settings of the judgement act here, as
nothing is trained again. Writes calls.json and calls.md to --output. Means over the cells, with
intervals over cells and videos; differences with Student's t over the cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import app, flags
from etils import epath

from benchmarks import harness
from experiments import evidence, finished, over_seeds, report_tables
from rdfer_jax import paths
from rdfer_jax.config import Config
from rdfer_jax.memory import Memory
from rdfer_jax.training import run_dir
from rdfer_jax.training.predictions import TRAIN_FILE, Predictions, read_predictions

AS_TRAINED, CHANGED = "as trained", "changed"


def read(folder: epath.Path) -> tuple[Mapping[str, Any], Predictions, Memory]:
    """Returns the settings of a cell, its predictions of the training split, and its memory.

    Raises:
      FileNotFoundError: it is not a finished cell.
      ValueError: it has no memory, or it is not known which labels are wrong and which videos are hard.
    """
    names = [f"memory_{name}" for name in evidence.MEMORY]
    train = read_predictions(
        folder / "run" / TRAIN_FILE, ("clip_logits", "is_flipped", "is_hard", *names)
    )
    cell = run_dir.read_json(folder / "cell.json", f"{folder}: expected the folder of a cell")
    columns = {name: jnp.asarray(train[f"memory_{name}"]) for name in evidence.MEMORY}
    memory = Memory(**columns)
    return cell, train, memory


def count(config: Config, train: Predictions, memory: Memory) -> list[list[int]]:
    """Returns the number of videos by kind and call, evidence.KINDS x evidence.CALLS."""
    prior_N = np.bincount(train["label"], minlength=len(train.classes)) / len(train["label"])
    return evidence.calls(train, memory, prior_N, config, evidence.kinds(train))


def rows(folders: Sequence[epath.Path], changes: Sequence[str]) -> list[dict[str, Any]]:
    """Returns what the calls hold, over all cells: as trained, and with `changes`, NAME=VALUE each."""
    counts: dict[str, list[Mapping[str, Any]]] = {AS_TRAINED: [], CHANGED: []}
    for folder in folders:
        cell, train, memory = read(folder)
        for name, more in ((AS_TRAINED, {}), (CHANGED, harness.parse_settings(changes))):
            config = harness.load(cell["config"], {**cell["settings"], **more})
            counts[name].append({"evidence": {"calls": count(config, train, memory)}})
    groups = {(0, "", name): found for name, found in counts.items()}
    kept = ("epochs", "condition", "method")
    found = [
        {"rule": row["method"], "cells": len(folders)}
        | {key: value for key, value in row.items() if key not in kept}
        for row in report_tables.calls(groups)
    ]
    each = {rule: _by_cell(cells) for rule, cells in counts.items()}
    for name in each[CHANGED][0]:
        change = over_seeds.paired(each[CHANGED], each[AS_TRAINED], name)
        found[1][f"minus as trained: {name}"] = over_seeds.to_dict(change)
    return found


def _by_cell(cells: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Returns what the calls of each cell hold, by the number of the cell."""
    found = {}
    for number, cell in enumerate(cells):
        (row,) = report_tables.calls({(0, "", ""): [cell]})
        found[number] = {
            name: value["mean"] for name, value in row.items() if isinstance(value, dict)
        }
    return found


def main(_: Sequence[str]) -> None:
    """Counts, prints the table and writes it."""
    options = flags.FLAGS
    folders = [epath.Path(folder) for folder in finished.matching(options.cells)]
    found = rows(folders, options.set)
    output = epath.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    body = {"commit": harness.commit(), "set": options.set, "rows": found}
    (output / "calls.json").write_text(harness.to_json(body))
    text = report_tables.table(found)
    (output / "calls.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    paths.DEFINE_path("cells", None, "Folders of cells of a grid, such as 'a/b-s*'.", required=True)
    flags.DEFINE_multi_string("set", [], "Setting of the judgement, NAME=VALUE; may be repeated.")
    paths.DEFINE_path("output", "runs/calls", "Folder for the results.")
    app.run(main)
