"""Defines in which form a head returns the graphs that it computes over the nodes of a clip.

A node is a box, or a whole frame. A graph is a square matrix of weights. The head computes a new vector for node i as a
weighted sum of the vectors of all nodes j. Row i of the matrix has the weights of this sum.

Shapes: B clips, T time steps, N nodes of a time step, G graphs.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Links = Literal["boxes", "boxes of neighbouring frames", "frames"]


@dataclass(frozen=True, kw_only=True)
class ClipGraph:
    """One graph of a head, for B clips. `links` says what the nodes are, and which of them can have an edge.

    With `links` "boxes", each two boxes of a clip can have an edge. With "boxes of neighbouring frames", only boxes of
    consecutive time steps can have one. With "frames", a node is a whole frame, and N is 1.

    `weights` [B, T, N, T, N] is float32 and at least 0. Entry (b, t, i, u, j) is the weight of node j of time step u in
    the sum for node i of time step t. The weights of a sum add up to 1, or are all 0. Places without a box have the
    weight 0 in all sums, and their own sums are 0. The weight of a node in its own sum is included.

    Time step t belongs to frame t * `frame_step` of the cached boxes, or to `frames`[t] if there are `frames`. Node i
    is box i of that frame.
    """

    weights: Tensor
    links: Links
    frame_step: int = 1
    frames: Sequence[int] | None = None

    def frame(self, step: int) -> int:
        """Returns the number, from 0, of the frame of the cached boxes that a time step belongs to."""
        return step * self.frame_step if self.frames is None else self.frames[step]

    @property
    def matrix(self) -> Tensor:
        """Returns the weights as one matrix per clip, [B, T * N, T * N]. The node with the number t * N + i is node i
        of time step t.
        """
        return self.weights.flatten(3).flatten(1, 2)

    @property
    def within_frames(self) -> Tensor:
        """Returns the weights between the nodes of one time step, [B, T, N, N], for each time step. The weight of a
        node in its own sum is left out and is 0 here.
        """
        weights = self.weights.diagonal(dim1=1, dim2=3).movedim(3, 1)  # a view
        itself = torch.eye(weights.shape[2], dtype=torch.bool, device=weights.device)
        return weights.masked_fill(itself, 0.0)


def masked_graph(
    matrix: Tensor, valid: Tensor, links: Links, frame_step: int = 1, frames: Sequence[int] | None = None
) -> ClipGraph:
    """Returns the ClipGraph with the weights `matrix` [B, T * N, T * N]. Weights of nodes that are false in `valid`
    bool [B, T, N] become 0. `links`, `frame_step` and `frames` are as in `ClipGraph`.
    """
    nodes = valid.flatten(1, 2)
    weights = torch.where(nodes[:, :, None] & nodes[:, None, :], matrix.float(), 0.0)
    weights = weights.view(*valid.shape, *valid.shape[1:])
    return ClipGraph(weights=weights, links=links, frame_step=frame_step, frames=frames)


@dataclass(frozen=True, kw_only=True)
class NodeMessages:
    """The messages between the nodes of each frame, for B clips, T frames and P pairs of nodes.

    `strengths` [B, T, P] are the lengths (L2 norms) of the messages of each pair, times their attention weights. Pair p
    leads from node `senders`[p] to node `receivers`[p]. `cells` has the place of each node in the map: (x1, y1, x2, y2)
    as shares of its width and height.
    """

    strengths: Tensor
    senders: Sequence[int]
    receivers: Sequence[int]
    cells: Sequence[tuple[float, float, float, float]]


class FrameGraphs(nn.Module):
    """Returns its input unchanged: the weights [B, G, T, T] of `num_graphs` graphs over the T frames of B clips.

    A block passes its graphs through this module, so that `recorded` can see them.
    """

    def __init__(self, num_graphs: int) -> None:
        super().__init__()
        self.num_graphs = num_graphs

    def forward(self, weights: Tensor) -> Tensor:
        return weights


@contextmanager
def recorded(*modules: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list that gets each output of each of `modules`, in the order in which they are called."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs.append(output)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        yield outputs
