"""What does pretraining without labels gain where few labels are known?

    python -m experiments.pretraining --seeds=0,1,2,3,4 --jobs=2 --output=runs/pretraining
    python -m experiments.pretraining --target=difference --output=runs/pretraining_difference

For each seed, a data set of synthetic_faces is drawn. The first clips, by default a tenth, have labels, and
a small video transformer is trained on them from random weights, and from those that `rdfer pretrain`
finds on all training clips without their labels. Both trainings have the same settings, clips and number of
steps; their differences are paired over seeds. Labels are right and the loss is cross-entropy. Writes
pretraining.json, pretraining.md (the printed table) and pretraining.png to --output. When started again, it
continues with the cells that have not finished.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags
from etils import epath
from matplotlib.figure import Figure

from benchmarks import harness
from experiments import grid, noise, over_seeds
from experiments.grid import Cell, Noise, Pretraining
from rdfer_jax import plots

CONFIG, PRETRAINING = "configs/synthetic_vit.py:videovit_narrow", "configs/synthetic_pretrain.py"
BASE, PRETRAINED = "random weights", "pretrained"
#: Training and test clips, and the lengths of pretraining and training.
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "clips": 4000, "tested": 2000, "pretraining": "40 epochs", "training": "60 epochs"
    },
    "tiny": {"clips": 80, "tested": 21, "pretraining": "2 epochs", "training": "2 epochs"},
}  # fmt: skip
#: Settings of all trainings, and of the pretraining alone.
_TRAINING = {
    "loss.method": "cross_entropy", "agreement.memory_decay": 0.0, "clips.number": 2
} | noise.QUIET  # fmt: skip
_PRETRAINING = {"train.save_every": "5 epochs"}
#: Seed of the data set of seed 0: other clips than those of the other experiments.
_DATA_SEED = 900
COLUMNS = {"war": "WAR", "uar": "UAR", "war_easy": "easy", "war_hard": "hard"}


def cells(size: Mapping[str, Any], share: float, target: str, seeds: Sequence[int]) -> list[Cell]:
    """Returns the cells: from random and from pretrained weights with each seed.

    Args:
      size: one of SIZES.
      share: of the training clips that have labels.
      target: config.pretrain.target.
      seeds: of the runs.
    """
    found = []
    for seed in seeds:
        build = noise.FACES | {"seed": _DATA_SEED + seed}
        first = Pretraining(
            PRETRAINING,
            _PRETRAINING | {"train.duration": size["pretraining"], "pretrain.target": target},
            build | {"num_train": size["clips"], "num_test": 1},
        )
        counts = {"num_train": round(share * size["clips"]), "num_test": size["tested"]}
        for name, pretraining in ((BASE, None), (PRETRAINED, first)):
            found.append(
                Cell(
                    f"{name.replace(' ', '_')}-s{seed}",
                    {"train.duration": size["training"]},
                    Noise("none", 0.0, seed),
                    seed,
                    build | counts,
                    pretraining=pretraining,
                )
            )
    return found


def summary(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns for random and for pretrained weights the mean of each column, and the difference to BASE.

    Args:
      results: of `cells`, in their order.
    """
    by_name: dict[str, dict[int, Any]] = {BASE: {}, PRETRAINED: {}}
    for number, result in enumerate(results):
        by_name[(BASE, PRETRAINED)[number % 2]][result["seed"]] = result["results"]
    return [
        {"weights": name, "seeds": len(found)} | over_seeds.compared(found, by_name[BASE], COLUMNS)
        for name, found in by_name.items()
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table, in percent: mean ± half the interval; paired difference (interval)."""
    lines = [["weights", *COLUMNS.values()]]
    for row in rows:
        lines.append([row["weights"], *over_seeds.shown(row, COLUMNS, row["weights"] != BASE)])
    return f"{rows[0]['seeds']} seeds\n\n{harness.table(lines)}"


@plots.styled
def picture(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the WAR of each seed from random and from pretrained weights, joined by a line."""
    figure = Figure(figsize=(4, 3.2), layout="constrained")
    axes = figure.subplots()
    for base, pretrained in zip(results[::2], results[1::2], strict=True):
        wars = [100 * one["results"]["war"] for one in (base, pretrained)]
        axes.plot([0, 1], wars, marker="o", color="C0")
    axes.set_xticks([0, 1], [BASE, PRETRAINED])
    axes.set_xlim(-0.3, 1.3)
    axes.set_ylabel("WAR, percent; a line for each seed")
    return figure


def main(_: Sequence[str]) -> None:
    """Trains the missing cells and prints the table."""
    options = flags.FLAGS
    seeds = [int(seed) for seed in options.seeds]
    found = cells(SIZES[options.size], options.share, options.target, seeds)
    output = epath.Path(options.output).absolute()
    # "build" places the data sets into the folder of the grid.
    changes = _TRAINING | {"build": noise.FACES}
    results = grid.train(found, output, options, grid.added(options.add), changes)
    rows = summary(results)
    text = table(rows)
    settings = {"share": options.share, "target": options.target} | SIZES[options.size]
    grid.write_report(
        output, "pretraining", results, {"settings": settings, "rows": rows}, text, picture(results)
    )
    print(text)


if __name__ == "__main__":
    grid.define_flags("runs/pretraining", list(SIZES))
    flags.FLAGS.set_default("config", CONFIG)
    flags.FLAGS.set_default("seeds", "0,1,2,3,4")
    flags.DEFINE_float("share", 0.1, "Share of the training clips that have labels.", 0.0, 1.0)
    flags.DEFINE_enum("target", "pixels", ["pixels", "difference"], "config.pretrain.target.")
    app.run(main)
