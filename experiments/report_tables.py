"""The tables and pictures of a report: accuracy, differences, detection, the calls of the mask, agreement.

Enters: the results of all finished cells of a report, by name. Leaves: rows with intervals over seeds and
clips, as JSON, as Markdown, and as pictures. Only conditions of which all seeds have finished count.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks import harness
from experiments import evidence, protocol, statistics
from experiments.choose import TASK
from experiments.protocol import METHODS, ORACLE
from rdfer_jax import plots

#: (epochs, condition, method) -> the results of the cells, one for each seed, in their order.
Groups = dict[tuple[int, str, str], list[Mapping[str, Any]]]

HARD_TASK = "hard, among right labels"
#: Columns of the rows of `differences` that hold differences.
DIFFERENCES = ("war", "uar")


def gather(results: Mapping[str, Mapping[str, Any]]) -> Groups:
    """Returns the groups of which all seeds of protocol.REPORT have finished."""
    found: Groups = {}
    lengths = sorted({int(name.rpartition("-e")[2]) for name in results})
    for epochs in lengths:
        for condition in protocol.CONDITIONS:
            for method in METHODS:
                names = [
                    f"report-{method}-{condition}-b{seed}-e{epochs}" for seed in protocol.REPORT
                ]
                if all(name in results for name in names):
                    found[epochs, condition, method] = [results[name] for name in names]
    return found


def best_baseline(choice: Mapping[str, Any], epochs: int) -> str | None:
    """Returns the baseline with the highest mean WAR in the choice: it is fixed before the report."""
    lengths = [int(number) for number in choice["chosen"] if int(number) <= epochs]
    rows = choice["chosen"].get(str(max(lengths, default=0)), {})
    known = [m for m in rows if m in METHODS and METHODS[m].is_baseline and m != ORACLE]
    return max(known, key=lambda m: rows[m]["mean_war"], default=None)


def summary(results: Mapping[str, Mapping[str, Any]], choice: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all rows of a report."""
    groups = gather(results)
    return {
        "accuracy": accuracy(groups),
        "differences": differences(groups, choice),
        "detection": detection(groups, choice),
        "calls": calls(groups),
    }


def accuracy(groups: Groups) -> list[dict[str, Any]]:
    """Returns WAR and UAR of each group, and WAR of its easy and hard clips."""
    rows = []
    for (epochs, condition, method), cells in groups.items():
        row: dict[str, Any] = {"epochs": epochs, "condition": condition, "method": method}
        counts_SG = _pairs(cells, cells)
        row["war"] = statistics.bootstrap(counts_SG, statistics.war)._asdict()
        row["uar"] = statistics.bootstrap(counts_SG, statistics.uar)._asdict()
        for part, hard in (("easy", 0), ("hard", 1)):
            if all("hard" in cell["evidence"]["test"] for cell in cells):
                counts_SG = _pairs(cells, cells, hard)
                row[f"war_{part}"] = statistics.bootstrap(counts_SG, statistics.war)._asdict()
        rows.append(row)
    return rows


