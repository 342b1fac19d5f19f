"""Draws matrices and densities as heat maps. All cells of a heat map have one colour, with more or less opacity.
Torch-free.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kinegraph.stages.pictures.bars import number
from kinegraph.stages.pictures.picture import NARROW, WIDE, Picture, plain_axes, styled
from kinegraph.stages.pictures.theme import INK, RASTER, label

MOST_NUMBERED, MOST_NAMED = 20, 40
LEAST_WRITTEN = 1e-6  # share of the largest value. Smaller values are not written
MOST_OPACITY, LEAST_OPACITY = 0.62, 0.06  # text in INK can be read on the most opaque cell, on both grounds


def cells(values: np.ndarray) -> np.ndarray:
    """Returns the pixels of a heat map, float [rows, columns, 4]: red, green, blue and opacity, each from 0 to 1.
    `values` [rows, columns] has the value of each cell.

    The cell with the largest value is the most opaque one. Cells with 0, a negative value or NaN are transparent.
    """
    values = np.nan_to_num(np.asarray(values, float), nan=0.0, posinf=0.0, neginf=0.0).clip(0)
    shares = values / (values.max() if values.size and values.max() > 0 else 1.0)
    opacity = np.where(values > 0, LEAST_OPACITY + (MOST_OPACITY - LEAST_OPACITY) * shares, 0.0)
    pixels: np.ndarray = np.concatenate([np.broadcast_to(to_rgb(RASTER), (*values.shape, 3)), opacity[..., None]], -1)
    return pixels


def matrix(
    name: str, title: str, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], row_axis: str,
    column_axis: str, description: str,
) -> Picture:  # fmt: skip
    """Draws the matrix `values` as a heat map.

    - `rows`, `columns`: the name of each row and of each column.
    - `row_axis`, `column_axis`: what the rows and the columns are.
    - `description`: the description of the Picture.

    If there are at most 20 rows and columns, the values are written into the cells. If there are more than 40 rows, the
    rows have no names. If there are more than 20 columns, the columns have no names.
    """
    side = min(WIDE, max(NARROW, 1.6 + 0.3 * len(columns)))
    picture = Picture(name, title, height=min(6.4, max(2.2, 1.3 + 0.22 * len(rows))), width=side)
    with styled():
        axes = plain_axes(picture, None)
        if np.size(values):
            axes.imshow(cells(values), aspect="auto")
        if len(rows) <= MOST_NAMED:
            axes.set_yticks(range(len(rows)), [label(text, 20) for text in rows])
        if len(columns) <= MOST_NUMBERED:
            axes.set_xticks(range(len(columns)), [label(text, 16) for text in columns], rotation=60, ha="right")
        if max(len(rows), len(columns)) <= MOST_NUMBERED:
            _write_values(axes, np.asarray(values))
        axes.set(xlabel=column_axis, ylabel=row_axis)
        axes.tick_params(length=0)
    return picture.describe(description, values=values, row=rows, column=columns)


def _write_values(axes: Axes, values: np.ndarray) -> None:
    least = LEAST_WRITTEN * float(np.nanmax(np.abs(values), initial=0.0))
    for (row, column), value in np.ndenumerate(values):
        if value and abs(value) >= least:
            axes.text(column, row, number(float(value)), ha="center", va="center", fontsize=6.5, color=INK)


def density(
    name: str, title: str, counts: np.ndarray, extent: tuple[float, float, float, float], x_axis: str, y_axis: str,
    description: str, *, downwards: bool = False,
) -> Picture:  # fmt: skip
    """Draws how often pairs (x, y) occur, as a heat map.

    - `counts`: [bins of y, bins of x], the number of pairs in each bin. The first row has the smallest y.
    - `extent`: (left, right, bottom, top), the edges of all bins together.
    - `x_axis`, `y_axis`: the names of x and y.
    - `description`: the description of the Picture.
    - `downwards`: if true, y grows downwards, as in a picture.
    """
    picture = Picture(name, title, height=2.5)
    with styled():
        axes = plain_axes(picture, None)
        axes.imshow(cells(np.sqrt(counts)), aspect="auto", origin="lower", extent=extent)
        if downwards:
            axes.invert_yaxis()
        axes.set(xlabel=x_axis, ylabel=y_axis)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    return picture.describe(description, counts=counts, extent=extent)
