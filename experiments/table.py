"""A paper's table from finished runs: methods x folds x seeds, with intervals and paired comparisons.

    python -m experiments.table --runs='CE=runs/ce_s*' --runs='ours=runs/ours_s*' --reference=CE

METHOD=GLOB names the folders of a method: cross-validations, runs with other seeds or folds, or cells of a
grid. Prints and writes table.md, table.tex (needs the LaTeX package booktabs) and table.json: the recall of
each class, WAR and UAR with 95 % intervals from a bootstrap over clips and seeds, and paired differences to
the reference, with p-values corrected by Holm's method. The caption states the protocol.

Letters: M methods, C classes, R draws.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from etils import epath

from benchmarks import harness
from experiments import finished, statistics
from experiments.finished import Compared
from rdfer_jax import paths

#: Level below which a corrected p-value gets a mark.
LEVEL = 0.05
_ESCAPED = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def summary(runs: Compared, reference: str | None, draws: int = statistics.DRAWS) -> dict[str, Any]:
    """Returns the rows of the table, ready for JSON.

    Args:
      runs: of the methods.
      reference: the method to which the others are compared; None: no comparisons.
      draws: of the bootstrap.

    Raises:
      RunsError: there is no such method.
    """
    if reference is not None and reference not in runs.methods:
        raise finished.RunsError(f"--reference={reference}: choose from {', '.join(runs.methods)}")
    found_MV, drawn_RMV = statistics.recalls(
        runs.label, runs.predicted == runs.label, runs.fold, draws=draws
    )
    names = [*(runs.classes[c] for c in np.unique(runs.label)), "WAR", "UAR"]
    rows = [
        {
            "method": method,
            **{
                name: statistics.estimate(drawn_RMV[:, m, v], found_MV[m, v])._asdict()
                for v, name in enumerate(names)
            },
        }
        for m, method in enumerate(runs.methods)
    ]
    return {
        "caption": caption(runs, reference, draws),
        "classes": names[:-2],
        "rows": rows,
        "reference": reference,
        "differences": _differences(runs.methods, reference, found_MV, drawn_RMV),
        "seeds": list(runs.seeds),
        "folds": list(runs.folds),
        "clips": len(runs.label),
        "not used": {method: list(seeds) for method, seeds in runs.unused.items()},
    }


def _differences(
    methods: Sequence[str],
    reference: str | None,
    found_MV: statistics.Vector,
    drawn_RMV: statistics.Vector,
) -> list[dict[str, Any]]:
    """Returns the paired differences of WAR and UAR to the reference, with corrected p-values."""
    if reference is None:
        return []
    base = methods.index(reference)
    others = [m for m in range(len(methods)) if m != base]
    rows: list[dict[str, Any]] = [{"method": methods[m]} for m in others]
    for v, name in ((-2, "WAR"), (-1, "UAR")):
        estimates = [
            statistics.estimate(
                drawn_RMV[:, m, v] - drawn_RMV[:, base, v],
                float(found_MV[m, v] - found_MV[base, v]),
            )
            for m in others
        ]
        adjusted = statistics.holm([e.p for e in estimates])
        for row, one, p in zip(rows, estimates, adjusted, strict=True):
            row[name] = one._asdict() | {"holm_p": float(p)}
    return rows


def caption(runs: Compared, reference: str | None, draws: int) -> str:
    """Returns the protocol in sentences."""
    facts = dict(runs.facts)
    seeds = f"seed{'s' * (len(runs.seeds) > 1)} {', '.join(map(str, runs.seeds))}"
    folds = f"{len(runs.folds)} folds" if len(runs.folds) > 1 else f"split {runs.folds[0]}"
    text = [
        f"{facts.pop('data')}: {folds}, {len(runs.label):,} clips, {seeds}; {facts.pop('checkpoint')} "
        "checkpoint.",
        *(f"{topic.capitalize()}: {words}." for topic, words in facts.items()),
        *(
            f"{topic.capitalize()} differ: {', '.join(f'{m}: {w}' for m, w in words.items())}."
            for topic, words in runs.differ.items()
        ),
        "Recall of each class, WAR and UAR in percent, each the mean over the folds and seeds; with 95 % "
        f"percentile intervals from {draws:,} bootstrap draws of the test clips within each fold"
        + (
            " and of the seeds."
            if len(runs.seeds) > 1
            else "; a single seed, so they do not cover other trainings."
        ),
    ]
    if reference is not None:
        count = len(runs.methods) - 1
        text.append(
            f"Differences to {reference} are paired: all methods share drawn clips and seeds. "
            f"p: two-sided, corrected by Holm's method for {count} comparison{'s' * (count > 1)}, WAR "
            f"and UAR apart; * below {LEVEL}."
        )
    for method, unused in runs.unused.items():
        text.append(
            f"Not used, as not all methods have them: seeds {', '.join(map(str, unused))} of {method}."
        )
    return " ".join(text)


def grids(found: Mapping[str, Any]) -> list[list[list[str]]]:
    """Returns the tables as rows of cells: the scores, and the differences if there are any."""
    scores = [["method", *found["classes"], "WAR", "UAR"]]
    for row in found["rows"]:
        cells = [f"{100 * row[name]['mean']:.1f}" for name in found["classes"]]
        scores.append([row["method"], *cells, _interval(row["WAR"]), _interval(row["UAR"])])
    if not found["differences"]:
        return [scores]
    differences = [[f"minus {found['reference']}", "WAR", "p", "UAR", "p"]]
    for row in found["differences"]:
        cells = [
            cell
            for name in ("WAR", "UAR")
            for cell in (_interval(row[name], "+"), _p(row[name]["holm_p"]))
        ]
        differences.append([row["method"], *cells])
    return [scores, differences]


def _interval(estimate: Mapping[str, float], sign: str = "") -> str:
    mean, low, high = (100 * estimate[name] for name in ("mean", "low", "high"))
    return f"{mean:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def _p(value: float) -> str:
    return (f"{value:.3f}" if value >= 0.001 else "<0.001") + ("*" if value < LEVEL else "")


def markdown(found: Mapping[str, Any]) -> str:
    """Returns the tables and their caption as Markdown."""
    parts = [
        harness.table([[cell.replace("|", "\\|") for cell in row] for row in grid])
        for grid in grids(found)
    ]
    return "\n\n".join([*parts, found["caption"]]) + "\n"


def latex(found: Mapping[str, Any]) -> str:
    """Returns the tables and their caption as a LaTeX table; needs the package booktabs."""
    lines = [
        "% Needs \\usepackage{booktabs}. Written by python -m experiments.table",
        r"\begin{table*}", r"  \centering", rf"  \caption{{{escape(found['caption'])}}}",
    ]  # fmt: skip
    for number, grid in enumerate(grids(found)):
        head, *rows = ([escape(cell) for cell in row] for row in grid)
        lines += [r"  \medskip" + "\n"] * (number > 0)
        lines += [
            rf"  \begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(head)} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(row)} \\\\" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
        ]
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def escape(text: str) -> str:
    """Returns text for LaTeX."""
    escaped = "".join(_ESCAPED.get(character, character) for character in text)
    return escaped.replace("<", "$<$").replace(">", "$>$")


def main(_: Sequence[str]) -> None:
    """Writes the table."""
    options = flags.FLAGS
    try:
        runs = finished.compare(finished.parse(options.runs))
        found = summary(runs, options.reference, options.draws)
    except finished.RunsError as error:
        sys.exit(f"error: {error}")
    output = epath.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.json").write_text(json.dumps(found, indent=2) + "\n")
    (output / "table.md").write_text(markdown(found))
    (output / "table.tex").write_text(latex(found))
    print(markdown(found))


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_multi_string("runs", [], "METHOD=GLOB: the folders of a method's runs.")
    flags.DEFINE_string("reference", None, "Method to which the others are compared.")
    flags.DEFINE_integer("draws", statistics.DRAWS, "Draws of the bootstrap.", lower_bound=100)
    paths.DEFINE_path("output", "table", "Folder for table.md, table.tex and table.json.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
