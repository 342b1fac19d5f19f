"""The graph of RSTG, whose nodes are the cells of grids over a map. Space stages and time stages pass messages between
the nodes (Nicolicioiu, Duta and Leordeanu, NeurIPS 2019, section 3).

Shapes: B clips, T frames, V nodes of the grid, P pairs (receiver i, sender j) of nodes, D = `dim` channels of a node.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from kinegraph.stages.device import through_lstm
from kinegraph.stages.heads.clip_graphs import NodeMessages
from kinegraph.stages.heads.grid_graph import POSITION_CELLS, cells, links, positions
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.options import StageOptions

StepOrder = Literal["all_temp", "one_temp", "space_only", "time_only", "homogeneous"]
LstmState = tuple[Tensor, ...]
OLD_ATTENTIONS = {"tf_simple": "tf_sum", "port": "torch_dot"}  # name in earlier versions -> name now


class RstgBlockOptions(StageOptions):
    dim: int = Field(512, gt=0, description="width of nodes, messages and LSTMs")
    scales: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (3, 2, 1), min_length=1, description="grids of g x g nodes, in this order"
    )
    num_iterations: int = Field(3, gt=0, description="number of space stages (K)")
    schedule: StepOrder = Field(
        "all_temp",
        description="all_temp: a time stage before each space stage and after the last; one_temp: one "
        "time stage, at the end; space_only: a mean over time in place of time stages; "
        "time_only: no messages; homogeneous: links in time carry messages too",
    )
    attention: Literal["paper", "tf_dot", "tf_sum", "torch_dot"] = Field(
        "paper",
        description="paper: eq. 3 and 4, neighbours only; tf_dot and tf_sum: `dot` and `simple` of the authors' "
        "TensorFlow release; torch_dot: their PyTorch port. The released forms take a softmax over all nodes",
    )
    positional: bool = Field(False, description="messages know the positions of sender and receiver")
    update: Literal["shared", "scalewise"] = Field("shared", description="one update network, or one per scale")
    norm: Literal["layer", "layer_clip", "batch", "none"] = Field(
        "layer",
        description="layer: nodes and messages are normalised frame by frame (with attention `paper`, "
        "messages of linked pairs only; the release takes all pairs); layer_clip: input nodes "
        "are normalised over the clip, as released, which is not causal; batch: input nodes "
        "only",
    )

    @field_validator("attention", mode="before")
    @classmethod
    def _is_no_old_form(cls, attention: object) -> object:
        if isinstance(attention, str) and attention in OLD_ATTENTIONS:
            raise ValueError(
                f"{attention!r} lacked biases and a ReLU of the release; {OLD_ATTENTIONS[attention]!r} has them. A run "
                "that was trained with the old form cannot be used any more: train it again"
            )
        return attention


class SpaceTimeGraph(nn.Module):
    """The graph of RSTG (RSTG paper, section 3). `forward` maps nodes [B, T, V, D] to (new nodes of the same shape,
    states), for V nodes of a frame and D channels. The states are those of the recurrent layers after the last frame.

    A long video can be processed in several calls. Each call gets the next frames and the states that the call before
    returned. The new nodes are those of one call for the whole video. This does not hold for the schedule `space_only`,
    for the norm `layer_clip`, nor for the norm `batch` in training.
    """

    def __init__(self, options: RstgBlockOptions) -> None:
        super().__init__()
        dim = options.dim
        self.schedule, self.num_iterations = options.schedule, options.num_iterations
        self.norm = _input_norm(options.norm, dim)
        self.space = SpaceStage(options)
        recurrent = options.schedule in ("all_temp", "time_only")
        self.intern = nn.LSTM(dim, dim, batch_first=True) if recurrent else None
        self.extern = nn.LSTM(dim, dim, batch_first=True) if recurrent or options.schedule == "one_temp" else None

    def forward(self, nodes: Tensor, states: Sequence[LstmState] | None = None) -> tuple[Tensor, list[LstmState]]:
        before = iter(states or ())
        after: list[LstmState] = []
        nodes = self._normed(nodes)
        for _ in range(self.num_iterations):
            if self.schedule in ("all_temp", "time_only", "homogeneous"):
                nodes = self._through_time(self.intern, nodes, next(before, None), after)
            nodes = self.space(nodes)
        if self.schedule == "space_only":
            return nodes.mean(1, keepdim=True).expand_as(nodes), after
        return self._through_time(self.extern, nodes, next(before, None), after), after

    def _normed(self, nodes: Tensor) -> Tensor:
        """Returns the nodes after the normalisation that the option `norm` chooses, in the shape of `nodes` [B, T, V,
        D]. The axes are B clips, T frames, V nodes of a frame and D channels.
        """
        # BatchNorm1d needs the channels in the second axis, so the axes B, T and V are joined to one axis for it.
        flat = nodes if isinstance(self.norm, SetNorm) else nodes.flatten(0, 2)
        normed: Tensor = self.norm(flat)
        return normed.view(nodes.shape)

    def _through_time(
        self, lstm: nn.LSTM | None, nodes: Tensor, state: LstmState | None, after: list[LstmState]
    ) -> Tensor:
        """Runs one time stage and returns the new nodes, in the shape of `nodes` [B, T, V, D] (RSTG paper, eq. 6). The
        axes are B clips, T frames, V nodes of a frame and D channels. A time stage mixes each node with the same node
        of earlier frames.

        - `lstm`: the layer of the time stage. If it is None, each node sends a message to the same node of the next
          frame.
        - `state`: the state before the first frame, or None at the start of a video.
        - `after`: a list, to which the state after the last frame is appended.
        """
        if lstm is None:
            nodes, state = self.space.through_time(nodes, state)
        else:
            sequences = nodes.transpose(1, 2)  # [B, V, T, D]
            flat, state = through_lstm(lstm, sequences.flatten(0, 1), state)
            nodes = flat.view(sequences.shape).transpose(1, 2)
        assert state is not None
        after.append(state)
        return nodes


class SpaceStage(nn.Module):
    """A space stage of RSTG, in which the V nodes of each frame send messages to each other once (RSTG paper, eq. 1 to
    5). `forward` maps nodes [B, T, V, D] to new nodes of the same shape.
    """

    # `sender`, `receiver`: [P], the numbers of the two nodes of each of P pairs
    sender: Tensor
    receiver: Tensor
    receives: Tensor  # [V, P], which is 1 if the node is the receiver of the pair, else 0
    position: Tensor  # [V, 36], the position code of each node, or [V, 0] if the option `positional` is false

    def __init__(self, options: RstgBlockOptions) -> None:
        super().__init__()
        dim, num_nodes = options.dim, sum(g * g for g in options.scales)
        pairs = links(options.scales)
        if options.attention != "paper":
            pairs = [(i, j) for i in range(num_nodes) for j in range(num_nodes)]
        receiver, sender = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).unbind(1)
        receives = [[float(i == node) for i, _ in pairs] for node in range(num_nodes)]
        self.register_buffer("receiver", receiver, persistent=False)
        self.register_buffer("sender", sender, persistent=False)
        self.register_buffer("receives", torch.tensor(receives), persistent=False)
        self.silent = options.schedule == "time_only"
        if options.positional and max(options.scales) > POSITION_CELLS:
            raise HeadError(f"scales: given {max(options.scales)}, allowed with `positional`: up to {POSITION_CELLS}.")
        position = positions(options.scales).float() if options.positional else torch.empty(num_nodes, 0)
        self.register_buffer("position", position, persistent=False)
        layered = options.norm in ("layer", "layer_clip")
        self.update = Update(dim if self.silent else 2 * dim, dim, options, layered)
        if not self.silent:
            self.send = Send(dim + position.shape[1], dim, layered)
            self.attention = Attention(dim, options, layered)
        self.cells = [tuple(map(float, (*across, *down))) for down, across in cells(options.scales)]
        self.sent = nn.Identity()  # the weighted messages pass it, so that `outputs_of` can see them

    def forward(self, nodes: Tensor) -> Tensor:
        if self.silent:
            alone: Tensor = self.update(nodes)
            return alone
        located = self._located(nodes)
        messages = self.send(located, located, self.sender, self.receiver)  # [B, T, P, D]
        weights = self.attention.weights(nodes)[..., self.receiver, self.sender]  # [B, T, P]
        gathered = self.attention.finish(self.receives @ self.sent(weights[..., None] * messages))  # [B, T, V, D]
        updated: Tensor = self.update(torch.cat([nodes, gathered], -1))
        return updated

    def messages_of(self, weighted: Tensor) -> NodeMessages:
        """Returns NodeMessages with one strength for each pair of nodes: the length (L2 norm) of the vector of the pair
        in `weighted`.

        `weighted` [B, T, P, D] has one vector for each of P pairs: the message, times the attention weight of the pair.
        There are B clips, T frames and D channels. The pairs are in the order of `sender` and `receiver`.
        """
        places = [(x1, y1, x2, y2) for x1, x2, y1, y2 in self.cells]
        pairs = self.sender.tolist(), self.receiver.tolist()
        return NodeMessages(strengths=weighted.norm(dim=-1), senders=pairs[0], receivers=pairs[1], cells=places)

    def through_time(self, nodes: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        """Passes messages from each frame to the next frame. Returns (new nodes [B, T, V, D], state after the last
        frame), for V nodes of a frame.

        Each new node is computed from the same node in `nodes` and a message from the new node of the previous frame.
        `state` is the state before the first frame. If `state` is None, the nodes before the first frame are 0.
        """
        everyone = torch.arange(nodes.shape[2], device=nodes.device)
        past = nodes.new_zeros(nodes[:, 0].shape) if state is None else state[0]
        frames = []
        for now in nodes.unbind(1):
            message = self.send(self._located(past), self._located(now), everyone, everyone)
            past = self.update(torch.cat([now, message], -1))  # [B, V, D]
            frames.append(past)
        return torch.stack(frames, 1), (past,)

    def _located(self, nodes: Tensor) -> Tensor:
        return torch.cat([nodes, self.position.expand(*nodes.shape[:-1], -1)], -1)


class Send(nn.Module):
    """Computes the messages between the nodes of RSTG by two linear layers, each followed by a ReLU (RSTG paper, eq. 1
    and 2). The message from node j to node i is computed from both vectors, joined: [v_j | v_i].

    `in_features` is the length of the vector of a node, and `dim` the length of a message. If `layered` is true, a norm
    over all messages of a frame follows.
    """

    def __init__(self, in_features: int, dim: int, layered: bool) -> None:
        super().__init__()
        self.first = nn.Linear(2 * in_features, dim)
        self.second = nn.Linear(dim, dim)
        self.norm = SetNorm(dim) if layered else nn.Identity()

    def forward(self, senders: Tensor, receivers: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
        """Returns one message for each of P pairs of nodes, [..., P, D] for D channels.

        `senders` and `receivers` [..., V, in_features] have the vectors of all V nodes, as senders and as receivers.
        `sender` and `receiver` [P] are the indices of the two nodes of each pair.
        """
        # the first layer runs on V nodes in each role, not on P pairs: the same result with less work
        from_sender, from_receiver = self.first.weight.chunk(2, 1)
        sent = F.linear(senders, from_sender)[..., sender, :]
        received = F.linear(receivers, from_receiver, self.first.bias)[..., receiver, :]
        messages: Tensor = self.norm(self.second((sent + received).relu()).relu())
        return messages


class Attention(nn.Module):
    """Computes the attention weights between the V nodes of RSTG (RSTG paper, eq. 3 and 4). Entry (i, j) is the weight
    of the message from node j to node i. `adjacency` [V, V] is 1 for linked nodes, else 0.

    The option `attention` chooses the formula:

    - "paper": a dot product, only between linked nodes, without softmax.
    - "tf_dot": a softmax of dot products over all nodes. Nodes without a link have the logit 0.
    - "tf_sum": a softmax over all nodes of the sum of two numbers, one from each node. Linked nodes get 1 added. Nodes
      without a link have the logit 0.
    - "torch_dot": a softmax of dot products over all nodes. Links have no influence.

    The last three formulas are those of the released code. With them, a bias is added to the weighted sum of messages,
    and a ReLU follows.
    """

    adjacency: Tensor

    def __init__(self, dim: int, options: RstgBlockOptions, layered: bool) -> None:
        super().__init__()
        self.form = form = options.attention
        num_nodes, linked = sum(g * g for g in options.scales), set(links(options.scales))
        adjacency = [[float((i, j) in linked) for j in range(num_nodes)] for i in range(num_nodes)]
        self.register_buffer("adjacency", torch.tensor(adjacency), persistent=False)
        out_features, released = 1 if form == "tf_sum" else dim, form != "paper"
        self.of_sender = nn.Linear(dim, out_features, bias=released)
        self.of_receiver = nn.Linear(dim, out_features, bias=released)
        self.bias = nn.Parameter(torch.zeros(dim)) if released else None
        self.norm = SetNorm(dim) if layered and form == "tf_sum" else nn.Identity()

    def weights(self, nodes: Tensor) -> Tensor:
        """Returns the attention weights between the V nodes `nodes` [..., V, D] with D channels: [..., V, V]. Entry (i,
        j) is the weight of the message from node j to node i.
        """
        senders, receivers = self.of_sender(nodes), self.of_receiver(nodes)
        if self.form == "tf_sum":
            masked: Tensor = F.leaky_relu(self.adjacency * (receivers + senders.transpose(-1, -2)), 0.2)
            return (masked + self.adjacency).softmax(-1)
        logits: Tensor = receivers @ senders.transpose(-1, -2)
        if self.form == "tf_dot":
            logits = self.adjacency * logits
        return logits if self.form == "paper" else logits.softmax(-1)

    def finish(self, gathered: Tensor) -> Tensor:
        """Adds a bias to the weighted sums of messages and applies the norm, if there is one, and a ReLU. With
        `attention: paper`, returns the sums unchanged.

        `gathered` [..., V, D] has the weighted sum of the messages to each of V nodes, with D channels. The result has
        the same shape.
        """
        if self.bias is None:
            return gathered
        biased: Tensor = self.norm(gathered + self.bias)
        return biased.relu()


class Update(nn.Module):
    """Computes the new nodes of RSTG from the nodes and the messages that they receive (RSTG paper, eq. 5). A node and
    its message are joined to one vector of `in_features` numbers. Two linear layers with ReLU map it to `dim` numbers.

    With `update: shared`, all nodes share the two layers. With `update: scalewise`, each grid has its own two layers.
    If `layered` is true, a norm over the nodes and channels of a frame follows.
    """

    def __init__(self, in_features: int, dim: int, options: RstgBlockOptions, layered: bool) -> None:
        super().__init__()
        self.sizes = [g * g for g in options.scales]
        if options.update == "shared":
            self.sizes = [sum(self.sizes)]
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(in_features, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU()) for _ in self.sizes
        )
        self.norm = SetNorm(dim) if layered else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Returns the new nodes [..., V, D] for V nodes with D channels. A row of `x` [..., V, in_features] is a node
        and its message, joined.
        """
        parts = zip(self.networks, torch.split(x, self.sizes, -2), strict=True)
        updated: Tensor = self.norm(torch.cat([network(part) for network, part in parts], -2))
        return updated


class SetNorm(nn.Module):
    """A LayerNorm over several axes. The mean and the variance are taken over the last `num_axes` axes together, for
    example over the nodes and channels of a frame. The last axis has `dim` channels. Each channel has its own gain and
    bias.
    """

    def __init__(self, dim: int, num_axes: int = 2) -> None:
        super().__init__()
        self.num_axes = num_axes
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-self.num_axes :]) * self.weight + self.bias


def _input_norm(norm: str, dim: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm1d(dim)
    if norm == "none":
        return nn.Identity()
    return SetNorm(dim, num_axes=3 if norm == "layer_clip" else 2)
