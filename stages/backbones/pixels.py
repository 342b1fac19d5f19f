"""What a backbone entry's pixels are normalised by: what its weights expect. Torch-free."""

from dataclasses import replace

from stages.backbones.catalogue import entry, owner
from stages.backbones.entry import BackboneEntry
from stages.backbones.options import BackboneOptions
from stages.weights.sources import Pixels, known_source


def own_pixels(known: BackboneEntry) -> Pixels:
    """Those that are usual for the network, for weights of which nothing is known."""
    return Pixels(mean=known.mean, std=known.std)


def pixels_of(options: BackboneOptions) -> Pixels:
    """The options' own `mean`, `std` and `channel_order`, else those of the weights, else those of the network.

    Inflated weights are those of the 2D network.
    """
    known, weights = owner(entry(options.model), options.weights)
    source = known_source(weights, known.weights)
    found = source.pixels if source is not None and source.pixels is not None else own_pixels(known)
    given = options.model_dump(include={"mean", "std", "channel_order"}, exclude_none=True)
    return replace(found, **given)
