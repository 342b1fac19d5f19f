"""Draws lines with a range around them, such as the learning curves of several seeds. Torch-free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kinegraph.stages.pictures.bars import number
from kinegraph.stages.pictures.curves import label_places
from kinegraph.stages.pictures.picture import WIDE, Picture, plain_axes, styled
from kinegraph.stages.pictures.theme import DASHES, SERIES, label

WHOLE = ("epoch", "time step", "rank")  # axes of whole numbers


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a figure, for example a learning curve. The line is drawn as the mean of several seeds, with a band
    from the smallest to the largest value of the seeds.
    """

    name: str  # the text at the end of the line
    x: np.ndarray  # [n], the x of n points
    y: np.ndarray  # [seeds, n], the y of each seed at these points. NaN means that the seed has no value.


def lines(
    name: str, title: str, series: Sequence[Line], x_axis: str, y_axis: str, *,
    bounds: tuple[float, float] | None = None, height: float = 2.8,
    width: float = WIDE, words: Callable[[float], str] = number, marks: bool = False,
) -> Picture:  # fmt: skip
    """Draws the lines `series`, each with its name at its end.

    - `x_axis`, `y_axis`: the names of the axes.
    - `bounds`: the smallest and the largest y. None means the smallest and the largest value, with a margin.
    - `height`, `width`: in inches.
    - `words`: turns a value of y into text.
    - `marks`: if true, each point has a mark.
    """
    picture = Picture(name, title, height=height, width=width)
    values = np.concatenate([line.y.ravel() for line in series]) if series else np.zeros(0)
    finite = values[np.isfinite(values)]
    low, high = bounds or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    margin = 0.0 if bounds else 0.05 * (high - low or 1.0)
    low, high = low - margin, high + margin
    ends, endings = [], []
    with styled():
        axes = plain_axes(picture)
        for place, line in enumerate(series):
            colour, dash = SERIES[place % len(SERIES)], DASHES[place // len(SERIES) % len(DASHES)]
            mean = seed_mean(line.y)
            if len(line.y) > 1:
                axes.fill_between(
                    line.x, _edge(line.y, np.fmin), _edge(line.y, np.fmax), color=colour, alpha=0.18, lw=0
                )
            marker = "o" if marks or len(line.x) < 2 else ""
            axes.plot(line.x, mean, color=colour, linestyle=dash, linewidth=1.5, marker=marker, markersize=4)
            last = mean[np.isfinite(mean)][-1:]
            ends.append((float(last[0]) - low) / (high - low or 1.0) if last.size else 0.0)
            endings.append(f"{label(line.name)} ends at {words(float(last[0])) if last.size else 'nothing'}")
        named = ends if len(ends) > 1 else []  # one line needs no name
        for place, share in enumerate(label_places(named, 7.5 / 72 / (height - 0.75) * 1.15)):
            text = label(series[place].name, 26)
            axes.text(1.01, share, text, transform=axes.transAxes, color=SERIES[place % len(SERIES)], va="center",
                      fontsize=7.5)  # fmt: skip
        axes.set(xlabel=x_axis, ylabel=y_axis, ylim=(low, high))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=x_axis in WHOLE))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    arrays = {f"{part} of {line.name}": getattr(line, part) for line in series for part in ("x", "y")}
    return picture.describe(f"{y_axis} by {x_axis}: {'; '.join(endings[:8]) or 'nothing'}.", **arrays)


def seed_mean(y: np.ndarray) -> np.ndarray:
    """Returns the mean of `y` [seeds, n] over the seeds that have a finite value, float64 [n]. A point at which no seed
    has a finite value is NaN.
    """
    count = np.isfinite(y).sum(0)
    sums: np.ndarray = np.where(np.isfinite(y), y, 0.0).sum(0) / np.maximum(count, 1)
    return np.where(count > 0, sums, np.nan)


def _edge(y: np.ndarray, of: np.ufunc) -> np.ndarray:
    return np.asarray(of.reduce(y, axis=0))  # fmin and fmax leave NaN out
