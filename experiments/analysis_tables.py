"""The report of experiments.analysis as plain text tables."""

from typing import Any


def text(report: dict[str, Any]) -> str:
    """Returns a report as plain text tables."""
    lines = []
    if "epochs" in report:
        counts = dict(report["videos"])
        total = counts.pop("all")
        parts = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        lines += [f"Training split, {total:,} videos{': ' + parts if parts else ''}", ""]
    if report.get("auroc"):
        columns = {
            task: {score: values[-1] for score, values in by_score.items()}
            for task, by_score in report["auroc"].items()
        }
        lines += _grid(f"AUROC, {_epoch(report['epochs'][-1])}", columns)
    if "agreement" in report:
        columns = {
            kind: {q: v[-1] for q, v in row.items()} for kind, row in report["agreement"].items()
        }
        lines += _grid("quantile of the agreement", columns)
        lines += _grid("rank correlation with", report["against"])
    if "test" in report:
        test = report["test"]
        columns = {
            short: {name: row[key] for name, row in test["confidences"].items()}
            for short, key in (("ECE", "ece"), ("AURC", "aurc"), ("E-AURC", "excess_aurc"))
        }
        for coverage in next(iter(test["confidences"].values()))["risk_at_coverage"]:
            columns[f"errors at {coverage}"] = {
                name: row["risk_at_coverage"][coverage] for name, row in test["confidences"].items()
            }
        lines += [f"Test split, {test['videos']:,} videos, accuracy {test['accuracy']:.4f}", ""]
        lines += _grid("confidence", columns)
    if any(report["classes"].values()):
        lines += _grid("class (given label)", _class_columns(report["classes"]))
    lines += [f"Left out: {part}: {reason}." for part, reason in report["left_out"].items()]
    return "\n".join(lines).rstrip()


def _class_columns(classes: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    columns: dict[str, dict[str, float | None]] = {}
    for name, row in classes.items():
        for score, value in row.get("auroc_flipped", {}).items():
            columns.setdefault(f"AUROC, {score}", {})[name] = value
        for kind, value in row.get("agreement", {}).items():
            columns.setdefault(f"agreement, {kind}", {})[name] = value
        if "recall" in row:
            columns.setdefault("test recall", {})[name] = row["recall"]
    return columns


def _grid(corner: str, columns: dict[str, dict[str, float | None]]) -> list[str]:
    """Returns the lines of a table with a row for each key of any column."""
    rows = list(dict.fromkeys(key for column in columns.values() for key in column))
    first = max(map(len, [corner, *rows]))
    lines = ["  ".join([f"{corner:<{first}}", *columns])]
    for row in rows:
        cells = [f"{row:<{first}}"]
        for name, column in columns.items():
            value = column.get(row)
            shown = ("-" if row in column else "") if value is None else f"{value:.4f}"
            cells.append(f"{shown:>{len(name)}}")
        lines.append("  ".join(cells).rstrip())
    return [*lines, ""]


def _epoch(epoch: int | None) -> str:
    return "final" if epoch is None else f"epoch {epoch}"
