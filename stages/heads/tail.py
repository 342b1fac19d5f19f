"""The tail: a backbone's part above the cached tap, trainable, with blocks of the papers inside.

B clips, T frames, C channels, H, W.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import build_backbone, untrained
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.entry import GEOMETRY, PAPER, BackboneEntry
from kinegraph.stages.heads.head import FeatureSource, HeadError, Spec, TapOptions
from kinegraph.stages.heads.inputs import choose_source
from kinegraph.stages.heads.insertion import Shape, block_options, insert, is_inserted
from kinegraph.stages.heads.places import FAMILIES
from kinegraph.stages.heads.tail_options import TailOptions

NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
MakeNetwork = Callable[[TailOptions], Backbone]


class Tail(nn.Module):
    """Maps [B, T, C, H, W] of the cached tap -> maps of the network's last tap.

    `read` and `given` name the two taps. `shape` is the shape of the last tap's maps for one clip. Frozen norms stay in
    evaluation mode, and their gain and bias get no gradient.
    """

    def __init__(
        self, network: Backbone, read: FeatureSource, given: FeatureSource, shape: Shape, batch_norm: str
    ) -> None:
        super().__init__()
        self.network, self.read, self.given, self.shape = network, read, given, shape
        self.frozen_norms = _frozen(network, batch_norm)
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
    """Returns the option `tail` of a head, checked, with the options of its blocks completed.

    Returns None without a tail. Raises HeadError with the allowed options or values.
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
        words = [f"{key}: {problem['msg']} (given {problem['input']!r})" for key, problem in problems]
        raise HeadError(f"{'; '.join(words)}.") from error
    blocks = [block.model_copy(update={"options": block_options(block).model_dump()}) for block in tail.blocks]
    return tail.model_copy(update={"blocks": tuple(blocks)})


def tail_source(spec: Spec, options: TailOptions) -> FeatureSource:
    """Returns the cached maps that a tail starts from. Raises HeadError where there are no such maps, or several."""
    return choose_source(spec, ["maps"], TapOptions(backbone=options.backbone, tap=options.from_tap))


def trained(options: TailOptions) -> Backbone:
    """Returns the whole network with the checkpoint's weights. Raises WeightsError."""
    model, geometry, weights = _network(options)
    return build_backbone(model, weights, [entry(model, geometry).taps[-1].name], **geometry)


def empty(options: TailOptions) -> Backbone:
    """Returns the whole network for weights that a run has stored."""
    model, geometry, _ = _network(options)
    with torch.random.fork_rng(devices=[]):
        network = untrained(model, **entry(model, geometry).chosen)
    network.cut([network.levels[-1]])
    return network


def build_tail(spec: Spec, options: TailOptions, make: MakeNetwork) -> Tail:
    """Returns the tail of `options` above the cached maps in `spec`.

    The blocks of the tail get weights from torch's global generator. Raises HeadError for a network that has no tail,
    maps that are not of that network, and blocks that do not fit.
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


def _frozen(network: nn.Module, batch_norm: str) -> list[str]:
    """Returns the paths of the backbone's norms that are not trained.

    "Partial" is the rule of TSN (Wang et al. 2016, arXiv 1608.00859, section 3.2), except that the very first norm lies
    below the cached tap. Norms are named by paths, because training on several devices replaces the modules.
    """
    norms = [path for path, x in network.named_modules() if isinstance(x, NORMS) and not is_inserted(path)]
    return {"frozen": norms, "partial": norms[1:], "train": []}[batch_norm]


def _network(options: TailOptions) -> tuple[str, dict[str, int | str], str]:
    """Returns model, options and weights of the backbone.

    Options are those that differ from the paper's network, as in a cache.
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
    """Returns tap -> (T, C, H, W) of the taps above the cached tap."""
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
