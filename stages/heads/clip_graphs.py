"""Defines the form in which a head returns its graphs.

A graph has nodes and weights. A node is a box or a whole frame. The head computes a new vector for node i as a weighted
sum of the vectors of all nodes j. Row i of the matrix of the graph has the weights of this sum.

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
    """One graph that a head computes for each of B clips. It has N nodes in each of T time steps. The head computes a
    new vector for each node as a weighted sum of the vectors of all nodes.

    - `weights`: float32 [B, T, N, T, N]. Entry (b, t, i, u, j) is the weight of node j of time step u in the sum for
      node i of time step t. The weights of a sum add up to 1, or are all 0. Padding has weight 0.
    - `links`: what a node is. "boxes": a box. "boxes of neighbouring frames": a box, with edges only between
      consecutive time steps. "frames": a whole frame, and N is 1.
    - `frame_step`, `frames`: time step t belongs to frame `frames`[t] of the cached boxes, or to frame t * `frame_step`
      if `frames` is None.
    """

    weights: Tensor
    links: Links
    frame_step: int = 1
    frames: Sequence[int] | None = None

    def frame(self, step: int) -> int:
        """Returns the number, counted from 0, of the frame of cached boxes that belongs to the time step `step`."""
        return step * self.frame_step if self.frames is None else self.frames[step]

    @property
    def matrix(self) -> Tensor:
        """Returns the weights as one matrix for each of B clips, [B, T * N, T * N], with T time steps of N nodes. Row
        and column t * N + i stand for node i of time step t.
        """
        return self.weights.flatten(3).flatten(1, 2)

    @property
    def within_frames(self) -> Tensor:
        """Returns the weights between the nodes of each time step, [B, T, N, N] for B clips, T time steps and N nodes.
        The weight of a node in its own sum is replaced by 0.
        """
        weights = self.weights.diagonal(dim1=1, dim2=3).movedim(3, 1)  # a view
        itself = torch.eye(weights.shape[2], dtype=torch.bool, device=weights.device)
        return weights.masked_fill(itself, 0.0)


def masked_graph(
    matrix: Tensor, valid: Tensor, links: Links, frame_step: int = 1, frames: Sequence[int] | None = None
) -> ClipGraph:
    """Returns the ClipGraph with the weights `matrix` [B, T * N, T * N], for B clips and T time steps of N nodes.
    `valid` bool [B, T, N] is false for padding, which are nodes without a box. All weights of padding become 0.
    `links`, `frame_step` and `frames` have the same meaning as in ClipGraph.
    """
    nodes = valid.flatten(1, 2)
    weights = torch.where(nodes[:, :, None] & nodes[:, None, :], matrix.float(), 0.0)
    weights = weights.view(*valid.shape, *valid.shape[1:])
    return ClipGraph(weights=weights, links=links, frame_step=frame_step, frames=frames)


@dataclass(frozen=True, kw_only=True)
class NodeMessages:
    """The messages between the nodes of each frame. A node is a cell of the map. There are P pairs of a sender and a
    receiver.
    """

    strengths: Tensor  # [B, T, P], the L2 norm of each message times its attention weight
    # `senders`, `receivers`: [P], the numbers of the two nodes of each pair, counted from 0
    senders: Sequence[int]
    receivers: Sequence[int]
    # The rectangle of each node in the map, as (x1, y1, x2, y2) from 0 to 1
    cells: Sequence[tuple[float, float, float, float]]


class FrameGraphs(nn.Module):
    """A module through which a block passes its graphs, so that `outputs_of` can collect them. The nodes of these
    graphs are frames. `forward` returns its input: the weights [B, G, T, T] for B clips, G = `num_graphs` graphs and T
    frames.
    """

    def __init__(self, num_graphs: int) -> None:
        super().__init__()
        self.num_graphs = num_graphs

    def forward(self, weights: Tensor) -> Tensor:
        return weights


@contextmanager
def outputs_of(*modules: nn.Module) -> Iterator[list[Tensor]]:
    """Collects the outputs of the modules `modules` during a `with` block. Yields a list that is empty at first. Each
    call of one of the modules appends its output to the list.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs.append(output)

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        yield outputs
