"""Draws bars, histograms and dot plots. Each function takes arrays and returns a Picture. Torch-free."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kinegraph.stages.pictures.picture import NARROW, WIDE, Picture, Values, plain_axes, styled
from kinegraph.stages.pictures.theme import GRID, INK, LIGHT, MARKERS, MUTED, SERIES, label

ROW_INCHES, FRAME_INCHES = 0.24, 0.75  # height of one row, and of title and axis together
Words = Callable[[float], str]
STATE_COLOURS = {"ok": LIGHT["c1"], "warned": LIGHT["c5"], "failed": LIGHT["c8"], "not run": GRID}


def number(value: float) -> str:
    """Returns a number as a short text: 3900 -> "3,900", 0.01234 -> "0.0123", NaN -> "nan"."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.3g}"


def shares(name: str, title: str, labels: Sequence[str], parts: Mapping[str, Values]) -> Picture:
    """Draws one bar for each of `labels`. A bar is divided into parts, such as "ok" and "failed". All bars have the
    same length, so the length of a part shows its share of the bar. The counts stand above the bar as text.

    `parts` is {name of the part: its count for each label}.
    """
    counts = np.array([*parts.values()], dtype=float)  # [parts, labels]
    sums = np.maximum(counts.sum(0), 1)
    picture = Picture(name, title, height=FRAME_INCHES + ROW_INCHES * 1.6 * max(1, len(labels)), width=WIDE)
    with styled():
        axes = plain_axes(picture, "x")
        left = np.zeros(len(labels))
        for place, (part, name_of_part) in enumerate(zip(counts, parts, strict=True)):
            colour = STATE_COLOURS.get(name_of_part, SERIES[place % len(SERIES)])
            axes.barh(range(len(labels)), part / sums, left=left, color=colour, height=0.5)
            left += part / sums
        for row in range(len(labels)):
            text = ", ".join(f"{number(counts[at, row])} {part}" for at, part in enumerate(parts) if counts[at, row])
            axes.text(0, row - 0.32, text or "none", fontsize=7.5, color=MUTED, va="bottom")
        tidy_rows(axes, labels)
        axes.set(xlim=(0, 1), xlabel="share")
    text = "; ".join(
        f"{label(row)}: " + ", ".join(f"{number(counts[at, place])} {part}" for at, part in enumerate(parts))
        for place, row in enumerate(labels[:6])
    )
    return picture.describe(f"{text}.", **{"label": labels, **parts})


def bars(
    name: str, title: str, labels: Sequence[str], values: Values, axis: str, words: Words = number,
    width: float = NARROW,
) -> Picture:  # fmt: skip
    """Draws one horizontal bar for each of `labels`. The length of a bar is the value of the label in `values`. `words`
    turns a value into the text at the end of the bar. `axis` is the name of the axis.
    """
    picture = Picture(name, title, height=FRAME_INCHES + ROW_INCHES * max(1, len(labels)), width=width)
    most = max([*values, 0.0]) or 1.0
    with styled():
        axes = plain_axes(picture, "x")
        axes.barh(range(len(labels)), values, color=SERIES[0], height=0.62)
        for row, value in enumerate(values):
            axes.text(max(value, 0) + most * 0.015, row, words(value), va="center", fontsize=7.5, color=INK)
        tidy_rows(axes, labels)
        axes.set(xlim=(0, most * 1.25), xlabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    shown = ", ".join(f"{label(text)} {words(value)}" for text, value in zip(labels[:6], values, strict=False))
    return picture.describe(f"{axis}: {shown or 'nothing'}.", label=labels, value=values)


def histogram(
    name: str, title: str, counts: Mapping[str, np.ndarray], edges: np.ndarray, axis: str, noun: str = "clips",
    *, as_shares: bool = False,
) -> Picture:  # fmt: skip
    """Draws one or several histograms over the same bins.

    - `counts`: {name of the histogram: counts [n]}.
    - `edges`: [n + 1], the edges of the n bins.
    - `axis`: the name of the values, for the x axis.
    - `noun`: what is counted, for the y axis.
    - `as_shares`: if true, the counts of each histogram are divided by their sum.

    A single histogram is filled. Several histograms are lines with their names.
    """
    picture = Picture(name, title)
    heights = {key: np.asarray(series, float) for key, series in counts.items()}
    if as_shares:
        heights = {key: series / max(series.sum(), 1e-12) for key, series in heights.items()}
    with styled():
        axes = plain_axes(picture)
        for place, (key, series) in enumerate(heights.items()):
            colour, dash = SERIES[place % len(SERIES)], ("-", "--", "-.", ":")[place % 4]
            axes.stairs(series, edges, fill=len(counts) == 1, color=colour, linestyle=dash, linewidth=1.3)
            if len(counts) > 1:
                place_text = (0.99, 0.95 - 0.11 * place)
                text = f"{label(key, 18)} ({dash})"
                axes.text(*place_text, text, transform=axes.transAxes, ha="right", color=colour, fontsize=7.5)
        axes.set(xlabel=axis, ylabel=f"share of {noun}" if as_shares else noun, ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=axis == "boxes"))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    middles = (np.asarray(edges)[1:] + np.asarray(edges)[:-1]) / 2
    texts = [
        f"{label(key)}: {number(float(series.sum()))} {noun}, most near {number(float(middles[series.argmax()]))}"
        for key, series in ((key, np.asarray(series)) for key, series in counts.items())
        if series.sum()
    ]
    return picture.describe(f"{axis}. {'; '.join(texts) or 'nothing'}.", edges=edges, **counts)


def dots(
    name: str, title: str, labels: Sequence[str], series: Mapping[str, Values], axis: str,
    words: Words = number, width: float = NARROW,
) -> Picture:  # fmt: skip
    """Draws one row for each of `labels`, with a mark for the value of each series. Series differ in shape and colour.
    Their names stand above the rows.

    `series` is {name: one value per label}. NaN has no mark. `axis` is the name of the values, and `words` turns a
    value into text.
    """
    picture = Picture(name, title, height=FRAME_INCHES + ROW_INCHES * (max(1, len(labels)) + 1), width=width)
    with styled():
        axes = plain_axes(picture, "both")
        for place, (key, values) in enumerate(series.items()):
            colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
            axes.plot(values, range(len(labels)), marker, color=colour, markersize=4.5, alpha=0.9, clip_on=False)
            share = place / len(series)
            axes.plot([share], [1.03], marker, color=colour, markersize=4.5, transform=axes.transAxes, clip_on=False)
            axes.annotate(label(key, 14), (share, 1.03), (6, 0), "axes fraction", "offset points", va="center",
                          color=colour, fontsize=7.5)  # fmt: skip
        tidy_rows(axes, labels)
        axes.set(xlabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    texts = [f"{label(key)} from {words(_least(values))} to {words(_most(values))}" for key, values in series.items()]
    return picture.describe(f"{axis}: {'; '.join(texts) or 'nothing'}.", label=labels, **series)


def _least(values: Values) -> float:
    return min((value for value in values if value == value), default=0.0)


def _most(values: Values) -> float:
    return max((value for value in values if value == value), default=0.0)


def tidy_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Writes the names of the rows beside the axes. The figure has one row for each of `labels`, the first one on
    top.
    """
    axes.set_yticks(range(len(labels)), [label(text, 24) for text in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
