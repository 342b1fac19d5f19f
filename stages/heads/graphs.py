"""Computes the graphs over region nodes of "Videos as Space-Time Region Graphs" (Wang and Gupta, ECCV 2018).

A graph is a matrix G. It is applied as Z = G X, so row i of G holds the weights with which node i adds up the nodes j.

Shapes: B clips, T frames, N regions a frame, V = T * N nodes of a clip, C channels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_graph(queries: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
    """Returns the similarity graph G [B, V, V]: G_ij = exp(q_i . k_j) / sum over j of exp(q_i . k_j).

    The equations are those of the STRG paper (eq. 1 and 2). q_i and k_j are rows of `queries` and `keys` [B, V, C]. The
    sum runs over the valid nodes j of the clip. `valid` is bool [B, V], for B clips, V nodes and C channels. Rows sum
    to 1. Columns of nodes that are not valid are 0. In a clip without any valid node, all entries are 1 / V.
    """
    affinity = queries @ keys.transpose(1, 2)
    lowest = torch.finfo(affinity.dtype).min  # with -inf, a clip without valid nodes would become NaN
    return affinity.masked_fill(~valid[:, None, :], lowest).softmax(2)


def iou_graphs(boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the spatial-temporal graphs `front` and `back`, each [B, T - 1, N, N] (STRG paper, eq. 3). There are B
    clips of T frames with N boxes each.

    With s_ij = IoU of box i in frame t and box j in frame t + 1,
        front_ij = s_ij / sum_j s_ij      rows in frame t, columns in frame t + 1
        back_ji = s_ij / sum_i s_ij       rows in frame t + 1, columns in frame t

    `boxes` is [B, T, N, 4] as x1, y1, x2, y2. `valid` is bool [B, T, N]. Index t of `front` and of `back` stands for
    the pair of frames (t, t + 1). Boxes of frames that are not neighbours are not linked. A row sums to 1, or to 0 if
    its box overlaps no valid box.
    """
    both = valid[:, :-1, :, None] & valid[:, 1:, None, :]
    overlap = torch.where(both, pairwise_iou(boxes[:, :-1], boxes[:, 1:]), 0.0)
    return _rows_to_one(overlap), _rows_to_one(overlap.transpose(2, 3))


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Returns the intersection over union [..., N, M] of boxes `a` [..., N, 4] and `b` [..., M, 4]. A box is x1, y1,
    x2, y2.

    The result is 0 for boxes without area.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    corner, far_corner = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (far_corner - corner).clamp_min(0).prod(-1)
    union = _area(a) + _area(b) - shared
    return shared / union.clamp_min(torch.finfo(union.dtype).tiny)


def collect_all(graph: Tensor, nodes: Tensor) -> Tensor:
    """Adds up nodes with the weights of a graph. Returns the product of `graph` [B, V, V] and `nodes` [B, T, N, C], as
    [B, T, N, C]. V is T * N.
    """
    return (graph @ nodes.flatten(1, 2)).view_as(nodes)


def collect_next(front: Tensor, nodes: Tensor) -> Tensor:
    """Returns for each node a weighted sum of the nodes in the next frame, [B, T, N, C].

    `nodes` is [B, T, N, C] for B clips, T frames, N nodes of a frame and C channels. `front` [B, T - 1, N, N] has the
    weights. Node i of frame t gets the sum over j of front[t, i, j] times node j of frame t + 1. Nodes of the last
    frame get 0.
    """
    return F.pad(front @ nodes[:, 1:], (0, 0, 0, 0, 0, 1))


def collect_previous(back: Tensor, nodes: Tensor) -> Tensor:
    """Returns for each node the weighted sum of the nodes in the previous frame: [B, T, N, C].

    `nodes` is [B, T, N, C], for B clips, T frames, N nodes of a frame and C channels. `back` is [B, T - 1, N, N]. Entry
    (t, i, j) of a clip is the weight of node j of frame t in the sum for node i of frame t + 1. Nodes of the first
    frame get 0.
    """
    return F.pad(back @ nodes[:, :-1], (0, 0, 0, 0, 1, 0))


def between_all(graphs: Tensor, offset: Literal[1, -1]) -> Tensor:
    """Returns a graph between neighbouring frames as one matrix over all nodes of a clip, [B, V, V], with V = T * N.
    There are B clips, T frames and N nodes of a frame.

    `graphs` is [B, T - 1, N, N], one of the results of `iou_graphs`. `offset` is 1 if its columns are nodes of the
    next frame (`front`), and -1 if they are nodes of the previous frame (`back`).
    """
    num_clips, pairs, nodes, _ = graphs.shape
    dense = graphs.new_zeros(num_clips, pairs + 1, nodes, pairs + 1, nodes)
    dense.diagonal(offset, 1, 3).copy_(graphs.movedim(1, 3))
    return dense.flatten(3).flatten(1, 2)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _rows_to_one(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
