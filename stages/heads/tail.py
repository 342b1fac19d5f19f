"""Builds the tail of a head: the part of the backbone above the cached tap, which is trained together with the head.
New blocks can be inserted into a tail.

Shapes: B clips, T frames, C channels, H rows and W columns of a map.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kinegraph.cache_schemas.documents import said
from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.entry import GEOMETRY, PAPER, BackboneEntry
from kinegraph.stages.backbones.norms import frozen_norms, norms_of
from kinegraph.stages.heads.head import FeatureSource, HeadError, Spec, TapOptions
from kinegraph.stages.heads.inputs import choose_source
from kinegraph.stages.heads.insertion import Shape, block_options, insert, is_inserted
from kinegraph.stages.heads.places import FAMILIES
from kinegraph.stages.heads.tail_options import TailOptions

MakeNetwork = Callable[[TailOptions], Backbone]


class Tail(nn.Module):
    """The part of a backbone above a cached tap. It computes the maps of its last tap from those of the cached tap.
    Maps are [B, T, C, H, W]: B clips, T time steps, C channels, H rows and W columns. All but B may differ between the
    two taps.

    `network` has the layers of this part. `read` is the cached tap and `given` is the last tap. `shape` is the shape
    (T, C, H, W) of the last tap's maps for one clip.

    `batch_norm` chooses the frozen batch norms. They stay in evaluation mode, and their gain and bias are not trained:

    frozen, statistics: all batch norms are frozen.
    partial: all are frozen except the first above the cached tap.
    train: none is frozen.
    """

    def __init__(
        self, network: Backbone, read: FeatureSource, given: FeatureSource, shape: Shape, batch_norm: str
    ) -> None:
        super().__init__()
        self.network, self.read, self.given, self.shape = network, read, given, shape
        self.frozen_norms = frozen_norms([path for path in norms_of(network) if not is_inserted(path)], batch_norm)
        for path in self.frozen_norms:
            network.get_submodule(path).requires_grad_(False)

    def train(self, mode: bool = True) -> "Tail":
        super().train(mode)
        for path in self.frozen_norms:
            self.network.get_submodule(path).eval()
        return self

    def forward(self, maps: Tensor) -> Tensor:
        weight = next(self.network.parameters())
        outputs: dict[str, Tensor] = self.network(maps.to(weight.dtype).transpose(1, 2))  # tap -> [B, C, T, H, W]
        return outputs[self.given.tap].transpose(1, 2)


def parse_tail(head_options: Mapping[str, Any]) -> TailOptions | None:
    """Returns the option `tail` in `head_options`, the options of a head, as checked TailOptions. The options of its
    blocks are filled in. Returns None if `head_options` has no tail.

    Raises HeadError if an option does not exist or has a wrong value. The message lists the allowed options or values.
    """
    given = head_options.get("tail")
    if given is None:
        return None
    if isinstance(given, dict):
        given = {"backbone": head_options.get("backbone")} | given
    try:
        tail = TailOptions.model_validate(given)
    except ValidationError as error:
        problems = [(".".join(["tail", *map(str, problem["loc"])]), problem) for problem in error.errors()]
        words = [f"{key}: {said(problem)} (given {problem['input']!r})" for key, problem in problems]
        raise HeadError(f"{'; '.join(words)}.") from error
    blocks = [block.model_copy(update={"options": block_options(block).model_dump()}) for block in tail.blocks]
    return tail.model_copy(update={"blocks": tuple(blocks)})


def tail_source(spec: Spec, options: TailOptions) -> FeatureSource:
    """Returns the FeatureSource (backbone and tap) whose cached maps are the input of a tail. A tail is the part of a
    backbone above a cached tap.

    `spec` has the shapes of the arrays in the cache. Raises HeadError if it has no maps, or if it has maps of several
    taps and `options` do not choose one.
    """
    return choose_source(spec, ["maps"], TapOptions(backbone=options.backbone, tap=options.from_tap))


def trained(options: TailOptions) -> Backbone:
    """Returns the Backbone that `options.model` names, from its input to its last tap, with the weights
    `options.weights`.

    Raises WeightsError if the checkpoint cannot be found or read. Raises HeadError if the model has no tail.
    """
    from kinegraph.stages.backbones.build import build_backbone  # imports torchvision

    model, geometry, weights = _network(options)
    return build_backbone(model, weights, [entry(model, geometry).taps[-1].name], **geometry)


def empty(options: TailOptions) -> Backbone:
    """Returns the whole backbone, from its input to its last tap, of which the tail `options` is the upper part. It has
    random weights. The caller loads weights into it.
    """
    from kinegraph.stages.backbones.build import untrained  # imports torchvision

    model, geometry, _ = _network(options)
    with torch.random.fork_rng(devices=[]):
        network = untrained(model, **entry(model, geometry).chosen)
    network.cut([network.levels[-1]])
    return network


def build_tail(spec: Spec, options: TailOptions, make: MakeNetwork) -> Tail:
    """Returns the Tail that `options` describe. A tail is the part of a backbone above the cached maps in `spec`.

    `make` returns the whole backbone, and this function cuts off the part up to the cached tap. New blocks that
    `options` insert into the tail get random weights from torch's global generator. Raises HeadError if the network
    cannot be a tail, or if the cached maps are not maps of that network. Raises HeadError also if a new block does not
    fit.
    """
    model, geometry, _ = _network(options)
    read = tail_source(spec, options)
    backbone = entry(model, geometry)
    shapes = _shapes_above(backbone, read, spec[read.maps])
    network = make(options)
    network.cut_below(read.tap)
    given = FeatureSource(read.backbone, backbone.taps[-1].name)
    insert(network, FAMILIES[model], options.blocks, shapes)
    return Tail(network.requires_grad_(True), read, given, shapes[given.tap], options.batch_norm)


def _network(options: TailOptions) -> tuple[str, dict[str, Any], str]:
    """Returns (name of the model, options of the model, weights) of the backbone that the tail is a part of.

    If the model has an option `geometry` that `options` does not set, the option is set to "paper". Raises HeadError if
    the model or the weights are missing, or if the model cannot be a tail.
    """
    if options.model is None or options.weights is None:
        raise HeadError(
            "tail: model and weights are missing: those of the backbone entry that made the maps. "
            "`kinegraph train` takes them from the cache."
        )
    if options.model not in FAMILIES:
        raise HeadError(f"tail: backbone {options.model} cannot be a tail; those that can are {', '.join(FAMILIES)}.")
    own = {GEOMETRY: PAPER} if GEOMETRY in entry(options.model).options else {}
    return options.model, own | dict(options.options or {}), options.weights


def _shapes_above(backbone: BackboneEntry, read: FeatureSource, cached: tuple[int, ...]) -> dict[str, Shape]:
    """Returns tap name -> shape (T, C, H, W) of the tap's maps, for all taps of `backbone` above the cached tap.

    `read` names the cached tap, and `cached` is the shape (T, C, H, W) of its cached maps. Raises HeadError if no tap
    is above the cached one, or if the cached maps do not fit the backbone.
    """
    names = [tap.name for tap in backbone.taps]
    if read.tap not in names[:-1]:
        raise HeadError(f"tail.from: given {read.tap!r}, allowed for {backbone.name}: {', '.join(names[:-1])}.")
    below = backbone.tap(read.tap)
    num_frames, channels, height, width = cached
    if channels != below.channels:
        raise HeadError(f"{read.maps} has {channels} channels, {read.tap} of {backbone.name} has {below.channels}.")
    above = backbone.taps[names.index(read.tap) + 1 :]
    try:
        return {tap.name: tap.shape_above(below, (num_frames, channels, height, width)) for tap in above}
    except ValueError as error:
        raise HeadError(f"tail: {read.maps} has {sentence(error)}") from error
