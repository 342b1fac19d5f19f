"""The graphs over region nodes of "Videos as Space-Time Region Graphs" (Wang and Gupta, ECCV 2018).

Convention: Z = G X W, so row i of G says from which nodes j node i collects.

B clips, T frames, N regions a frame, V = T * N nodes of a clip, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_graph(queries: Tensor, keys: Tensor, valid: Tensor) -> Tensor:
    """Returns G_ij = exp(q_i . k_j) / sum_j exp(q_i . k_j) over the valid nodes j of the clip (eq. 1 and 2).

    queries and keys [B, V, C], valid [B, V] bool -> [B, V, V]. Rows sum to 1. Columns of nodes that are not valid are 0
    wherever the clip has a valid node.
    """
    affinity = queries @ keys.transpose(1, 2)
    lowest = torch.finfo(affinity.dtype).min  # with -inf, a clip without valid nodes would become NaN
    return affinity.masked_fill(~valid[:, None, :], lowest).softmax(2)


def iou_graphs(boxes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the spatial-temporal graphs (eq. 3): overlaps of boxes in neighbouring frames, rows normalised.

    With s_ij = IoU of box i in frame t and box j in frame t + 1,
        front_ij = s_ij / sum_j s_ij      rows in frame t, columns in frame t + 1
        back_ji = s_ij / sum_i s_ij       rows in frame t + 1, columns in frame t
    boxes [B, T, N, 4] xyxy, valid [B, T, N] bool -> front and back, each [B, T - 1, N, N]: the only non-zero
    blocks of two [V, V] matrices, for the frame pairs (t, t + 1). Rows sum to 1, or to 0 where nothing overlaps.
    """
    both = valid[:, :-1, :, None] & valid[:, 1:, None, :]
    overlap = torch.where(both, pairwise_iou(boxes[:, :-1], boxes[:, 1:]), 0.0)
    return _rows_to_one(overlap), _rows_to_one(overlap.transpose(2, 3))


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Returns the intersection over union of boxes a [..., N, 4] and b [..., M, 4] as [..., N, M].

    The result is 0 for boxes without area.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    corner, far_corner = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    shared = (far_corner - corner).clamp_min(0).prod(-1)
    union = _area(a) + _area(b) - shared
    return shared / union.clamp_min(torch.finfo(union.dtype).tiny)


def collect_all(graph: Tensor, nodes: Tensor) -> Tensor:
    """Returns graph [B, V, V] times nodes [B, T, N, C], as [B, T, N, C]."""
    return (graph @ nodes.flatten(1, 2)).view_as(nodes)


def collect_next(front: Tensor, nodes: Tensor) -> Tensor:
    """Returns what each node of [B, T, N, C] collects from the next frame. Nodes of the last frame get 0."""
    return F.pad(front @ nodes[:, 1:], (0, 0, 0, 0, 0, 1))


def collect_previous(back: Tensor, nodes: Tensor) -> Tensor:
    """Returns what each node of [B, T, N, C] collects from the previous frame. Nodes of the first frame get 0."""
    return F.pad(back @ nodes[:, :-1], (0, 0, 0, 0, 1, 0))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


def _rows_to_one(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
