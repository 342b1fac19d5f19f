"""Decides how frames become a backbone's input, and how pixels are normalised, by what the weights expect.

Torch-free.
"""

from dataclasses import replace

from kinegraph.cache_schemas.crops import Framing
from kinegraph.stages.backbones.catalogue import entry, owner
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.weights.sources import Pixels, known_source


def own_pixels(backbone: BackboneEntry) -> Pixels:
    """Returns the usual normalisation of the network, for weights of which nothing is known."""
    return Pixels(mean=backbone.mean, std=backbone.std)


def pixels_of(options: BackboneOptions) -> Pixels:
    """Returns the normalisation of a backbone entry's pixels.

    `mean`, `std` and `channel_order` are those of the options. Values that the options leave open are those of the
    weights, else those of the network. For inflated weights, the values of the 2D network count.
    """
    backbone, weights = owner(entry(options.model), options.weights)
    source = known_source(weights, backbone.weights)
    pixels = source.pixels if source is not None and source.pixels is not None else own_pixels(backbone)
    given = options.model_dump(include={"mean", "std", "channel_order"}, exclude_none=True)
    return replace(pixels, **given)


def framing_of(options: BackboneOptions, backbone: BackboneEntry) -> Framing:
    """Returns the framing: `size`, `resize_short` and `resize` of the options.

    Values left open are as the weights were tested. The weights' framing counts only as a whole. With another `size`,
    crops are cut first, as for unknown weights.
    """
    source = known_source(options.weights, backbone.weights)
    tested = source.framing if source is not None else None
    short = options.resize_short
    if short == "auto":
        as_tested = tested is not None and options.size in (None, tested.size)
        short = tested.resize_short if tested is not None and as_tested else None
    own_size = backbone.size if tested is None or short is None else tested.size
    resize = options.resize
    if resize == "auto":
        resize = "pillow" if tested is None or short is None else tested.resize
    return Framing(size=options.size or own_size, resize_short=short, resize=resize)
