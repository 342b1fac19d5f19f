"""The multi-scale grid of "Recurrent Space-time Graph Neural Networks" (Nicolicioiu et al., NeurIPS 2019).

`scales` is a sequence of numbers g, such as (3, 2, 1). Each g cuts the map into g x g equal cells, and each cell is a
node. Nodes are in the order of `scales`, and row by row within a scale.

Shapes: V nodes of all scales, H rows and W columns of a map.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

ExactInterval = tuple[Fraction, Fraction]
POSITION_CELLS, POSITION_STD = 6, 2.0  # values of the released code


def cells(scales: Sequence[int]) -> list[tuple[ExactInterval, ExactInterval]]:
    """Returns a pair (vertical interval, horizontal interval) for each cell of the grids, as fractions of the map's
    sides.

    Each number g in `scales` cuts the map into a grid of g x g cells. An interval is (start, end), such as (1/3, 2/3).
    """
    return [(_part(row, g), _part(column, g)) for g in scales for row in range(g) for column in range(g)]


def links(scales: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the pairs (i, j) of the indices of linked nodes. Each link is in the result twice, as (i, j) and as (j,
    i).

    A node is a cell of a grid, and each number in `scales` makes a grid, from 3 x 3 cells for 3. Two nodes are linked
    if their cells share a side, or if cells of two grids overlap. Cells that share only a corner are not linked, and no
    node is linked to itself. Scales 3, 2, 1 have 14 nodes and 45 links, so 90 pairs.
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
    """Returns the matrix that averages a map over the cells of grids, [number of cells, `height` * `width`] float64.
    Multiplied with a flat map, it returns the mean of the map over each cell.

    Each g in `scales` cuts the map into g x g cells. A pixel that lies partly in a cell counts with that part.
    """
    return torch.cat([torch.kron(_overlaps(g, height) * g / height, _overlaps(g, width) * g / width) for g in scales])


def upsampling(scales: Sequence[int], height: int, width: int) -> Tensor:
    """Returns the matrix that draws the values of nodes as a map: U [H * W, V] float64 for V nodes, and a map of H =
    `height` rows and W = `width` columns. For values v [V], the product U v is the map, flattened to [H * W].

    Each number g in `scales` cuts the map into g x g equal cells, and each cell is a node. A pixel gets the value of
    the cell in which it lies. If it lies in several cells of one g, it gets their mean, weighted by the parts of the
    pixel in them. The map is the sum over all g.
    """
    return torch.cat([torch.kron(_overlaps(g, height), _overlaps(g, width)) for g in scales]).T


def positions(scales: Sequence[int]) -> Tensor:
    """Returns for each of V nodes a small map that says where in the frame the node lies: [V, 36] float64, a map of 6 x
    6 cells for each node.

    Each number g in `scales` divides the frame into g x g rectangles, and each rectangle is a node. The map of a node
    is 0 outside its rectangle, and has a Gaussian bump inside.
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
    """Returns the length that the intervals `a` and `b`, each (start, end), share.

    The length is 0 if the intervals only touch. It is negative if there is a gap.
    """
    return min(a[1], b[1]) - max(a[0], b[0])


def _overlaps(g: int, size: int) -> Tensor:
    """Divides one side of an image of `size` pixels into g equal cells. Returns the part of each pixel that lies in
    each cell, float64 [g, size].

    A pixel that lies in one cell has 1 there and 0 in all other cells. Each column sums to 1.
    """
    parts = [[max(_shared(_part(k, g), _part(i, size)), Fraction(0)) * size for i in range(size)] for k in range(g)]
    return torch.tensor([[float(part) for part in row] for row in parts], dtype=torch.float64)


def _window(length: int) -> Tensor:
    offsets = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    return (-0.5 * (offsets / POSITION_STD) ** 2).exp()
