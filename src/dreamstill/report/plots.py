"""Charts as inline SVG. Colours are left to the page's style sheet, so that they suit a light and a dark page."""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

from dreamstill import extras
from dreamstill.report.numbers import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

# matplotlib writes these colours, and the style sheet's take their place.
_INK, _RULE, _SERIES, _LEVEL = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {_INK: "currentColor", _RULE: "var(--rule)", _LEVEL: "var(--level)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.0,
    "text.parse_math": False,
    "axes.edgecolor": _RULE,
    "axes.unicode_minus": True,
    "path.simplify": True,
}
MARKED = 25  # up to so many points are marked one by one
# What a page says once, in place of its charts.
UNDRAWN = "The charts are not drawn, because matplotlib is not installed: pip install 'dreamstill[plots]'."


def undrawn() -> str:
    """:data:`UNDRAWN` where matplotlib is missing, else nothing."""
    return UNDRAWN if extras.missing("plots") else ""


def _needs_matplotlib(draw: Callable[P, str]) -> Callable[P, str]:
    """Nothing in a chart's place where matplotlib is missing: the figures beside it are still worth their page."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        return "" if undrawn() else draw(*args, **kwargs)

    return drawn


@_needs_matplotlib
def curve(
    key: str,
    steps: Sequence[float],
    values: Sequence[float],
    *,
    title: str,
    colour: int = 1,
    percent: bool = False,
    level: float | None = None,
    logarithmic: bool = False,
    small: bool = False,
) -> str:
    """A quantity over the steps of a run.

    Args:
        key: prefix of the ids inside, unique on the page.
        steps: where it was recorded.
        values: what was recorded, all finite.
        title: what a screen reader says.
        colour: number of the style sheet's series colour, from 1.
        percent: whether the values are shares of one.
        level: a value to compare with, drawn as a dashed line.
        logarithmic: scale of the values; all must be positive.
        small: drawn for a third of the page's width, not half of it, so that its letters come out as large.
    """
    import matplotlib
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(3.7, 2.1) if small else _axes(4.8, 2.5)
        marker = "o" if len(steps) <= MARKED else None
        axes.plot(steps, values, color=_SERIES, linewidth=1.8, marker=marker, markersize=3.5, clip_on=False)
        if level is not None:
            axes.axhline(level, color=_LEVEL, linewidth=1.2, linestyle=(0, (4, 3)))
        if logarithmic:
            axes.set_yscale("log")
            axes.minorticks_off()
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
            # A curve that never moved still needs an axis to stand on.
            axes.margins(y=0.08)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.set_xlim(min(0, *steps), max(steps) or 1)
        return _svg(figure, key, title, colour)


@_needs_matplotlib
def curves(
    key: str, lines: Sequence[tuple[int, Sequence[float], Sequence[float]]], *, title: str, percent: bool, xlabel: str
) -> str:
    """The same quantity of several runs.

    Args:
        key: prefix of the ids inside, unique on the page.
        lines: of each run its number from 0, where the quantity was recorded, and what.
        title: what a screen reader says.
        percent: whether the values are shares of one.
        xlabel: what the steps count.
    """
    import matplotlib
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(4.8, 2.7)
        for i, steps, values in lines:
            colour, dashes = look(i)
            axes.plot(steps, values, color=f"#0500{colour:02d}", linewidth=1.8, linestyle=dashes)
        values = [v for _, _, ys in lines for v in ys]
        if not percent and min(values) > 0 and max(values) > 50 * min(values):
            axes.set_yscale("log")
            axes.minorticks_off()
        else:
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.margins(y=0.08)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.set_xlim(0, max(s for _, steps, _ in lines for s in steps) or 1)
        axes.set_xlabel(xlabel, color=_INK)
        drawn = _svg(figure, key, title, 1)
    return re.sub(r"#0500(\d\d)", lambda m: f"var(--series-{int(m[1])})", drawn)


def look(i: int) -> tuple[int, str]:
    """The colour of the style sheet, from 1, and the dashes of a run's line, by its number from 0."""
    return i % 4 + 1, ("solid", "dashed", "dotted")[i // 4 % 3]


@_needs_matplotlib
def bars(key: str, counts: Sequence[int], *, title: str) -> str:
    """A count for each of many classes, by their number."""
    import matplotlib
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(9.6, 2.5)
        axes.bar(range(len(counts)), counts, width=0.8 if len(counts) < 200 else 1.0, color=_SERIES, linewidth=0)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlim(-0.5, len(counts) - 0.5)
        axes.set_xlabel("class", color=_INK)
        return _svg(figure, key, title, 1)


@_needs_matplotlib
def roofline(key: str, points: Sequence[tuple[float, float]], *, flops: float, bandwidth: float, title: str) -> str:
    """Speed against operations a byte, both logarithmic, under the machine's roof; the points are numbered from 1.

    Args:
        key: prefix of the ids inside, unique on the page.
        points: (FLOP a byte, FLOP/s) of each part.
        flops: the machine's measured FLOP/s.
        bandwidth: its measured bytes/s.
        title: what a screen reader says.
    """
    import matplotlib
    from matplotlib.ticker import FuncFormatter, LogLocator

    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(9.6, 4.2)
        ridge = flops / bandwidth
        left = min([ridge / 8, *(x for x, _ in points)]) / 2
        right = max([ridge * 8, *(x for x, _ in points)]) * 2
        axes.plot([left, ridge, right], [left * bandwidth, flops, flops], color=_LEVEL, linewidth=1.6)
        xs, ys = zip(*points, strict=True)
        axes.scatter(xs, ys, s=42, color=_SERIES, linewidth=0, zorder=3)
        for i, (x, y) in enumerate(points, 1):
            axes.annotate(str(i), (x, y), (6, 4), textcoords="offset points", color=_INK)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_xlim(left, right)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for axis, text in ((axes.xaxis, "FLOP a byte"), (axes.yaxis, "FLOP/s")):
            axis.set_major_formatter(FuncFormatter(lambda value, _: count(value) if value >= 1 else f"{value:g}"))
            axis.set_label_text(text, color=_INK)
        return _svg(figure, key, title, 1)


@_needs_matplotlib
def growth(key: str, values: Sequence[float], seconds: Sequence[float], flops: Sequence[float], *, title: str) -> str:
    """Time and operations as multiples of the smallest point's, logarithmic; the operations dashed."""
    import matplotlib
    from matplotlib.ticker import FuncFormatter

    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(3.7, 2.4)
        axes.plot(values, [s / seconds[0] for s in seconds], color=_SERIES, linewidth=1.8, marker="o", markersize=3.5)
        axes.plot(values, [f / flops[0] for f in flops], color=_LEVEL, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_xticks(list(values))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        return _svg(figure, key, title, 1)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own, without pyplot's list of open figures: only lines that carry a number are drawn."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(left=False, bottom=False, labelcolor=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    return figure, axes


def _svg(figure: Figure, key: str, title: str, colour: int) -> str:
    """The figure as an element for the inside of a page: no header, no ids or styles that reach beyond it."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}):  # the same run gives the same file
        metadata = {"Creator": None, "Date": None, "Format": None, "Type": None}
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    body = text[text.index("<svg") :].split(">", 1)[1]
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = body.replace("url(#", f"url(#{key}-").replace('xlink:href="#', f'href="#{key}-')
    for written, variable in {**_VARIABLES, _SERIES: f"var(--series-{colour})"}.items():
        body = body.replace(written, variable)
    name = html.escape(title)
    return f'<svg class="plot" {box[0]} role="img" aria-label="{name}"><title>{name}</title>{body}'
