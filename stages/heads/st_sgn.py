"""The head ST-SGN, "Spatio-Temporal Scene Graph Network". It classifies clips from scene graphs and reads no features.

The scene graph of a frame has one person and some objects. An edge leads from an object to the person. The edge has one
number for each relation: 1 if the object has this relation to the person, else 0.

Shapes: B clips, T frames, M the largest number of objects in a frame, R relations, O classes of nodes, D width of a
node.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.head import Head, HeadError, HeadOptions, Spec
from kinegraph.stages.heads.inputs import missing_arrays
from kinegraph.stages.heads.sequences import Reducer, SliceClassifier

COUNT, TIMES = "graphs/count", "graphs/times"
OBJECTS, LINKED, RELATIONS = "graphs/objects", "graphs/linked", "graphs/relations"
GRAPHS = (TIMES, COUNT, OBJECTS, LINKED, RELATIONS)


class SequenceOptions(HeadOptions):
    """The options that all heads on scene graphs share. Such a head computes one vector for each frame and cuts the
    clip into slices of `slice_seconds`. It reduces the vectors of each slice to one vector of `hidden` numbers and
    classifies this vector. `reducer` is the way in which vectors are reduced, such as "mean".
    """

    num_object_classes: int = Field(36, gt=1, description="number of classes of nodes, the person's class included")
    reducer: Reducer = Field("bigru", description="how the frames of a slice are reduced to one vector")
    hidden: int = Field(512, gt=1, description="width of the embedding of a slice")
    slice_seconds: float | None = Field(
        None,
        gt=0,
        description="the clip is cut into slices of this length, and the largest logit over the slices "
        "counts; null: one slice",
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout before the classifier")


class StSgnOptions(SequenceOptions):
    layer: Literal["gine", "cgconv", "nnconv"] = Field("gine", description="kind of graph convolution")
    readout: Literal["person", "mean", "max"] = Field("person", description="how a frame's nodes become one vector")
    num_layers: int = Field(1, gt=0, description="graph convolutions in a row")
    dim: int | None = Field(None, gt=0, description="width of a node; null: classes x relations, as in the paper")
    person_class: int = Field(0, ge=0, description="class number of the person")
    activate_edges: bool = Field(False, description="nnconv: ReLU after the linear layer on edges")


class RelationMatrixOptions(SequenceOptions):
    mlp: bool = Field(
        False, description="a linear layer and ReLU on the flattened matrix, as in the paper for single labels"
    )


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """The scene graphs of T frames of B clips. A graph has one person, up to M objects, and edges from objects to the
    person.
    """

    objects: Tensor  # the class number of each object, int64 [B, T, M]
    relations: Tensor  # [B, T, M, R] for R relations. It is 1 if the object has the relation to the person, else 0.
    exists: Tensor  # bool [B, T, M], false for padding. A frame may have fewer than M objects.
    linked: Tensor  # bool [B, T, M], true if an edge leads from the object to the person
    annotated: Tensor  # bool [B, T], true if the frame has a graph. The graph may have no object.
    times: Tensor  # the times of the frames in seconds, [B, T]


class StSgn(Head):
    """A head that classifies clips by their scene graphs with a graph network. The scene graph of a frame has one
    person, some objects, and edges from objects to the person.

    The network encodes the graph of each frame as one vector. A clip is cut into slices of time, and each slice is
    classified. The logit of a class is the largest logit over the slices.
    """

    option_model = StSgnOptions
    reads = GRAPHS

    def __init__(self, spec: Spec, num_classes: int, options: StSgnOptions) -> None:
        super().__init__()
        num_relations = _num_relations(spec)
        dim = options.dim or options.num_object_classes * num_relations
        self.readout, self.person_class = options.readout, options.person_class
        self.num_object_classes = options.num_object_classes
        if options.person_class >= options.num_object_classes:
            raise HeadError(f"person_class: given {options.person_class}, allowed: 0 to {self.num_object_classes - 1}.")
        self.nodes = nn.Embedding(options.num_object_classes, dim)
        self.edges = nn.Linear(num_relations, dim)
        self.layers = nn.ModuleList(_layer(dim, options) for _ in range(options.num_layers))
        self.sequence = _sequence(dim, num_classes, options)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        graphs = read_graphs(batch, self.edges.weight.dtype, self.num_object_classes)
        logits: Tensor = self.sequence(self._encode(graphs), graphs.times, graphs.annotated)
        return logits

    def _encode(self, graphs: Graphs) -> Tensor:
        """Runs the graph layers on `graphs` and returns one vector of D numbers for each of T frames of B clips, [B, T,
        D]. It is the node of the person, or the mean or the maximum of all nodes of the frame, as the option `readout`
        says.
        """
        objects = self.nodes(graphs.objects)  # [B, T, M, D]
        person = self.nodes.weight[self.person_class].expand(*objects.shape[:2], -1)  # [B, T, D]
        edges = self.edges(graphs.relations)
        for layer in self.layers:
            assert isinstance(layer, GraphLayer)
            messages = torch.where(graphs.linked[..., None], layer.message(objects, edges), 0.0)
            person = layer.update(person, messages.sum(2))
            if self.readout != "person" or len(self.layers) > 1:
                objects = layer.update(objects, torch.zeros_like(objects))
        if self.readout == "person":
            return person
        exists = graphs.exists[..., None]
        if self.readout == "max":
            return torch.maximum(person, objects.masked_fill(~exists, -torch.inf).amax(2))
        return (person + torch.where(exists, objects, 0.0).sum(2)) / (1 + graphs.exists.sum(2, keepdim=True))


class RelationMatrix(Head):
    """A head that classifies clips by their scene graphs without a graph network. It is a baseline for StSgn.

    The vector of a frame is a flattened matrix [O, R], for O classes of objects and R relations. Entry (o, r) is 1 if
    an object of class o has the relation r to the person, else 0.
    """

    option_model = RelationMatrixOptions
    reads = GRAPHS

    def __init__(self, spec: Spec, num_classes: int, options: RelationMatrixOptions) -> None:
        super().__init__()
        self.num_object_classes = options.num_object_classes
        dim = options.num_object_classes * _num_relations(spec)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU()) if options.mlp else nn.Identity()
        self.sequence = _sequence(dim, num_classes, options)

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        graphs = read_graphs(batch, self.sequence.fc.weight.dtype, self.num_object_classes)
        frames = relation_matrices(graphs, self.num_object_classes).flatten(2)  # index o * R + r
        logits: Tensor = self.sequence(self.mlp(frames), graphs.times, graphs.annotated)
        return logits


def relation_matrices(graphs: Graphs, num_object_classes: int) -> Tensor:
    """Returns one matrix for each frame, [B, T, O, R] for B clips, T frames, O = `num_object_classes` classes and R
    relations. Entry (o, r) is 1 if the frame has an object of class o that is linked to the person and has the relation
    r, else 0.
    """
    relations = torch.where(graphs.linked[..., None], graphs.relations, 0.0)
    matrices = relations.new_zeros(*relations.shape[:2], num_object_classes, relations.shape[3])
    index = graphs.objects[..., None].expand_as(relations)
    return matrices.scatter_reduce(2, index, relations, "amax")


def read_graphs(batch: Mapping[str, Tensor], dtype: torch.dtype, num_object_classes: int) -> Graphs:
    """Returns the scene graphs of `batch` as Graphs, with `relations` in the type `dtype`. `batch` has the cached
    arrays of the stage `graphs`.

    Padding after the last object of a frame has class 0 and no relations. Raises HeadError if the class number of an
    object is not from 0 to `num_object_classes` - 1.
    """
    count = batch[COUNT]
    slots = torch.arange(batch[OBJECTS].shape[2], device=count.device)
    exists = slots < count[..., None]
    objects = torch.where(exists, batch[OBJECTS].long(), 0)
    unknown = objects[(objects < 0) | (objects >= num_object_classes)]
    if len(unknown):
        raise HeadError(
            f"{OBJECTS} has an object of class {int(unknown[0])}; num_object_classes is {num_object_classes}."
        )
    return Graphs(
        objects=objects,
        relations=torch.where(exists[..., None], batch[RELATIONS], 0).to(dtype),
        exists=exists,
        linked=exists & batch[LINKED].bool(),
        annotated=count >= 0,
        times=batch[TIMES],
    )


class GraphLayer(nn.Module):
    """The base class of the graph convolutions of ST-SGN. In the graph of a frame, each object has an edge to the
    person.

    A subclass implements `message`, which computes what each object sends to the person. A subclass may override
    `update`, which computes a new node from the old node and the sum of the messages to this node.
    """

    def message(self, objects: Tensor, edges: Tensor) -> Tensor:
        """Returns the message that each object sends to the person, [B, T, M, D] for B clips, T frames, M objects of a
        frame and D numbers. A subclass implements this method.

        `objects` [B, T, M, D] has the vectors of the objects. `edges` [B, T, M, D] has the vectors of their edges to
        the person.
        """
        raise NotImplementedError

    def update(self, nodes: Tensor, messages: Tensor) -> Tensor:
        """Returns the new nodes, [..., D] for nodes of D numbers. In this base class, they are `nodes` + `messages`.

        `messages` [..., D] has the sum of the messages that each node receives. Only the person receives messages, so
        the sum is 0 for objects.
        """
        return nodes + messages


class GineLayer(GraphLayer):
    """The graph convolution GINE (Hu et al. 2020, arXiv 1905.12265): x_i' = h((1 + eps) x_i + sum over j of ReLU(x_j +
    e_ji)).

    x_i is the vector of node i, with `dim` numbers. The sum is over all nodes j with an edge e_ji from node j to node
    i. h is a linear layer. eps is a learned number, which starts at 0.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.h = nn.Linear(dim, dim)
        self.eps = nn.Parameter(torch.zeros(()))

    def message(self, objects: Tensor, edges: Tensor) -> Tensor:
        return (objects + edges).relu()

    def update(self, nodes: Tensor, messages: Tensor) -> Tensor:
        updated: Tensor = self.h((1 + self.eps) * nodes + messages)
        return updated


