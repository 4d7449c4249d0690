"""Reads the Markdown tables that experiments print."""

import re


def cells(line):
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def numbers(text):
    """All numbers of a text."""
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)]


def tables(text):
    """The tables of a report: by the title above it and the head's first cell, rows as dicts."""
    found, title = {}, ""
    for block in text.split("\n\n"):
        if block.startswith("|"):
            head, _, *rows = map(cells, block.splitlines())
            found[title, head[0]] = head[1:], {row[0]: row[1:] for row in rows}
        else:
            title = block
    return found
