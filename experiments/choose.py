"""Chooses the settings of every method by the protocol: equally many tries, on data sets for choosing.

    python -m experiments.choose --output=runs/choose --epochs=22 --jobs=2
    python -m experiments.choose --output=runs/choose --methods=elr,agreement --kinds=confusion

Trains the missing cells of --methods, --kinds and --epochs: the first tries of a method, then the best of
them at a higher learning rate. Then reads all finished cells in --output, of
this sitting or of others (and of --add), and writes choose.json (all cells), choose.md (tables) and
choice.json: for each method and number of epochs of which all cells have finished, the settings with the
highest mean WAR. experiments.report takes choice.json, and no other settings.

protocol.py has the search space and the rule.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from etils import epath

from benchmarks import harness
from experiments import grid, protocol
from experiments.grid import Cell
from experiments.protocol import CHOOSE, CONTESTANTS, METHODS, TRIES

#: Detection task by which the reported score is chosen.
TASK = "flipped, among flipped or hard"
#: Views of a score that use the clips of a video, and those of a single view.
OF_CLIPS, OF_ONE = ("K clips", "memory"), ("one clip",)


def choose(
    results: Mapping[str, Mapping[str, Any]],
    epochs: Sequence[int],
    settings_of: Callable[[Cell], Mapping[str, Any]],
) -> dict[str, Any]:
    """Returns the choice: for each number of epochs and method the best settings and what was measured.

    The rule: the highest mean WAR over the cells of protocol.CHOOSE; of equal tries, the first. A method
    with missing cells is left out.

    Args:
      results: results of cells by name.
      epochs: numbers of epochs.
      settings_of: returns all settings that a cell must have been trained with.

    Returns:
      {epochs as text: {method: {try, settings, war: one row for each try, scores}}}

    Raises:
      ValueError: a cell was trained with other settings.
    """
    chosen: dict[str, Any] = {}
    for number in epochs:
        rows = {}
        for method in CONTESTANTS:
            tried = tries(method, number, results)
            cells = [cell for one in tried for cell in one.cells]
            if len(tried) == TRIES or not all(cell.name in results for cell in cells):
                continue
            for cell in cells:
                if results[cell.name]["settings"] != settings_of(cell):
                    raise ValueError(
                        f"cell {cell.name}: expected the settings of the search space, got others. Delete "
                        "the cell, or choose another --output"
                    )
            best = _best(tried, results)
            rows[method] = {
                "try": best,
                "settings": tried[best].settings,
                "war": [_war(one, results) for one in tried],
                "mean_war": float(np.mean(_war(tried[best], results))),
                "scores": detection([results[cell.name] for cell in tried[best].cells]),
            }
        if rows:
            chosen[str(number)] = rows
    return chosen


class Try(NamedTuple):
    """Settings of a method, and the cells in which they are measured."""

    settings: Mapping[str, Any]
    cells: Sequence[Cell]


def tries(method: str, epochs: int, results: Mapping[str, Mapping[str, Any]]) -> list[Try]:
    """Returns the tries of a method: TRIES, and the last one as soon as it follows from their results."""
    found = [
        Try(settings, protocol.choose_cells(method, number, settings, epochs))
        for number, settings in enumerate(METHODS[method].tried())
    ]
    if all(cell.name in results for one in found for cell in one.cells):
        settings = protocol.faster(found[_best(found, results)].settings)
        found.append(Try(settings, protocol.choose_cells(method, TRIES, settings, epochs)))
    return found


def _war(one: Try, results: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Returns the WAR of each cell of a try."""
    return [results[cell.name]["results"]["war"] for cell in one.cells]


def _best(tried: Sequence[Try], results: Mapping[str, Mapping[str, Any]]) -> int:
    """Returns the number of the try with the highest mean WAR; the first of equal ones."""
    return int(np.argmax([np.mean(_war(one, results)) for one in tried]))