def differences(groups: Groups, choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the paired differences of our methods to the best baseline and to the oracle.

    Those to the best baseline are the claimed comparisons: their p-values are corrected over the methods
    and conditions of a number of epochs, for WAR and UAR apart.
    """
    rows: list[dict[str, Any]] = []
    for (epochs, condition, method), cells in groups.items():
        if METHODS[method].is_baseline:
            continue
        for than in (best_baseline(choice, epochs), ORACLE):
            other = groups.get((epochs, condition, than or ""))
            if other is None:
                continue
            counts_SG = _pairs(cells, other)
            row: dict[str, Any] = {"epochs": epochs, "condition": condition, "method": method}
            row |= {"than": than, "claimed": than != ORACLE}
            row |= {name: _difference(counts_SG, name) for name in DIFFERENCES}
            rows.append(row)
    for epochs in {row["epochs"] for row in rows}:
        claimed = [row for row in rows if row["epochs"] == epochs and row["claimed"]]
        for name in DIFFERENCES:
            adjusted = statistics.holm([row[name]["p"] for row in claimed])
            for row, p in zip(claimed, adjusted, strict=True):
                row[name]["holm_p"] = float(p)
    return rows


def _difference(counts_SG: statistics.Counts, name: str) -> dict[str, float]:
    of = {"war": statistics.war, "uar": statistics.uar}[name]
    found = statistics.bootstrap(counts_SG, lambda groups: of(groups, 0) - of(groups, 1))
    # How far the seeds differ, in units of what their clips alone would cause; see docs.
    sizes_S = counts_SG.sum(axis=1)
    groups_SG = counts_SG.astype(np.float64)
    value_S = statistics.war(groups_SG, 0) - statistics.war(groups_SG, 1)
    by_class = counts_SG.reshape(len(counts_SG), -1, 4).sum(axis=1)
    apart_S = (by_class[:, 1] + by_class[:, 2]) / sizes_S - value_S**2
    clips = float(np.sqrt(np.mean(apart_S / sizes_S)))
    spread = float(value_S.std(ddof=1)) / clips if clips and len(value_S) > 1 else float("nan")
    return found._asdict() | {"spread": spread}


def _pairs(
    first: Sequence[Mapping[str, Any]],
    second: Sequence[Mapping[str, Any]],
    hard: int | None = None,
) -> statistics.Counts:
    """Returns the groups of `statistics.pair_groups` for each seed; of the easy or hard clips only."""
    rows = []
    classes = 1 + max(evidence.numbers(c["evidence"]["test"]["label"]).max() for c in first)
    for one, other in zip(first, second, strict=True):
        test, theirs = one["evidence"]["test"], other["evidence"]["test"]
        if test["label"] != theirs["label"]:
            raise ValueError(f"{one['name']} and {other['name']} were tested on different clips")
        label_B = evidence.numbers(test["label"])
        part_B = np.full(len(label_B), True)
        if hard is not None:
            part_B = evidence.numbers(test["hard"]) == hard
        one_B, other_B = (evidence.numbers(t["prediction"])[part_B] for t in (test, theirs))
        rows.append(statistics.pair_groups(label_B[part_B], one_B, other_B, classes))
    return np.stack(rows)


def detection(groups: Groups, choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the AUROC of the score that the choice named, and its differences to other scores.

    Compared with the same score of one clip, with the best score of one clip (named by the choice, too),
    and with the loss of the video. If it is remembered over the epochs, it is also compared with the same
    score of the last epoch's clips, and with that of what would be remembered of the first clip alone,
    where that was measured. A second row has the same score of the last epoch's clips, because all other
    scores of one clip are of the last epoch. Agreement is compared with the highest probability of one clip
    and of all clips.
    """
    rows = []
    for (epochs, condition, method), cells in groups.items():
        lengths = [int(n) for n in choice["chosen"] if int(n) <= epochs]
        row = choice["chosen"].get(str(max(lengths, default=0)), {}).get(method, {})
        if not row.get("scores"):
            continue
        clips, one = row["scores"]["clips"], row["scores"]["one"]
        name = clips.split(", ")[0]
        others = {"same": f"{name}, one clip", "single": one, "loss": "loss, video"}
        for task in (TASK, "flipped, among all"):
            found = {"epochs": epochs, "condition": condition, "method": method, "task": task}
            for score in dict.fromkeys((clips, f"{name}, K clips")):
                if measured := auroc_row(cells, task, score, _with_memory(score, others)):
                    rows.append(found | measured)
        found = {"epochs": epochs, "condition": condition, "method": method, "task": HARD_TASK}
        for score in ("1 - agreement, K clips", "1 - agreement, memory"):
            softmax = score.replace("1 - agreement", "1 - max softmax")
            others = _with_memory(
                score, {"single": "1 - max softmax, one clip", "softmax": softmax}
            )
            if measured := auroc_row(cells, HARD_TASK, score, others):
                rows.append(found | measured)
    return rows


def _with_memory(score: str, others: Mapping[str, str]) -> dict[str, str]:
    """Returns the scores to compare with; for a remembered one also the last epoch's and one clip's."""
    name, _, source = score.rpartition(", ")
    if source != "memory":
        return dict(others)
    one = name.replace("1 - agreement", "1 - max softmax")
    return {
        **others,
        "last": f"{name}, K clips",
        "remembered": f"{one}, {evidence.FIRST_CLIPS.format(1)}",
    }


def auroc_row(
    cells: Sequence[Mapping[str, Any]],
    task: str,
    score: str,
    others: Mapping[str, str],
    *,
    shared: bool = False,
) -> dict[str, Any] | None:
    """Returns the AUROC of a score and its differences to the others that were measured, too.

    Args:
      cells: results of one method, one for each seed.
      task: what is detected among what; a key of their evidence.
      score: name of the score.
      others: short name -> name of a score to compare with.
      shared: whether all seeds have the same clips.

    Returns:
      score; others that were measured; auroc and, for each other, minus_<short name>, each an Estimate as a
      dict. None if the score was not measured in all cells.
    """
    tables = [cell["evidence"].get("detection", {}).get(task) for cell in cells]
    known = set.intersection(*(set(table["scores"] if table else ()) for table in tables))
    if score not in known:
        return None
    others = {short: name for short, name in others.items() if name in known}
    wanted = [score, *others.values()]
    places = [[table["scores"].index(name) for name in wanted] for table in tables if table]
    auroc = [np.array(t["auroc"])[p] for t, p in zip(tables, places, strict=True) if t]
    covariance = [
        np.array(t["covariance"])[np.ix_(p, p)] for t, p in zip(tables, places, strict=True) if t
    ]
    row: dict[str, Any] = {"score": score, "others": dict(others)}
    for place, name in enumerate(("auroc", *(f"minus_{other}" for other in others))):
        weights = np.zeros(len(wanted))
        weights[0] += 1
        if place:
            weights[place] -= 1
        row[name] = statistics.bootstrap_auroc(auroc, covariance, weights, shared=shared)._asdict()
    return row


#: What of the calls is reported: name, the kinds that are right, and the call; see evidence.KINDS, CALLS.
_PRECISION = {
    "called clean, flipped": ((2,), 0),
    "called hard, hard with a right label": ((1,), 1),
    "called noisy, flipped": ((2,), 2),
}


def calls(groups: Groups) -> list[dict[str, Any]]:
    """Returns what share of each call of the mask is what it says, with the share of videos called so."""
    rows = []
    for (epochs, condition, method), cells in groups.items():
        if not all("calls" in cell["evidence"] for cell in cells):
            continue
        counts_SG = np.array([np.ravel(cell["evidence"]["calls"]) for cell in cells])
        row: dict[str, Any] = {"epochs": epochs, "condition": condition, "method": method}
        for name, (kinds, call) in _PRECISION.items():
            whole = [3 * kind + call for kind in range(3)]
            part = [3 * kind + call for kind in kinds]
            precision = functools.partial(statistics.share, part=part, whole=whole)
            row[name] = statistics.bootstrap(counts_SG, precision)._asdict()
            row[f"share {name.split(',')[0]}"] = float(counts_SG[:, whole].sum() / counts_SG.sum())
        rows.append(row)
    return rows


def text(report: Mapping[str, Any]) -> str:
    """Returns a report as Markdown tables, in percent."""
    heads = dict.fromkeys((row["epochs"], row["condition"]) for row in report["accuracy"])
    blocks = []
    for head in heads:
        parts = {
            name: [row for row in report[name] if (row["epochs"], row["condition"]) == head]
            for name in ("accuracy", "differences", "detection", "calls")
        }
        blocks.append(f"## {head[1]}, {head[0]} epochs, {len(protocol.REPORT)} seeds")
        blocks += [
            table(rows, DIFFERENCES if name == "differences" else ())
            for name, rows in parts.items()
            if rows
        ]
    return "\n\n".join(blocks)


def table(rows: Sequence[Mapping[str, Any]], signed: Sequence[str] = ()) -> str:
    """Returns one of the tables: its columns are those of the rows.

    Args:
      rows: of the table.
      signed: columns of differences, besides those whose names begin with "minus".
    """
    names: dict[str, None] = {}
    for row in rows:
        names |= dict.fromkeys(
            name for name in row if name not in ("epochs", "condition", "others")
        )
    lines = [[name.replace("_", " ") for name in names]]
    lines += [
        [_cell(row.get(name), name in signed or name.startswith("minus")) for name in names]
        for row in rows
    ]
    return harness.table(lines)


def _cell(value: Any, signed: bool) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        sign = "+" if signed else ""
        body = f"{100 * value['mean']:{sign}.1f}"
        body += f" ({100 * value['low']:{sign}.1f} to {100 * value['high']:{sign}.1f})"
        return body + (f", p {value['holm_p']:.3g}" if "holm_p" in value else "")
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)


