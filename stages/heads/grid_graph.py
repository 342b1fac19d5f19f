"""The multi-scale grid of "Recurrent Space-time Graph Neural Networks" (Nicolicioiu et al., NeurIPS 2019).

`scales` is a sequence of numbers g, such as (3, 2, 1). Each scale g cuts the map into g x g equal cells. Each cell is a
node. The nodes of one scale come after those of the scale before, and are row by row within a scale. All values are
computed from exact rectangles in the unit square, because rounding rectangles to pixels changes the graph for some map
sizes.

Shapes: V nodes of all scales, H rows and W columns of a map.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

ExactInterval = tuple[Fraction, Fraction]
POSITION_CELLS, POSITION_STD = 6, 2.0  # values of the released code


def cells(scales: Sequence[int]) -> list[tuple[ExactInterval, ExactInterval]]:
    """Returns for each node the vertical and the horizontal interval of its cell, in the unit square.

    An interval is (start, end), such as (1/3, 2/3).
    """
    return [(_part(row, g), _part(column, g)) for g in scales for row in range(g) for column in range(g)]


def links(scales: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the pairs (i, j) of linked nodes. A link between i and j is both pairs (i, j) and (j, i).

    Two nodes are linked if they share a side, or if they overlap at different scales. Nodes that share only a corner
    are not linked, and no node is linked to itself. Scales 3, 2, 1 have 14 nodes and 45 links, so 90 pairs.
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
    """Returns a matrix [V, H * W] float64. Its product with a flat map is the mean of the map over each node's cell.

    If a border of the cell cuts a pixel, the pixel has the weight of its part inside the cell.
    """
    return torch.cat([torch.kron(_overlaps(g, height) * g / height, _overlaps(g, width) * g / width) for g in scales])


def upsampling(scales: Sequence[int], height: int, width: int) -> Tensor:
    """Returns a matrix [H * W, V] float64. Its product with values of nodes is a flat map that shows the nodes.

    For each scale, a pixel gets the mean of the cells that cover it. In this mean, the weight of a cell is the part of
    the pixel that lies in the cell. The map is the sum of these means over all scales.
    """
    return torch.cat([torch.kron(_overlaps(g, height), _overlaps(g, width)) for g in scales]).T


def positions(scales: Sequence[int]) -> Tensor:
    """Returns the position of each node as a flat 6 x 6 map: [V, 36] float64.

    The map has a Gaussian bump inside the node's cell, and is 0 outside.
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
    """Returns the length that two intervals share.

    The length is 0 if the intervals only touch. It is negative if there is a gap.
    """
    return min(a[1], b[1]) - max(a[0], b[0])


def _overlaps(g: int, size: int) -> Tensor:
    """Returns a matrix [g, size] float64. Entry (k, i) is the part of pixel i that lies in cell k. Columns sum to 1.

    One side of the unit square is cut into g equal cells and into `size` equal pixels.
    """
    parts = [[max(_shared(_part(k, g), _part(i, size)), Fraction(0)) * size for i in range(size)] for k in range(g)]
    return torch.tensor([[float(part) for part in row] for row in parts], dtype=torch.float64)


def _window(length: int) -> Tensor:
    offsets = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    return (-0.5 * (offsets / POSITION_STD) ** 2).exp()