def detection(results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns the best score of several clips and the best of one view, by mean AUROC over cells."""
    tables = [r["evidence"].get("detection", {}).get(TASK) for r in results if "evidence" in r]
    tables = [table for table in tables if table]
    if not tables:
        return None
    names = [name for name in tables[0]["scores"] if all(name in t["scores"] for t in tables)]
    means = {
        name: float(np.mean([t["auroc"][t["scores"].index(name)] for t in tables]))
        for name in names
    }

    def best(views: Sequence[str]) -> str:
        return max((n for n in names if n.split(", ")[1] in views), key=lambda n: means[n])

    return {"clips": best(OF_CLIPS), "one": best(OF_ONE), "auroc": means}


def slim(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the results of a cell with the AUROCs alone as evidence: what the choice needs."""
    tables = result.get("evidence", {}).get("detection", {})
    kept = {
        task: {"scores": table["scores"], "auroc": table["auroc"]}
        for task, table in tables.items()
        if table
    }
    return dict(result) | {"evidence": {"detection": kept}}


def make_choice(
    chosen: Mapping[str, Any],
    results: Mapping[str, Mapping[str, Any]],
    config: str,
    changes: Sequence[str],
) -> dict[str, Any]:
    """Returns the content of choice.json, with digests of search space, results and itself.

    Args:
      chosen: what `choose` returned.
      results: results of cells by name.
      config: the config file.
      changes: settings of all cells, from --set.
    """
    methods = sorted({method for rows in chosen.values() for method in rows})
    measured = {name: results[name]["results"].get("war") for name in sorted(results)}
    choice = {
        "commits": sorted({results[name]["commit"] for name in results}),
        "search_space": protocol.digest(protocol.search_space(methods)),
        "results": protocol.digest(measured),
        "config": config,
        "set": list(changes),
        "chosen": dict(chosen),
    }
    return choice | {"digest": protocol.digest(choice)}


def table(chosen: Mapping[str, Any]) -> str:
    """Returns Markdown tables of the mean WAR of each try, in percent; the chosen one is bold."""
    blocks = []
    for epochs, rows in chosen.items():
        names = [*(f"try {n + 1}" for n in range(TRIES)), "best, faster"]
        lines = [[f"{epochs} epochs", *names, "chosen settings"]]
        for method, row in sorted(rows.items(), key=lambda item: -item[1]["mean_war"]):
            means = [f"{100 * np.mean(war):.1f}" for war in row["war"]]
            means[row["try"]] = f"**{means[row['try']]}**"
            settings = ", ".join(f"{k} {v}" for k, v in row["settings"].items())
            lines.append([method, *means, settings])
        blocks.append(harness.table(lines))
    return "\n\n".join(blocks)


def main(_: Sequence[str]) -> None:
    """Trains the missing cells, and chooses."""
    options = flags.FLAGS
    grid.check_known("--methods", options.methods, CONTESTANTS)
    grid.check_known("--kinds", options.kinds, list(protocol.CONDITIONS))
    epochs = [int(number) for number in options.epochs]
    output = epath.Path(options.output).absolute()
    overrides = grid.base(output, protocol.common(), options.set)
    added = grid.added(options.add)
    results = grid.finished(output, "choose-", added)
    for _round in range(2):  # the last try of a method follows from its first ones
        cells = [
            cell
            for number in epochs
            for method in options.methods
            for one in tries(method, number, results)
            for (condition, _), cell in zip(CHOOSE, one.cells, strict=True)
            if condition in options.kinds
        ]
        grid.train(cells, output, options, added, protocol.common())
        results = grid.finished(output, "choose-", added)
    lengths = sorted({int(name.rpartition("-e")[2]) for name in results})
    chosen = choose(
        results, lengths, lambda cell: grid.settings_of(cell, output, options.config, overrides)
    )
    report = grid.provenance([slim(result) for result in results.values()], with_evidence=True)
    choice = make_choice(chosen, results, options.config, options.set)
    output.mkdir(parents=True, exist_ok=True)  # nothing was trained if all cells were added
    (output / "choose.json").write_text(harness.to_json(report))
    (output / "choice.json").write_text(harness.to_json(choice))
    text = table(chosen) or "no method has all of its cells yet"
    (output / "choose.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    grid.define_common_flags("runs/choose", protocol.CONFIG)
    flags.DEFINE_list("methods", list(CONTESTANTS), "Methods whose missing cells are trained.")
    flags.DEFINE_list("kinds", list(protocol.CONDITIONS), "Conditions whose cells are trained.")
    flags.DEFINE_list("epochs", ["22"], "Lengths of training, in epochs.")
    app.run(main)
