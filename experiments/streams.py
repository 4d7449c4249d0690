"""Do the two streams see two things? Both against either alone, on pairs that differ in movement only.

    python -m experiments.streams --size=small --jobs=2 --output=runs/streams
    python -m experiments.streams --variants=both --variants="long-term alone" --data=movement

Trains each variant on the movement pairs of synthetic_faces and, with the same settings, on its ordinary
expressions, where movement says little. Labels are right and the loss is cross-entropy. Differences to
"both" are paired over seeds. Writes streams.json, streams.md (the printed tables) and streams.png to
--output. When started again, it continues with the cells that have not finished.

The accuracy of a kind of pair is that among clips of the kind for which the network named one of the two
members: 50 % for a network without movement.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from benchmarks import harness
from data.synthetic_faces.movement import MOVEMENTS
from experiments import grid, noise, over_seeds
from experiments.grid import Cell, Noise
from rdfer_jax import plots

BASE = "both"
_NO_KEY = {"key.enabled": False}

#: Variant -> settings on top of configs/synthetic_movement.py. Single streams have no key expression
#: re-sampling, so they are compared with both streams without it.
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: _NO_KEY,
    "short-term alone": _NO_KEY | {"model.streams": "short"},
    "long-term alone": _NO_KEY | {"model.streams": "long"},
    "both, single frames": _NO_KEY | {"data.snippet": 1},
    "both, temporal shift": _NO_KEY | {"model.shift": True},
    "long-term alone, temporal shift": _NO_KEY | {"model.streams": "long", "model.shift": True},
    "both, key clips": {},
}

#: Data set -> options of its builder.
DATA: dict[str, dict[str, Any]] = {
    "movement": {"movement_pairs": True},
    "expressions": {"movement_pairs": False},
}

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "build": noise.FACES | {"num_train": 2000, "num_frames": 64, "movement_pairs": True},
        "train.duration": "20 epochs",
    },
    "full": {
        "build": noise.FACES | {"num_train": 8000, "num_frames": 64, "movement_pairs": True},
        "train.duration": "20 epochs",
    },
    "config": {},
}
_PLAIN = {"loss.method": "cross_entropy", "agreement.memory_decay": 0.0}

KINDS = tuple(dict.fromkeys(movement.kind for movement in MOVEMENTS.values()))
COLUMNS = {"war": "WAR", "war_hard": "WAR of hard clips"} | {kind: kind for kind in KINDS}


def cells(variants: Sequence[str], data: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Returns the cells: each variant on each data set with each seed."""
    found = []
    for seed in seeds:
        for name in variants:
            for kind in data:
                prefix = f"{kind}-{name}".replace(",", "").replace(" ", "_")
                wrong = Noise("none", 0.0, seed)
                build = {} if kind == "movement" else DATA[kind]
                found.append(Cell(f"{prefix}-s{seed}", VARIANTS[name], wrong, seed, build))
    return found


def within_pairs(results: Mapping[str, Any]) -> dict[str, float]:
    """Returns the accuracy by kind of pair, of clips for which one of the two members was named.

    Args:
      results: results of a run on the movement pairs; those on other classes have no such accuracy.
    """
    if list(results.get("recall_per_class", ())) != list(MOVEMENTS):
        return {str(kind): results[kind] for kind in KINDS if kind in results}  # from a report
    confusion_NN = np.array(results["confusion_matrix"])
    accuracy: dict[str, float] = {}
    for kind in KINDS:
        members = np.array([movement.kind == kind for movement in MOVEMENTS.values()])
        place_N = np.arange(len(members))
        is_pair_NN = members[:, None] & (place_N[:, None] // 2 == place_N // 2)
        named = confusion_NN[is_pair_NN].sum()
        accuracy[kind] = float(np.diag(confusion_NN)[members].sum() / named) if named else 0.5
    return accuracy


def summary(
    results: Sequence[Mapping[str, Any]], names: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Returns for each data set and variant the mean of each column, and its difference to BASE.

    Args:
      results: results of the cells, in their order.
      names: data set and variant of each result.
    """
    by_name: dict[tuple[str, str], dict[int, Any]] = {}
    for name, result in zip(names, results, strict=True):
        by_name.setdefault(name, {})[result["seed"]] = result["results"]
    rows = []
    for (data, variant), by_seed in by_name.items():
        row: dict[str, Any] = {"data": data, "variant": variant, "seeds": len(by_seed)}
        rows.append(row | over_seeds.compared(by_seed, by_name.get((data, BASE), {}), COLUMNS))
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table for each data set, in percent: mean; paired difference (interval)."""
    blocks = []
    for data in dict.fromkeys(row["data"] for row in rows):
        inside = [row for row in rows if row["data"] == data]
        columns = {c: title for c, title in COLUMNS.items() if any(row[c] for row in inside)}
        blocks.append(f"{data}; {max(row['seeds'] for row in inside)} seeds")
        lines = [["variant", *columns.values()]]
        for row in inside:
            values = over_seeds.shown(row, columns, row["variant"] != BASE)
            lines.append([row["variant"], *values])
        blocks.append(harness.table(lines))
    return "\n\n".join(blocks)


@plots.styled
def picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the accuracy of each variant within the pairs of each kind, with its 95 % interval."""
    shown = [row for row in rows if row[KINDS[0]]]
    figure = Figure(figsize=(8, 1 + 0.4 * max(len(shown), 3)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(shown)):
        for number, kind in enumerate(KINDS):
            mean, low, high = (100 * row[kind][k] for k in ("mean", "low", "high"))
            axes.errorbar(
                mean, place + 0.2 * (1 - number), xerr=np.nan_to_num([[mean - low], [high - mean]]),
                marker="o", capsize=3, color=f"C{number}", label=None if place else kind,
            )  # fmt: skip
    axes.set_yticks(range(len(shown)), [row["variant"] for row in reversed(shown)], fontsize=8)
    axes.axvline(50, color="gray", linewidth=1)
    axes.set_xlabel("right member of the pair, percent of the clips whose pair was found")
    axes.set_title("Pairs that differ in movement only")
    if shown:
        axes.legend()
    return figure


def main(_: Sequence[str]) -> None:
    """Trains the missing cells and prints the tables."""
    options = flags.FLAGS
    # A comma is part of some names.
    variants = [name for name in VARIANTS if not options.variants or name in options.variants]
    grid.check_known("--variants", options.variants, list(VARIANTS))
    grid.check_known("--data", options.data, list(DATA))
    seeds = [int(seed) for seed in options.seeds]
    output, results = grid.run_from_flags(
        cells(variants, options.data, seeds), _PLAIN | SIZES[options.size] | noise.QUIET
    )
    for result in results:
        result["results"] |= within_pairs(result["results"])
    rows = summary(results, [(d, v) for _ in seeds for v in variants for d in options.data])
    text = table(rows)
    grid.write_report(output, "streams", results, {"rows": rows}, text, picture(rows))
    print(text)


if __name__ == "__main__":
    grid.define_flags("runs/streams", list(SIZES))
    flags.FLAGS.set_default("config", "configs/synthetic_movement.py")
    flags.DEFINE_multi_string("variants", [], "Variant to train; repeat it; all if none is given.")
    flags.DEFINE_list("data", list(DATA), f"Data sets: {', '.join(DATA)}.")
    app.run(main)