def pictures(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Figure]:
    """Returns the pictures by name: agreement of easy, hard and flipped videos, by method."""
    found = {}
    for (epochs, condition, method), cells in gather(results).items():
        if not METHODS[method].is_baseline and all("agreement" in c["evidence"] for c in cells):
            name = f"agreement_{method}_{condition}_{epochs}"
            found[name] = agreement_histogram(cells, f"{method}, {condition}, {epochs} epochs")
    return found


@plots.styled
def agreement_histogram(cells: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draws the distribution of agreement by the kind of video, over all seeds: now, and remembered."""
    sources = [
        s for s in ("clips", "memory") if all(s in c["evidence"]["agreement"] for c in cells)
    ]
    figure = Figure(figsize=(5 * len(sources), 3.6), layout="constrained")
    edges = np.linspace(0, 1, evidence.BINS + 1)
    for axes, source in zip(
        figure.subplots(1, len(sources), squeeze=False)[0], sources, strict=True
    ):
        counts = np.sum([c["evidence"]["agreement"][source] for c in cells], axis=0)
        for number, kind in enumerate(evidence.KINDS):
            share = counts[number] / max(counts[number].sum(), 1)
            axes.stairs(100 * share, edges, label=kind, color=f"C{number}", linewidth=1.5)
        axes.set_xlabel(
            "agreement of the clips" + ("" if source == "clips" else ", over the epochs")
        )
        axes.set_ylabel("share of the videos of a kind, %")
        axes.set_title(title)
        axes.legend(fontsize=8)
    return figure