class CGConvLayer(GraphLayer):
    """The graph convolution CGConv (Xie and Grossman 2018), as the ST-SGN paper changes it: x_i' = x_i + sum over j of
    sigmoid(W_f z) softplus(W_s z), with z = [x_j, e_ji].

    x_i is the vector of node i, with `dim` numbers. The sum is over all nodes j with an edge e_ji to node i. W_f and
    W_s are linear layers. In the original, z also has x_i.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * dim, dim)
        self.core = nn.Linear(2 * dim, dim)

    def message(self, objects: Tensor, edges: Tensor) -> Tensor:
        z = torch.cat([objects, edges], -1)
        carried: Tensor = self.gate(z).sigmoid() * F.softplus(self.core(z))
        return carried


class NNConvLayer(GraphLayer):
    """The graph convolution NNConv (Gilmer et al. 2017, arXiv 1704.01212) with diagonal matrices: x_i' = x_i + sum over
    j of x_j * h(e_ji), with an element-wise product.

    x_i is the vector of node i, with `dim` numbers. The sum is over all nodes j with an edge e_ji to node i. h is a
    linear layer. If `activate` is true, a ReLU follows h.
    """

    def __init__(self, dim: int, activate: bool) -> None:
        super().__init__()
        self.h = nn.Linear(dim, dim)
        self.activate = activate

    def message(self, objects: Tensor, edges: Tensor) -> Tensor:
        weights: Tensor = self.h(edges)
        return objects * (weights.relu() if self.activate else weights)


def _layer(dim: int, options: StSgnOptions) -> GraphLayer:
    if options.layer == "gine":
        return GineLayer(dim)
    return CGConvLayer(dim) if options.layer == "cgconv" else NNConvLayer(dim, options.activate_edges)


def _sequence(dim: int, num_classes: int, options: SequenceOptions) -> SliceClassifier:
    if options.reducer == "bigru" and options.hidden % 2:
        raise HeadError(
            f"hidden: given {options.hidden}, allowed with `reducer: bigru`: even numbers, half for each way."
        )
    return SliceClassifier(
        dim,
        num_classes,
        reducer=options.reducer,
        hidden=options.hidden,
        dropout=options.dropout,
        slice_seconds=options.slice_seconds,
    )


def _num_relations(spec: Spec) -> int:
    if absent := [name for name in GRAPHS if name not in spec]:
        raise missing_arrays(absent, spec)
    return spec[RELATIONS][-1]
