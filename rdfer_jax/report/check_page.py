"""The page of `rdfer check`: problems, duplicates, pictures of every class. One file that loads nothing.

Enters: the result of a check. Leaves: the text of the page.
"""

from typing import Any

from rdfer_jax import html

#: Lines of one kind of problem on the page; the JSON file has all.
SHOWN_LINES = 200


def page(checked: Any) -> str:
    """Returns the page.

    Args:
      checked: a `Checked` of the builders' module `check`, with strips.
    """
    across = [found for found in checked.strips.groups if found[0].is_across]
    total_across = sum(group.is_across for group in checked.groups)
    return html.render(
        "report/check.html",
        checked=checked,
        shown_lines=SHOWN_LINES,
        totals={
            name: sum(by_class[name] for by_class in checked.counts.values())
            for name in checked.strips.classes
        },
        duplicates={
            "In several splits": (across, total_across),
            "Within one split": (
                checked.strips.groups[len(across) :],
                len(checked.groups) - total_across,
            ),
        },
    )
