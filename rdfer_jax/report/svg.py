"""Charts as inline SVG: pure functions of numbers and texts, drawn for a column as wide as a phone.

Enters: numbers and texts, which nobody has to trust. Leaves: markup in which everything is escaped.
Colours are classes (s1 to s4, rule, grid), so that the page's style makes them fit light and dark.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike

#: Size of a chart and of the margins around its plot, in units that are about a pixel.
WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 24, 40
#: A line with at most so many points shows each of them.
FEW_POINTS = 24


class Axis(NamedTuple):
    """What an axis spans, and where it is marked.

    Attributes:
      label: what it measures, with the unit.
      low: the value at its start.
      high: the value at its end.
      ticks: values that are marked, and how they are written.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


class Frame(NamedTuple):
    """Where values lie on the chart."""

    x: Axis
    y: Axis

    def across(self, value: float) -> float:
        """Returns the distance from the left edge."""
        return LEFT + (WIDTH - LEFT - RIGHT) * _share(value, self.x)

    def down(self, value: float) -> float:
        """Returns the distance from the top edge."""
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - _share(value, self.y))


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """Returns an element; children that are no Markup are text, and `_` in names stands for `-`."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _plain(value))
        for key, value in attributes.items()
    )
    content = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, pairs, content)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns about `count` round numbers: every multiple of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def axis(label: str, low: float, high: float, form: Callable[[float], str] | None = None) -> Axis:
    """Returns an axis with round ticks; `form` writes them, as plain numbers unless told otherwise."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return Axis(label, low, high, [(tick, (form or number)(tick)) for tick in ticks(low, high)])


def axis_from_zero(
    label: str, values: ArrayLike, form: Callable[[float], str] | None = None
) -> Axis:
    """Returns an axis over values and zero, which ends at a round number."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    low, high = min(0.0, *finite) if finite.size else 0.0, max(0.0, *finite) if finite.size else 1.0
    if low == high:
        high = low + 1.0
    step = np.diff(ticks(low, high)[:2])[0]
    low, high = (math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)
    return axis(label, low, high, form)


def number(value: float) -> str:
    """Returns a tick as a reader sees it: 0.5, 1,000, 2e-5."""
    if value and abs(value) < 1e-3:
        digits, _, exponent = f"{value:.0e}".partition("e")
        return f"{digits}e{int(exponent)}"
    return f"{value:,.6g}" if abs(value) < 1000 else f"{value:,.0f}"


def whole_percent(value: float) -> str:
    """Returns a share as a tick: 40%."""
    return f"{100 * value:.6g}%"


def chart(name: str, title: str, summary: str, frame: Frame, *marks: Markup) -> Markup:
    """Returns a chart: grid, axes and marks.

    Args:
      name: of the chart on its page, letters and dashes.
      title: what it shows, for those who do not see it.
      summary: what is to be seen, likewise.
      frame: the axes.
      marks: as `line`, `bars`, `whiskers` and `level` return them.
    """
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", summary, id=f"{name}-desc"),
        _grid(frame),
        *marks,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        class_="chart",
    )


def line(frame: Frame, xs: Sequence[float], ys: Sequence[float], style: str) -> Markup:
    """Returns a line, interrupted where y is NaN; few points are marked, with their numbers."""

    def hint(x: float, y: float) -> str:
        return f"{number(x)}: {y:.4g}"

    points = list(zip(xs, ys, strict=True))
    path, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            # h0, so that a point between two gaps is seen.
            path.append(f"{pen}{frame.across(x):.1f} {frame.down(y):.1f}{'h0' * (pen == 'M')}")
        pen = "L" if math.isfinite(y) else "M"
    dots = [
        tag("circle", tag("title", hint(x, y)), cx=frame.across(x), cy=frame.down(y), r=2.6)
        for x, y in points
        if math.isfinite(y) and len(points) <= FEW_POINTS
    ]
    return tag("g", tag("path", d="".join(path)), *dots, class_=f"line {style}")


def bars(frame: Frame, edges: Sequence[float], heights: Sequence[float], style: str) -> Markup:
    """Returns bars from zero, upward or, where the height is negative, downward."""
    zero, boxes = frame.down(0), []
    for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True):
        start, end, top = frame.across(left), frame.across(right), frame.down(height)
        boxes.append(
            tag(
                "rect",
                tag("title", f"{left:.3g} to {right:.3g}: {whole_percent(round(abs(height), 4))}"),
                x=start + 0.5,
                y=min(zero, top),
                width=max(end - start - 1, 0.5),
                height=abs(zero - top),
            )
        )
    return tag("g", *boxes, class_=f"bars {style}")


def whiskers(
    frame: Frame,
    xs: Sequence[float],
    values: Sequence[tuple[float, float, float]],
    hints: Sequence[str],
    style: str,
) -> Markup:
    """Returns points with their intervals: each value is a middle, a low and a high."""
    marks = []
    for x, (middle, low, high), hint in zip(xs, values, hints, strict=True):
        at = frame.across(x)
        reach = tag("line", x1=at, x2=at, y1=frame.down(low), y2=frame.down(high))
        dot = tag("circle", cx=at, cy=frame.down(middle), r=3.6)
        marks.append(tag("g", tag("title", hint), reach, dot))
    return tag("g", *marks, class_=f"whiskers {style}")


def level(frame: Frame, value: float) -> Markup:
    """Returns a dashed line across the chart."""
    y = frame.down(value)
    return tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="rule")


def upright(frame: Frame, value: float, low: float, high: float) -> Markup:
    """Returns a dashed line at one x, from one y to another."""
    x = frame.across(value)
    return tag("line", x1=x, x2=x, y1=frame.down(low), y2=frame.down(high), class_="rule")


def meter(share: float, low: float, high: float, hint: str) -> Markup:
    """Returns a bar from 0 to 1 with its interval, without text, that fills any width."""
    return tag(
        "svg",
        tag("title", hint),
        tag("rect", x=0, y=0, width=100, height=10, class_="track"),
        tag("rect", x=0, y=0, width=100 * share, height=10, class_="fill"),
        tag("rect", x=100 * low, y=4.2, width=100 * (high - low), height=1.6, class_="reach"),
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        role="img",
        class_="meter",
    )


def _grid(frame: Frame) -> Markup:
    """Grid lines, ticks and labels."""
    parts = []
    for value, text in frame.y.ticks:
        y = frame.down(value)
        parts += [
            tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"),
            tag("text", text, x=LEFT - 6, y=y + 4, text_anchor="end"),
        ]
    for value, text in frame.x.ticks:
        x = min(frame.across(value), WIDTH - 4.6 * len(text))  # not over the edge
        parts.append(tag("text", text, x=x, y=HEIGHT - BOTTOM + 16, text_anchor="middle"))
    zero = frame.down(min(max(0.0, frame.y.low), frame.y.high))
    return tag(
        "g",
        *parts,
        tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=zero, y2=zero, class_="base"),
        tag("text", frame.y.label, x=4, y=12, class_="label"),
        tag(
            "text",
            frame.x.label,
            x=(LEFT + WIDTH - RIGHT) / 2,
            y=HEIGHT - 6,
            text_anchor="middle",
            class_="label",
        ),
        class_="axes",
    )


def _share(value: float, span: Axis) -> float:
    return (value - span.low) / (span.high - span.low)


def _plain(value: object) -> str:
    """Numbers with two decimals at most, everything else as it is."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
