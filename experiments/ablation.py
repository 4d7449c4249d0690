"""Which parts of the method matter? The default against the same run with one setting changed.

    python -m experiments.ablation --size=small --jobs=2 --output=runs/ablation
    python -m experiments.ablation --groups=streams,key --seeds=0,1,2,3,4 --output=runs/ablation
    python -m experiments.ablation --groups=partition --seeds=211,212,213 --own_data --output=runs/fresh

Covers key expression re-sampling (KER), the two streams, and every choice that the paper leaves open. All
runs learn from the same wrong labels as in experiments.noise, and differences are paired over seeds.
Writes ablation.json, ablation.md (the printed tables) and ablation.png to --output. With the --output of
experiments.noise, the default is not trained again. When started again, it continues with the cells that
have not finished. With --own_data each seed has a data set of its own, as in the protocol.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags
from matplotlib.figure import Figure

from benchmarks import harness
from experiments import grid, noise, over_seeds
from experiments.grid import Cell, Noise
from rdfer_jax import plots

BASE = "default"
NO_KEY = {"key.enabled": False}


class Variant(NamedTuple):
    """One change to the default.

    Attributes:
      group: the question that it belongs to.
      changes: settings that differ from the default.
      versus: name of the variant that it is compared with.
    """

    group: str
    changes: dict[str, Any]
    versus: str = BASE


#: Single streams and windows are compared without key expression re-sampling: it needs both streams, and
#: clips from all of the video.
VARIANTS: dict[str, Variant] = {
    BASE: Variant("key", {}),
    "without KER": Variant("key", NO_KEY),
    "key of the present clips": Variant("key", {"key.consensus": "clips"}),
    "key instants towards their class": Variant("key", {"key.train_towards": "choice"}),
    "both streams, no gate": Variant("streams", NO_KEY | {"model.gate": False}, "without KER"),
    "short-term alone": Variant("streams", NO_KEY | {"model.streams": "short"}, "without KER"),
    "long-term alone": Variant("streams", NO_KEY | {"model.streams": "long"}, "without KER"),
    "windows": Variant("clips", NO_KEY | {"clips.kind": "windows"}, "without KER"),
    "3 clips": Variant("clips", {"clips.number": 3}),
    "views of two thirds": Variant("clips", {"clips.min_span": 0.67}),
    "9 clips": Variant("clips", {"clips.number": 9}),
    "vote": Variant("measure", {"agreement.measure": "vote"}),
    "label support": Variant("measure", {"agreement.score": "support"}),
    "no memory": Variant("memory", {"agreement.memory_decay": 0.0}),
    "memory 0.3": Variant("memory", {"agreement.memory_decay": 0.3}),
    "memory 0.9": Variant("memory", {"agreement.memory_decay": 0.9}),
    "agreement of the present clips": Variant("memory", {"agreement.remember": 0.0}),
    "teacher 0.98": Variant("teacher", {"agreement.teacher_decay": 0.98}),
    "gradient": Variant("gradient", {"agreement.gradient": True, "agreement.remember": 0.0}),
    "tau 0": Variant("threshold", {"agreement.threshold": 0.0}),
    "tau 0.1": Variant("threshold", {"agreement.threshold": 0.1}),
    "tau 0.4": Variant("threshold", {"agreement.threshold": 0.4}),
    "tau fixed at 0.5": Variant(
        "threshold", {"agreement.threshold": 0.5, "agreement.threshold_kind": "fixed"}
    ),
    "temperature 1": Variant("threshold", {"agreement.temperature": 1.0}),
    "noise above 0.7": Variant("threshold", {"agreement.noise_threshold": 0.7}),
    "noise above 0.8": Variant("threshold", {"agreement.noise_threshold": 0.8}),
    "noisy by odds of 0.65": Variant(
        "partition",
        {
            "agreement.noisy_agrees": False,
            "agreement.noise_threshold": 0.65,
            "agreement.threshold": 0.25,
        },
    ),
    "noisy by odds of 0.7": Variant(
        "partition",
        {
            "agreement.noisy_agrees": False,
            "agreement.noise_threshold": 0.7,
            "agreement.threshold": 0.3,
        },
    ),
    "from the start": Variant("start", {"loss.robust_from": "0 %"}),
    "from 20 %": Variant("start", {"loss.robust_from": "20 %"}),
    "from 30 %": Variant("start", {"loss.robust_from": "30 %"}),
    "from 50 %": Variant("start", {"loss.robust_from": "50 %"}),
    "from 70 %": Variant("start", {"loss.robust_from": "70 %"}),
    "noisy dropped": Variant("noisy", {"loss.noisy_weight": 0.0}),
    "noisy keep their label": Variant("noisy", {"loss.noisy_target": 0.0}),
    "noisy half and half": Variant("noisy", {"loss.noisy_target": 0.5}),
    "all targets blended": Variant("noisy", {"loss.refurbish": "all"}),
    "hard not reinforced": Variant("hard", {"loss.hard": 0.0}),
    "hard by 1": Variant("hard", {"loss.hard": 1.0}),
    "hard by agreement": Variant("hard", {"loss.hard_scale": "agreement"}),
    "hard elsewhere, too": Variant("hard", {"loss.hard_elsewhere": True}),
}
GROUPS = tuple(dict.fromkeys(v.group for v in VARIANTS.values()))

COLUMNS = {
    "war": "WAR", "war_hard": "WAR of hard clips", "key_frames_inside": "key frames inside",
    "noise_auroc_agreement": "AUROC flipped", "noise_auroc_agreement_among_hard": "among hard",
    "hard_auroc_agreement": "AUROC hard",
}  # fmt: skip


def chosen(groups: Sequence[str]) -> dict[str, Variant]:
    """Returns the variants with these names or of these groups, and those they are compared with."""
    names = {name for name, v in VARIANTS.items() if v.group in groups or name in groups}
    names |= {VARIANTS[name].versus for name in names} | {BASE}
    return {name: v for name, v in VARIANTS.items() if name in names}


def cells(
    groups: Sequence[str], kind: str, rate: float, seeds: Sequence[int], own_data: bool = False
) -> list[Cell]:
    """Returns the cells: each variant with each seed. The default is that of experiments.noise.

    With own_data, a seed is also the build seed of a data set of its own.
    """
    cells = []
    for seed in seeds:
        wrong = Noise(kind, rate, seed)
        for name, variant in chosen(groups).items():
            prefix = "agreement" if name == BASE else name.replace(" ", "_").replace(",", "")
            changes = noise.METHODS["agreement"] | variant.changes
            build, where = ({"seed": seed}, f"-b{seed}") if own_data else ({}, "")
            cells.append(Cell(f"{prefix}-{wrong.name}{where}", changes, wrong, seed, build))
    return cells


def summary(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns for each variant the mean of each column, and its paired difference to `versus`.

    Args:
      results: results of the cells, in their order.
      names: the variant of each result.
    """
    by_variant: dict[str, dict[int, Any]] = {}
    for name, result in zip(names, results, strict=True):
        by_variant.setdefault(name, {})[result["seed"]] = result["results"]
    rows = []
    for name, by_seed in by_variant.items():
        variant = VARIANTS[name]
        row: dict[str, Any] = {"variant": name, "group": variant.group, "versus": variant.versus}
        row |= {"changes": variant.changes, "seeds": len(by_seed)}
        versus = by_variant.get(variant.versus, {})
        rows.append(row | over_seeds.compared(by_seed, versus, COLUMNS))
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table for each group, in percent: mean; paired difference (interval)."""
    blocks = []
    for group in dict.fromkeys(row["group"] for row in rows):
        inside = [row for row in rows if row["group"] == group]
        blocks.append(f"{group}; {max(row['seeds'] for row in inside)} seeds")
        lines = [["variant", "compared with", *COLUMNS.values()]]
        for row in inside:
            is_base = row["variant"] == row["versus"]
            values = over_seeds.shown(row, COLUMNS, not is_base)
            lines.append([row["variant"], "" if is_base else row["versus"], *values])
        blocks.append(harness.table(lines))
    return "\n\n".join(blocks)


@plots.styled
def picture(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the paired difference of WAR of each variant, with its 95 % interval."""
    shown = [r for r in rows if r["variant"] != r["versus"] and r["war_difference"]]
    figure = Figure(figsize=(8, 1 + 0.28 * max(len(shown), 3)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(shown)):
        mean, low, high = (100 * row["war_difference"][k] for k in ("mean", "low", "high"))
        axes.errorbar(
            mean, place, xerr=[[mean - low], [high - mean]], marker="o", capsize=3,
            color=f"C{GROUPS.index(row['group']) % 10}",
        )  # fmt: skip
    names = [f"{row['variant']} (vs. {row['versus']})" for row in reversed(shown)]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.axvline(0, color="gray", linewidth=1)
    axes.set_xlabel("change of WAR on the clean test split, percentage points")
    axes.set_title("One setting changed at a time: does it help?")
    return figure


def main(_: Sequence[str]) -> None:
    """Trains the missing cells and prints the tables."""
    options = flags.FLAGS
    grid.check_known("--groups", options.groups, [*GROUPS, *VARIANTS])
    seeds = [int(seed) for seed in options.seeds]
    output, results = grid.run_from_flags(
        cells(options.groups, options.kind, options.rate, seeds, options.own_data),
        noise.SIZES[options.size] | noise.QUIET,
    )
    rows = summary(results, [name for _ in seeds for name in chosen(options.groups)])
    text = table(rows)
    grid.write_report(output, "ablation", results, {"rows": rows}, text, picture(rows))
    print(text)


if __name__ == "__main__":
    grid.define_flags("runs/ablation", list(noise.SIZES))
    flags.DEFINE_list("groups", list(GROUPS), f"Groups ({', '.join(GROUPS)}) or single variants.")
    flags.DEFINE_string("kind", "confusion", "Kind of wrong labels.")
    flags.DEFINE_bool("own_data", False, "A data set for each seed, built with that seed.")
    flags.DEFINE_float("rate", 0.3, "Share of wrong labels, in [0, 1).")
    app.run(main)
