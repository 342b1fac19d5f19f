"""Computes the grid of RSTG, "Recurrent Space-time Graph Neural Networks" (Nicolicioiu et al., NeurIPS 2019).

`scales` is a sequence of numbers g, such as (3, 2, 1). Each g divides the map into g x g equal cells, and each cell is
a node. The nodes are in the order of `scales`. Within a scale, they are in the order of the rows, from left to right.

Shapes: V nodes of all scales, H rows and W columns of a map.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

ExactInterval = tuple[Fraction, Fraction]
POSITION_CELLS, POSITION_STD = 6, 2.0  # values of the released code


def cells(scales: Sequence[int]) -> list[tuple[ExactInterval, ExactInterval]]:
    """Returns (vertical interval, horizontal interval) of each cell of the grids. An interval is (start, end) from 0 to
    1, in fractions of the height or the width of the map, such as (1/3, 2/3).

    Each number g in `scales` makes a grid, which divides the map into g x g cells. The cells are in the order of
    `scales`, and row by row within a grid.
    """
    return [(_part(row, g), _part(column, g)) for g in scales for row in range(g) for column in range(g)]


def links(scales: Sequence[int]) -> list[tuple[int, int]]:
    """Returns all pairs (i, j) of indices of linked nodes. Each link is in the result twice, as (i, j) and as (j, i).

    A node is a cell of a grid. Each number g in `scales` makes a grid of g x g cells over the map. Two nodes of one
    grid are linked if their cells share a side. Two nodes of different grids are linked if their cells overlap or share
    a side. For example, the scales 3, 2, 1 have 14 nodes and 45 links.
    """
    nodes = cells(scales)
    pairs = []
    for i, (rows_i, columns_i) in enumerate(nodes):
        for j, (rows_j, columns_j) in enumerate(nodes):
            shared = (_shared(rows_i, rows_j), _shared(columns_i, columns_j))
            if i != j and min(shared) >= 0 and max(shared) > 0:
                pairs.append((i, j))
    return pairs


def pooling(scales: Sequence[int], height: int, width: int) -> Tensor:
    """Returns the matrix P, float64 [V, H * W], that averages a map over each of the V cells of all grids. The map has
    H = `height` rows and W = `width` columns. For a flattened map m, the product P m has the V means.

    Each number g in `scales` makes a grid of g x g cells. A pixel on the border of a cell counts with the part of its
    area that lies in the cell.
    """
    return torch.cat([torch.kron(_overlaps(g, height) * g / height, _overlaps(g, width) * g / width) for g in scales])


def upsampling(scales: Sequence[int], height: int, width: int) -> Tensor:
    """Returns the matrix U, float64 [H * W, V], that writes one value per cell into a map. The map has H = `height`
    rows and W = `width` columns. For the values v of the V cells, the product U v is the flattened map.

    Each number g in `scales` makes a grid of g x g cells. In one grid, a pixel gets the value of its cell. A pixel on a
    border gets the mean of the values of its cells, weighted by area. The map is the sum over all grids.
    """
    return torch.cat([torch.kron(_overlaps(g, height), _overlaps(g, width)) for g in scales]).T


def positions(scales: Sequence[int]) -> Tensor:
    """Returns the position codes of V nodes, float64 [V, 36]. The code of a node is a small map of 6 x 6 numbers, which
    is 0 outside the cell of the node and has a Gaussian bump inside.

    A node is a cell of a grid. Each number g in `scales` makes a grid, which divides the frame into g x g cells.
    """
    maps = torch.zeros(sum(g * g for g in scales), POSITION_CELLS, POSITION_CELLS, dtype=torch.float64)
    for node, (rows, columns) in enumerate(cells(scales)):
        top, bottom = (int(POSITION_CELLS * edge) for edge in rows)
        left, right = (int(POSITION_CELLS * edge) for edge in columns)
        maps[node, top:bottom, left:right] = torch.outer(_window(bottom - top), _window(right - left))
    return maps.flatten(1)


def _part(index: int, of: int) -> ExactInterval:
    return Fraction(index, of), Fraction(index + 1, of)


def _shared(a: ExactInterval, b: ExactInterval) -> Fraction:
    """Returns the length of the intersection of the intervals `a` and `b`, each (start, end). It is 0 if the intervals
    only touch, and negative if there is a gap between them.
    """
    return min(a[1], b[1]) - max(a[0], b[0])


def _overlaps(g: int, size: int) -> Tensor:
    """Returns the part of each pixel that lies in each cell, float64 [g, size]. One side of an image, with `size`
    pixels, is divided into `g` equal cells. Each column sums to 1.
    """
    parts = [[max(_shared(_part(k, g), _part(i, size)), Fraction(0)) * size for i in range(size)] for k in range(g)]
    return torch.tensor([[float(part) for part in row] for row in parts], dtype=torch.float64)


def _window(length: int) -> Tensor:
    offsets = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    return (-0.5 * (offsets / POSITION_STD) ** 2).exp()
