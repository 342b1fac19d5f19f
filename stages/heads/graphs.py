"""Computes the graphs of STRG, "Videos as Space-Time Region Graphs" (Wang and Gupta, ECCV 2018). A node of a graph is a
region, which is the part of a frame inside a box.

A graph is a matrix G. It maps the features X of the nodes to Z = G X. So row i of G has the weights of all nodes j in
the sum for node i.

Shapes: B clips, T frames, N regions of a frame, V = T * N nodes of a clip, C channels.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_graph(queries: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
    """Returns the similarity graph G [B, V, V] of the V nodes of each clip (STRG paper, eq. 1 and 2).

    G_ij = exp(q_i . k_j) / sum over j of exp(q_i . k_j). `queries` and `keys` [B, V, C] have the vectors q_i and k_j.
    `valid` bool [B, V] is false for padding. The sum leaves padding out, and columns of padding are 0. If a clip has no
    valid node, all its entries are 1 / V.
    """
    affinity = queries @ keys.transpose(1, 2)
    lowest = torch.finfo(affinity.dtype).min  # with -inf, a clip without valid nodes would become NaN
    return affinity.masked_fill(~valid[:, None, :], lowest).softmax(2)


def iou_graphs(boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the spatial-temporal graphs (front, back) of STRG, which link overlapping boxes of neighbouring frames.
    Each is [B, T - 1, N, N] for N boxes of a frame (STRG paper, eq. 3).

    `boxes` [B, T, N, 4] are (x1, y1, x2, y2). `valid` bool [B, T, N] is false for padding. Index t stands for the
    frames t and t + 1. With s_ij = IoU of box i in frame t and box j in frame t + 1:

        front_ij = s_ij / sum_j s_ij      rows in frame t, columns in frame t + 1
        back_ji = s_ij / sum_i s_ij       rows in frame t + 1, columns in frame t

    Each row sums to 1, or to 0 if its box overlaps no valid box.
    """
    both = valid[:, :-1, :, None] & valid[:, 1:, None, :]
    overlap = torch.where(both, pairwise_iou(boxes[:, :-1], boxes[:, 1:]), 0.0)
    return _rows_to_one(overlap), _rows_to_one(overlap.transpose(2, 3))


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Returns the intersection over union of each box in `a` and each box in `b`: [..., N, 4] and [..., M, 4] -> [...,
    N, M]. A box is (x1, y1, x2, y2). The result is 0 if a box has no area.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    corner, far_corner = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    width, height = (far_corner - corner).clamp_min(0).unbind(-1)
    shared = width * height
    union = _area(a) + _area(b) - shared
    return shared / union.clamp_min(torch.finfo(union.dtype).tiny)


def collect_all(graph: Tensor, nodes: Tensor) -> Tensor:
    """Returns for each node the weighted sum of all nodes of the clip: [B, T, N, C], for B clips, T frames, N nodes of
    a frame and C channels. `nodes` [B, T, N, C] has the vectors of the nodes. Row i of `graph` [B, V, V] has the
    weights of the V = T * N nodes in the sum for node i.
    """
    return (graph @ nodes.flatten(1, 2)).view_as(nodes)


def collect_next(front: Tensor, nodes: Tensor) -> Tensor:
    """Returns for each node the weighted sum of the nodes of the next frame, [B, T, N, C]. Nodes of the last frame get
    0.

    `nodes` [B, T, N, C] has the vectors of N nodes in each frame. `front` [B, T - 1, N, N] is a result of `iou_graphs`.
    Its entry (b, t, i, j) is the weight of node j of frame t + 1 in the sum for node i of frame t.
    """
    return F.pad(front @ nodes[:, 1:], (0, 0, 0, 0, 0, 1))


def collect_previous(back: Tensor, nodes: Tensor) -> Tensor:
    """Returns for each node the weighted sum of the nodes of the previous frame, [B, T, N, C]. Nodes of the first frame
    get 0.

    `nodes` [B, T, N, C] has the vectors of N nodes in each frame. `back` [B, T - 1, N, N] is a result of `iou_graphs`.
    Its entry (b, t, i, j) is the weight of node j of frame t in the sum for node i of frame t + 1.
    """
    return F.pad(back @ nodes[:, :-1], (0, 0, 0, 0, 1, 0))


def between_all(graphs: Tensor, offset: Literal[1, -1]) -> Tensor:
    """Writes a graph between neighbouring frames into one matrix over all nodes of a clip. Returns [B, V, V], for V = T
    * N nodes. Entries between other frames are 0.

    `graphs` [B, T - 1, N, N] is one of the two results of `iou_graphs`. `offset` is 1 for `front` and -1 for `back`.
    """
    num_clips, pairs, nodes, _ = graphs.shape
    dense = graphs.new_zeros(num_clips, pairs + 1, nodes, pairs + 1, nodes)
    dense.diagonal(offset, 1, 3).copy_(graphs.movedim(1, 3))
    return dense.flatten(3).flatten(1, 2)


def _area(boxes: Tensor) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return width * height


def _rows_to_one(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
