"""Builds the tail of a head. A tail has the layers of a backbone above a cached tap, and is trained together with the
head. New blocks can be inserted into a tail.

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
    """The layers of a backbone above a cached tap. `forward` maps the maps of the cached tap to the maps of the
    backbone's last tap, both [B, T, C, H, W].

    - `network`: the layers.
    - `cached_tap`: the cached tap.
    - `last_tap`: the last tap of the backbone.
    - `shape`: the shape (T, C, H, W) of the maps of the last tap for one clip.
    - `batch_norm`: which batch norms of the backbone are frozen. "frozen" and "statistics": all. "partial": all except
      the first above the cached tap. "train": none.
    """

    def __init__(
        self, network: Backbone, cached_tap: FeatureSource, last_tap: FeatureSource, shape: Shape, batch_norm: str
    ) -> None:
        super().__init__()
        self.network, self.cached_tap, self.last_tap, self.shape = network, cached_tap, last_tap, shape
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
        return outputs[self.last_tap.tap].transpose(1, 2)


def parse_tail(head_options: Mapping[str, Any]) -> TailOptions | None:
    """Checks the option `tail` of a head and returns it as TailOptions, with the options of inserted blocks filled in.
    Returns None if the head has no tail.

    `head_options` is {name of the option: value} of the head. Raises HeadError if an option of the tail does not exist
    or has a wrong value. The message lists the allowed options or values.
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
    """Returns the tap whose cached maps are the input of a tail, as a FeatureSource. A tail has the layers of a
    backbone above a cached tap.

    `spec` maps the name of each array of the cache to its shape for one clip. Raises HeadError if the cache has no maps
    of the tap, or if several taps fit `options`.
    """
    return choose_source(spec, ["maps"], TapOptions(backbone=options.backbone, tap=options.from_tap))


def trained_backbone(options: TailOptions) -> Backbone:
    """Returns the whole backbone `options.model`, from its input to its last tap, with the weights `options.weights`.

    Raises WeightsError if the checkpoint cannot be found or read. Raises HeadError if the layers of this backbone
    cannot be a tail.
    """
    from kinegraph.stages.backbones.build import build_backbone  # imports torchvision

    model, geometry, weights = _network(options)
    return build_backbone(model, weights, [entry(model, geometry).taps[-1].name], **geometry)


def random_backbone(options: TailOptions) -> Backbone:
    """Returns the whole backbone `options.model`, from its input to its last tap, with random weights. The caller loads
    weights into it.

    Raises HeadError if the layers of this backbone cannot be a tail.
    """
    from kinegraph.stages.backbones.build import untrained  # imports torchvision

    model, geometry, _ = _network(options)
    with torch.random.fork_rng(devices=[]):
        network = untrained(model, **entry(model, geometry).chosen)
    network.cut([network.levels[-1]])
    return network


def build_tail(spec: Spec, options: TailOptions, make: MakeNetwork) -> Tail:
    """Returns the Tail that `options` describe: the layers of a backbone above a cached tap. The options may insert new
    blocks, whose first weights are random.

    `spec` maps the name of each cached array to its shape for one clip. `make` is `trained_backbone` or
    `random_backbone`. Raises HeadError if the backbone cannot be a tail, or if the cached maps or a new block do not
    fit.
    """
    model, geometry, _ = _network(options)
    cached_tap = tail_source(spec, options)
    backbone = entry(model, geometry)
    shapes = _shapes_above(backbone, cached_tap, spec[cached_tap.maps])
    network = make(options)
    network.cut_below(cached_tap.tap)
    last_tap = FeatureSource(cached_tap.backbone, backbone.taps[-1].name)
    insert(network, FAMILIES[model], options.blocks, shapes)
    return Tail(network.requires_grad_(True), cached_tap, last_tap, shapes[last_tap.tap], options.batch_norm)


def _network(options: TailOptions) -> tuple[str, dict[str, Any], str]:
    """Returns (name of the model, options of the model, weights) of the backbone that has the layers of a tail.

    If the model has an option `geometry` and `options` do not set it, its value is "paper". Raises HeadError if the
    model or the weights are missing, or if the layers of this model cannot be a tail.
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


def _shapes_above(backbone: BackboneEntry, cached_tap: FeatureSource, cached: tuple[int, ...]) -> dict[str, Shape]:
    """Returns {name of the tap: shape (T, C, H, W) of its maps for one clip}, for all taps of `backbone` above the
    cached tap.

    `cached` is the shape (T, C, H, W) of the cached maps. Raises HeadError if no tap is above the cached tap, or if the
    cached maps do not fit the backbone.
    """
    names = [tap.name for tap in backbone.taps]
    if cached_tap.tap not in names[:-1]:
        raise HeadError(f"tail.from: given {cached_tap.tap!r}, allowed for {backbone.name}: {', '.join(names[:-1])}.")
    below = backbone.tap(cached_tap.tap)
    num_frames, channels, height, width = cached
    if channels != below.channels:
        raise HeadError(
            f"{cached_tap.maps} has {channels} channels, {cached_tap.tap} of {backbone.name} has {below.channels}."
        )
    above = backbone.taps[names.index(cached_tap.tap) + 1 :]
    try:
        return {tap.name: tap.shape_above(below, (num_frames, channels, height, width)) for tap in above}
    except ValueError as error:
        raise HeadError(f"tail: {cached_tap.maps} has {sentence(error)}") from error
