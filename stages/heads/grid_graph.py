"""The multi-scale grid of "Recurrent Space-time Graph Neural Networks" (Nicolicioiu et al., NeurIPS 2019).

Each scale g cuts the map into g x g equal cells. The cells are the nodes, scale by scale in the given order, and row by
row within a scale. All values are computed from exact rectangles in the unit square, because rounding rectangles to
pixels changes the graph for some map sizes. V nodes, H W size of the map.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

ExactInterval = tuple[Fraction, Fraction]
POSITION_CELLS, POSITION_STD = 6, 2.0  # values of the released code


def cells(scales: Sequence[int]) -> list[tuple[ExactInterval, ExactInterval]]:
    """Returns the vertical and horizontal extent of every node, in the unit square."""
    return [(_part(row, g), _part(column, g)) for g in scales for row in range(g) for column in range(g)]


def links(scales: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the pairs of linked nodes, both ways.

    Two nodes are linked if they share a side, or overlap at different scales. Sharing a corner does not link, and no
    node is its own neighbour. For scales 3, 2, 1: 14 nodes, 45 undirected edges.
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
    """Returns [V, H * W] float64, the mean over the area of each node.

    A pixel cut by a node's border counts by its part inside.
    """
    return torch.cat([torch.kron(_overlaps(g, height) * g / height, _overlaps(g, width) * g / width) for g in scales])


def upsampling(scales: Sequence[int], height: int, width: int) -> Tensor:
    """Returns [H * W, V] float64. Each pixel is the mean of the grid under the pixel's area, summed over the scales."""
    return torch.cat([torch.kron(_overlaps(g, height), _overlaps(g, width)) for g in scales]).T


def positions(scales: Sequence[int]) -> Tensor:
    """Returns the place of each node as a 6 x 6 map, [V, 36] float64: a Gaussian bump inside the node's cell, 0
    outside.
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

    The length is 0 where the intervals touch and negative where there is a gap.
    """
    return min(a[1], b[1]) - max(a[0], b[0])


def _overlaps(g: int, size: int) -> Tensor:
    """Returns [g, size] float64: which part of each of `size` pixels lies in each of g cells. Columns sum to one."""
    parts = [[max(_shared(_part(k, g), _part(i, size)), Fraction(0)) * size for i in range(size)] for k in range(g)]
    return torch.tensor([[float(part) for part in row] for row in parts], dtype=torch.float64)


def _window(length: int) -> Tensor:
    offsets = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
    return (-0.5 * (offsets / POSITION_STD) ** 2).exp()
