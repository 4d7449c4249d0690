"""Real label noise: the methods on FER2013's original labels, with the votes of FER+ as the truth.

    rdfer build --config=ferplus --config.build.source_dir=/data/fer
    rdfer build --config=ferplus --config.build.source_dir=/data/fer --config.build.label=voted \\
      --config.data.variant=voted
    python -m experiments.real_faces --choice=runs/choose/choice.json --output=runs/real_faces

Every method is trained on the original labels with the settings that experiments.choose chose on drawn
faces; nothing is chosen here. The oracle is cross-entropy on the majority of the votes. All are tested on
the majority of the votes for the pictures of the private test split. Trains the missing cells, reads all
finished cells in --output and of --add, and writes real_faces.json (all cells), real_faces.md (tables) and
real_faces.png. Resumable as the other grids are.

The seeds share training pictures, labels and test pictures. So the pictures of a bootstrap's draw are drawn
once for all seeds.

Shape letters: S seeds, R reviews, B pictures, N classes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from etils import epath
from scipy import stats

from benchmarks import harness
from experiments import (
    audit_grid,
    audit_runs,
    evidence,
    grid,
    noise_scores,
    report,
    report_tables,
    reviews,
    statistics,
)
from experiments.choose import TASK
from experiments.grid import Cell, Noise
from experiments.noise_scores import Evidence
from experiments.protocol import METHODS, ORACLE, ORACLE_AS
from rdfer_jax import paths, plots
from rdfer_jax.pipeline import source
from rdfer_jax.training.predictions import TRAIN_FILE, read_predictions

#: Run seeds, which no choice has seen.
SEEDS = (301, 302, 303, 304, 305)
#: Methods that are trained unless --methods says otherwise.
DEFAULT = ("cross_entropy", "elr", "agreement", ORACLE)
CONFIG = "configs/ferplus.py"
#: Draws of pictures for a rank correlation.
RANK_DRAWS = 200
#: What a report measures on the predictions of a cell, in the folder of the cell.
MEASURES = "measures.json"


def make_cells(
    chosen: Mapping[str, Mapping[str, Any]], epochs: int, seeds: Sequence[int]
) -> list[Cell]:
    """Returns the cells: chosen settings by method, for each seed; seed by seed."""
    return [
        Cell(
            f"people-{method}-s{seed}-e{epochs}",
            {**_settings(method, settings), "train.duration": f"{epochs} epochs"},
            Noise("none", 0.0, seed),
            seed,
        )
        for seed in seeds
        for method, settings in chosen.items()
    ]


def _settings(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    if method != ORACLE:
        return dict(settings)
    return {**settings, **METHODS[ORACLE_AS].base, "data.variant": "voted"}


def rank_correlations(folder: epath.Path, entropy: Mapping[str, float]) -> dict[str, Any]:
    """Returns Spearman's correlation of measures of a picture's views with the entropy of its votes.

    Args:
      folder: of a cell with the predictions for the training split.
      entropy: of the votes, in nats, by name of the picture.

    Returns:
      By measure, the correlation and its standard error from a bootstrap over pictures, whose ranks stay
      those among all pictures.
    """
    train = read_predictions(folder / "run" / TRAIN_FILE, ("logits", "clip_logits"))
    views = Evidence.of(train["logits"], train["clip_logits"], train["label"])
    one = Evidence.of(train["clip_logits"][:, 0], train["clip_logits"][:, :1], train["label"])
    measures = {
        "1 - agreement": 1 - noise_scores.soft_agreement(views),
        "1 - max softmax, views": 1 - noise_scores.confidence(views),
        "1 - max softmax, one view": 1 - noise_scores.confidence(one),
        "loss": noise_scores.loss(views),
    }
    if "memory_agreement" in train:
        measures["1 - agreement, memory"] = 1 - np.asarray(train["memory_agreement"], np.float64)
    target_B = np.array([entropy[str(name)] for name in train["clip_id"]])
    ranks = {name: stats.rankdata(values) for name, values in measures.items()}
    rank_B = stats.rankdata(target_B)
    rng = np.random.default_rng(statistics.SEED)
    found = {name: np.corrcoef(values, rank_B)[0, 1] for name, values in ranks.items()}
    drawn: dict[str, list[float]] = {name: [] for name in ranks}
    for _ in range(RANK_DRAWS):
        part = rng.integers(len(rank_B), size=len(rank_B))
        for name, values in ranks.items():
            drawn[name].append(np.corrcoef(values[part], rank_B[part])[0, 1])
    return {
        name: {"rho": float(found[name]), "error": float(np.std(drawn[name], ddof=1))}
        for name in ranks
    }


def measured(folder: epath.Path, entropy: Mapping[str, float]) -> dict[str, Any]:
    """Returns the ranks and the audit of a cell with predictions for the training split.

    They are kept in the cell's folder. Other code measures again, and changed files do so every time.

    Args:
      folder: of the cell.
      entropy: as for `rank_correlations`.
    """
    path, commit = folder / MEASURES, harness.commit()
    if path.exists():
        kept = json.loads(path.read_text())
        if kept.pop("commit") == commit and commit != "unknown" and not commit.endswith("+"):
            return dict(kept)
    found = {
        "ranks": rank_correlations(folder, entropy),
        "audit": audit_grid.figures(audit_runs.read(folder)[1]),
    }
    path.write_text(harness.to_json({"commit": commit, **found}))
    return found


def votes_entropy(directory: epath.Path, data: Any) -> dict[str, float]:
    """Returns the entropy of the votes of each training picture, in nats, by its name."""
    columns = source.training_split(directory, data).columns("clip_id", "votes")
    # In order, so that the same votes for other classes have exactly the same entropy.
    votes_BN = np.sort(columns["votes"], axis=1).astype(np.float64)
    share_BN = votes_BN / votes_BN.sum(axis=1, keepdims=True)
    return dict(zip(columns["clip_id"].tolist(), stats.entropy(share_BN, axis=1), strict=True))


def gather(
    results: Mapping[str, Mapping[str, Any]],
) -> dict[tuple[int, str], list[Mapping[str, Any]]]:
    """Returns the finished cells by epochs and method, for the seeds that all methods have finished."""
    groups: dict[tuple[int, str], dict[int, Mapping[str, Any]]] = {}
    for name, result in results.items():
        method, epochs = name.split("-")[1], int(name.rpartition("-e")[2])
        groups.setdefault((epochs, method), {})[result["seed"]] = result
    found = {}
    for (epochs, method), by_seed in sorted(groups.items()):
        peers = [set(seeds) for (length, _), seeds in groups.items() if length == epochs]
        common = sorted(set.intersection(*peers))
        if common:
            found[epochs, method] = [by_seed[seed] for seed in common]
    return found


def summary(
    results: Mapping[str, Mapping[str, Any]], choice: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of all tables."""
    groups = gather(results)
    rows: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in ("accuracy", "differences", "reviewed", "detection", "ranks", "calls", "audit")
    }
    for (epochs, method), cells in groups.items():
        head: dict[str, Any] = {"epochs": epochs, "method": method, "seeds": len(cells)}
        label_B, right_SB = _right(cells)
        row = dict(head)
        for name, balanced in (("war", False), ("uar", True)):
            row[name] = statistics.bootstrap_shared(label_B, right_SB, balanced=balanced)._asdict()
        hard_B = evidence.numbers(cells[0]["evidence"]["test"]["hard"]).astype(bool)
        for part, among_B in (("easy", ~hard_B), ("hard", hard_B)):
            row[f"war {part}"] = statistics.bootstrap_shared(
                label_B[among_B], right_SB[:, among_B]
            )._asdict()
        rows["accuracy"].append(row)
        best = report_tables.best_baseline(choice, max(map(int, choice["chosen"])))
        for than in dict.fromkeys((best, ORACLE_AS, ORACLE)):
            if METHODS[method].is_baseline or than is None or (epochs, than) not in groups:
                continue
            _, other_SB = _right(groups[epochs, than])
            row = head | {"than": than}
            for name, balanced in (("war", False), ("uar", True)):
                row[name] = statistics.bootstrap_shared(
                    label_B, right_SB, other_SB, balanced=balanced
                )._asdict()
            rows["differences"].append(row)
        rows["reviewed"] += after_reviews(head, cells)
        if method == ORACLE:  # trained on the votes: there is nothing to detect
            continue
        rows["detection"] += detection(head, cells)
        rows["ranks"] += ranks(head, cells)
        rows["audit"] += audits(head, cells)
        rows["calls"] += [
            head | row for row in report_tables.calls({(epochs, "people", method): list(cells)})
        ]
    return rows


