"""Draws the scores of heads, with one mark for each seed. Takes arrays and returns a Picture. Torch-free."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kinegraph.stages.pictures.bars import FRAME_INCHES, ROW_INCHES, number, tidy_rows
from kinegraph.stages.pictures.picture import WIDE, Picture, Values, plain_axes, styled
from kinegraph.stages.pictures.theme import INK, MUTED, SERIES, label


def seed_scores(
    name: str, title: str, labels: Sequence[str], values: Sequence[np.ndarray], axis: str,
    marks: Mapping[str, Values] | None = None,
) -> Picture:  # fmt: skip
    """Draws one row for each of `labels`, such as the names of heads. Circles are the scores of the seeds, a tick is
    their mean, and a line shows their sample standard deviation around the mean.

    - `values`: for each label, the scores of its seeds.
    - `axis`: the name of the scores.
    - `marks`: {name: one value per label}, such as "chance". Each value is drawn as a further mark in its row. NaN has
      no mark.
    """
    picture = Picture(name, title, height=FRAME_INCHES + 0.15 + (ROW_INCHES + 0.06) * max(1, len(labels)), width=WIDE)
    means = np.array([np.mean(seeds) if len(seeds) else np.nan for seeds in values])
    spreads = np.array([np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in values])
    with styled():
        axes = plain_axes(picture, "both")
        for row, (seeds, mean, spread) in enumerate(zip(values, means, spreads, strict=True)):
            axes.plot([mean - spread, mean + spread], [row, row], color=SERIES[0], linewidth=2, alpha=0.6)
            axes.plot(seeds, [row] * len(seeds), "o", color=SERIES[0], markersize=5, markerfacecolor="none")
            axes.plot([mean], [row], "|", color=INK, markersize=11, markeredgewidth=1.6)
            if np.isfinite(mean):
                text = f"{mean:.3f}" + (f" ± {spread:.3f}" if len(seeds) > 1 else "")
                axes.text(1.01, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5, color=MUTED)
        for place, (mark, of_rows) in enumerate((marks or {}).items()):
            axes.plot(of_rows, range(len(labels)), "xD^"[place % 3], color=SERIES[1 + place], markersize=5)
            text = f"{label(mark)}: {'cross diamond triangle'.split()[place % 3]}"
            axes.text(0.0 + 0.4 * place, 1.02, text, transform=axes.transAxes, color=SERIES[1 + place], fontsize=7.5)
        tidy_rows(axes, labels)
        axes.set(xlabel=axis)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    of_heads = [
        f"{label(text)} {mean:.3f} ± {spread:.3f}" for text, mean, spread in zip(labels, means, spreads, strict=True)
    ]
    text = f"{axis}: {', '.join(of_heads[:8])}."
    return picture.describe(text, label=labels, mean=means, std=spreads, **(marks or {}))
