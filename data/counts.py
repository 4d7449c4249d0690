"""The table of clips per class and split, next to the published counts."""

from collections.abc import Mapping, Sequence

#: split -> class -> clips; the class "total" and the split "all" are sums.
Published = Mapping[str, Mapping[str, int]]

#: Clips with fewer frames than this are counted as short: published models sample 16 frames.
SHORT = 16


def per_class(classes: Sequence[str], labels: Sequence[int]) -> list[int]:
    """Returns the number of clips of each class."""
    counts = [0] * len(classes)
    for label in labels:
        counts[label] += 1
    return counts


def _cell(count: int, published: int | None) -> str:
    if published is None:
        return str(count)
    return f"{count} / {published}" + (" *" if count != published else "")


def table(
    classes: Sequence[str],
    clips: Mapping[str, Sequence[int]],
    extra: Mapping[str, Mapping[str, int]],
    published: Published,
) -> str:
    """Returns the counts as text, with a row for each class and a column for each split and their sum.

    Args:
      classes: names of the N classes.
      clips: for each split the N counts.
      extra: further rows, such as missing clips: name -> split -> count.
      published: published counts, shown after a slash; a star marks a count that differs.
    """
    splits = list(clips)
    of_classes = zip(*(clips[split] for split in splits), strict=True)
    total = [sum(clips[split]) for split in splits]
    rows = [["clips", *splits, "all"]]
    for name, numbers in zip((*classes, "total"), (*of_classes, total), strict=True):
        expected = [published.get(split, {}).get(name) for split in (*splits, "all")]
        rows.append([name, *map(_cell, (*numbers, sum(numbers)), expected)])
    for name, by_split in extra.items():
        numbers = [by_split[split] for split in splits]
        rows.append([name, *map(str, (*numbers, sum(numbers)))])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    if published:
        lines.append("after the slash: the published count; * marks a difference")
    return "\n".join(lines)