def _right(cells: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    """Returns the true classes, and whether the prediction of each seed is right."""
    tests = [cell["evidence"]["test"] for cell in cells]
    label_B = evidence.numbers(tests[0]["label"])
    return label_B, np.stack([evidence.numbers(test["prediction"]) == label_B for test in tests])


def detection(head: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the AUROC of each score: wrong labels among {wrong, hard}, and hard among right ones.

    Each score of several views is compared with the same score of one view, and with the loss.
    """
    rows = []
    tasks = {
        TASK: (("odds", "posterior", "loss"), "loss, video"),
        report_tables.HARD_TASK: (("1 - max softmax", "1 - agreement"), "1 - max softmax, video"),
    }
    for task, (scores, base) in tasks.items():
        for name in scores:
            # A single view cannot disagree with itself.
            single = "1 - max softmax" if name == "1 - agreement" else name
            others = {"one_view": f"{single}, one clip", "loss_or_softmax": base}
            for views in ("K clips", "memory"):
                score = f"{name}, {views}"
                row = report_tables.auroc_row(cells, task, score, others, shared=True)
                if row:
                    row = row | {"score": score.replace("K clips", "views")}
                    rows.append({**head, "task": task, **row})
    return rows


def ranks(head: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns Spearman's correlation with the entropy of the votes, by measure."""
    found = [cell["ranks"] for cell in cells if "ranks" in cell]
    if len(found) < len(cells):
        return []
    return [
        dict(head)
        | {"measure": name}
        | {
            "spearman": statistics.bootstrap_auroc(
                [[one[name]["rho"]] for one in found],
                [[[one[name]["error"] ** 2]] for one in found],
                (1,),
                shared=True,
            )._asdict()
        }
        for name in found[0]
    ]


def after_reviews(
    head: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns what the class shares of a review change, by number of reviewed pictures.

    The mean over the reviews, with an interval over pictures and seeds; and the tenth of the reviews with
    the least gain in WAR, where the mean over the seeds is taken.
    """
    if not all("reviewed" in cell for cell in cells):
        return []
    label_B, before_SB = _right(cells)
    rows = []
    for size in cells[0]["reviewed"]:
        after_SRB = np.stack([cell["reviewed"][size] for cell in cells])
        row = dict(head) | {"reviewed": size}
        for name, balanced in (("war", False), ("uar", True)):
            after_SB = after_SRB.mean(axis=1)
            row[name] = statistics.bootstrap_shared(label_B, after_SB, balanced=balanced)._asdict()
            row[f"minus before, {name}"] = statistics.bootstrap_shared(
                label_B, after_SB, before_SB, balanced=balanced
            )._asdict()
        gain_R = (after_SRB.mean(axis=2) - before_SB.mean(axis=1)[:, None]).mean(axis=0)
        rows.append(row | {"least tenth": float(np.quantile(gain_R, 0.1))})
    return rows


def audits(head: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the figures of the audit and the best of cleanlab's: means over the seeds, no intervals."""
    by_seed = {cell["seed"]: cell["audit"] for cell in cells if "audit" in cell}
    if len(by_seed) < len(cells):
        return []
    found = audit_grid.summary(by_seed)
    columns = [
        f"{who} {figure}" for figure in ("ap", "f1", "share") for who in ("audit", "cleanlab")
    ]
    row = dict(head) | {"share wrong": found["share"]} | {name: found[name] for name in columns}
    for promise in audit_grid.PROMISES:
        listed, right = found[f"listed {promise}"], found[f"right {promise}"]
        row[f"listed at {promise:.0%}"] = listed
        row[f"right at {promise:.0%}"] = right / listed if listed else None
    return [row]


def text(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns the tables as Markdown, in percent."""
    return "\n\n".join(
        report_tables.table(part, report_tables.DIFFERENCES if name == "differences" else ())
        for name, part in rows.items()
        if part
    )


def main(_: Sequence[str]) -> None:
    """Trains the missing cells, and writes the tables."""
    options = flags.FLAGS
    choice = report.read_choice(epath.Path(options.choice))
    methods = options.methods or list(DEFAULT)
    grid.check_known("--methods", methods, list(METHODS))
    chosen = report.settings(choice, max(map(int, choice["chosen"])), methods)
    output = epath.Path(options.output).absolute()
    report.tie(output, choice)
    changes: dict[str, Any] = {"train.tensorboard": False}
    cells = make_cells(chosen, options.epochs, [int(seed) for seed in options.seeds])
    overrides = grid.base(output, changes, options.set)
    config = harness.load(options.config, overrides)
    grid.ensure_built(config)
    added = grid.added(options.add)
    if not options.only_report:
        grid.train(cells, output, options, added, changes)
    results = grid.finished(output, "people-", added)
    entropy = votes_entropy(source.find(config.data), config.data)
    for name, result in results.items():
        folder = output / "cells" / name
        if (folder / "run" / TRAIN_FILE).exists() and f"-{ORACLE}-" not in name:
            result |= measured(folder, entropy)
            result["reviewed"] = reviews.followed(folder)
    rows = summary(results, choice)
    origin = grid.provenance(list(results.values()), with_evidence=True)
    for cell in origin["cells"]:
        cell.update({k: v for k, v in results[cell["name"]].items() if k in ("ranks", "audit")})
    body = {"choice": choice["digest"], **origin, **rows}
    (output / "real_faces.json").write_text(harness.to_json(body))
    (output / "real_faces.md").write_text(text(rows) + "\n")
    for (epochs, method), group in gather(results).items():
        if not METHODS[method].is_baseline:
            title = f"{method}, {epochs} epochs"
            figure = report_tables.agreement_histogram(group, title)
            plots.save(figure, output / f"agreement_{method}_{epochs}.png")
    print(text(rows))


if __name__ == "__main__":
    grid.define_common_flags("runs/real_faces", CONFIG)
    paths.DEFINE_path("choice", None, "choice.json of experiments.choose.", required=True)
    flags.DEFINE_list("methods", None, f"Methods to train; by default {', '.join(DEFAULT)}.")
    flags.DEFINE_list("seeds", [str(seed) for seed in SEEDS], "Run seeds.")
    flags.DEFINE_integer("epochs", 10, "Length of training, in epochs.", lower_bound=1)
    flags.DEFINE_bool(
        "only_report", False, "Train nothing; write the tables of the finished cells."
    )
    app.run(main)
