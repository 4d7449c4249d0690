"""Reports the methods with their chosen settings, on data sets that no choice has seen.

    python -m experiments.report --choice=runs/choose/choice.json --output=runs/report --epochs=22 --jobs=2

Trains the missing cells of --methods, --kinds, --seeds and --epochs, each with the settings that
experiments.choose chose for it; a method without a choice is refused. The first sitting ties --output to
its choice: later ones must bring the same. A number of epochs without a choice of its own takes the
settings chosen at the next smaller one. Then reads all finished cells in --output, of this sitting or of
others (and of --add), and writes report.json (all cells), report.md (tables), and pictures.

protocol.py has the data sets and the claimed comparisons; statistics.py the intervals.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags
from etils import epath

from benchmarks import harness
from experiments import grid, protocol, report_tables
from experiments.protocol import METHODS, ORACLE, ORACLE_AS, TRIES
from rdfer_jax import paths, plots


class ChoiceError(ValueError):
    """The settings of a report are not what experiments.choose chose."""


def read_choice(path: epath.Path) -> dict[str, Any]:
    """Reads choice.json and checks that experiments.choose wrote it, from the search space of this code.

    Raises:
      ChoiceError: it was changed, or the search space has.
    """
    choice: dict[str, Any] = json.loads(path.read_text())
    content = {name: value for name, value in choice.items() if name != "digest"}
    if protocol.digest(content) != choice.get("digest"):
        raise ChoiceError(f"{path} was changed after experiments.choose wrote it; run it again")
    methods = sorted({method for rows in choice["chosen"].values() for method in rows})
    unknown = set(methods) - set(METHODS)
    if unknown or protocol.digest(protocol.search_space(methods)) != choice["search_space"]:
        raise ChoiceError(
            f"{path}: the search space has changed since the choice; run experiments.choose again"
        )
    for rows in choice["chosen"].values():
        for method, row in rows.items():
            first, number = METHODS[method].tried(), row["try"]
            allowed = [first[number]] if number < TRIES else [protocol.faster(one) for one in first]
            if row["settings"] not in allowed:
                raise ChoiceError(f"{path}: the settings of {method} are not those of its try")
    return choice


def settings(choice: Mapping[str, Any], epochs: int, methods: Sequence[str]) -> dict[str, Any]:
    """Returns the chosen settings by method: those of the highest number of epochs up to `epochs`.

    The oracle takes those of protocol.ORACLE_AS.

    Raises:
      ChoiceError: nothing was chosen for a method.
    """
    lengths = sorted(int(number) for number in choice["chosen"] if int(number) <= epochs)
    found: dict[str, Any] = {}
    for length in lengths:
        found |= {m: row["settings"] for m, row in choice["chosen"][str(length)].items()}
    if ORACLE_AS in found:
        found[ORACLE] = {**found[ORACLE_AS], **METHODS[ORACLE].base}
    if missing := [method for method in methods if method not in found]:
        raise ChoiceError(
            f"nothing was chosen for {', '.join(missing)} at up to {epochs} epochs; run "
            "experiments.choose first"
        )
    return {method: found[method] for method in methods}


def tie(output: epath.Path, choice: Mapping[str, Any]) -> None:
    """Ties a folder to a choice: writes it there, or checks that it is the one that is there.

    Raises:
      ChoiceError: the folder has results of another choice.
    """
    path = output / "choice.json"
    if path.exists():
        if json.loads(path.read_text())["digest"] != choice["digest"]:
            raise ChoiceError(
                f"{output} has a report of another choice. The data sets for reporting are used once: give "
                "the choice that this report began with"
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(harness.to_json(choice))


def main(_: Sequence[str]) -> None:
    """Trains the missing cells, and writes the report."""
    options = flags.FLAGS
    choice = read_choice(epath.Path(options.choice))
    chosen_methods = {m for rows in choice["chosen"].values() for m in rows}
    chosen_methods |= {ORACLE} if ORACLE_AS in chosen_methods else set()
    methods = options.methods or [name for name in METHODS if name in chosen_methods]
    grid.check_known("--methods", methods, list(METHODS))
    grid.check_known("--kinds", options.kinds, list(protocol.CONDITIONS))
    grid.check_known("--seeds", options.seeds, list(map(str, protocol.REPORT)))
    seeds = [int(seed) for seed in options.seeds]
    cells = [
        cell
        for epochs in map(int, options.epochs)
        for cell in protocol.report_cells(
            settings(choice, epochs, methods), options.kinds, epochs, seeds
        )
    ]
    output = epath.Path(options.output).absolute()
    tie(output, choice)
    options.config, options.set = choice["config"], choice["set"]
    added = grid.added(options.add)
    grid.train(cells, output, options, added, protocol.common())
    results = grid.finished(output, "report-", added)
    report = report_tables.summary(results, choice)
    text = report_tables.text(report)
    origin = grid.provenance(list(results.values()), with_evidence=True)
    (output / "report.json").write_text(
        harness.to_json({"choice": choice["digest"], **origin, **report})
    )
    (output / "report.md").write_text(text + "\n")
    for name, picture in report_tables.pictures(results).items():
        plots.save(picture, output / f"{name}.png")
    print(text)


if __name__ == "__main__":
    grid.define_common_flags("runs/report", protocol.CONFIG)
    paths.DEFINE_path("choice", None, "choice.json of experiments.choose.", required=True)
    flags.DEFINE_list("methods", None, "Methods to train; by default all that have a choice.")
    flags.DEFINE_list("kinds", list(protocol.CONDITIONS), "Conditions whose cells are trained.")
    flags.DEFINE_list(
        "seeds", list(map(str, protocol.REPORT)), "Seeds of the data sets that are trained on now."
    )
    flags.DEFINE_list("epochs", ["22"], "Lengths of training, in epochs.")
    app.run(main)
