"""Decides how frames become the input of a backbone: its size, the resizing, and the normalisation of pixels.

The options of the config come first, then what the weights expect. Imports no torch.
"""

from dataclasses import replace

from kinegraph.cache_schemas.crops import Framing
from kinegraph.stages.backbones.catalogue import entry, owner
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.weights.sources import Pixels, known_source


def own_pixels(backbone: BackboneEntry) -> Pixels:
    """Returns the normalisation of input pixels that the catalogue states for the network `backbone`. Weights whose own
    normalisation is not known need this normalisation.
    """
    return Pixels(mean=backbone.mean, std=backbone.std)


def pixels_of(options: BackboneOptions) -> Pixels:
    """Returns the normalisation of input pixels for a backbone of the config: mean, standard deviation and order of
    channels.

    A value that `options` sets is used. Any other value is the one with which the weights were trained, if it is known,
    or else the one of the catalogue.
    """
    backbone, weights = owner(entry(options.model), options.weights)
    source = known_source(weights, backbone.weights)
    pixels = source.pixels if source is not None and source.pixels is not None else own_pixels(backbone)
    given = options.model_dump(include={"mean", "std", "channel_order"}, exclude_none=True)
    return replace(pixels, **given)


def framing_of(options: BackboneOptions, backbone: BackboneEntry) -> Framing:
    """Returns the Framing of a backbone: how frames are resized and cut. `options` is the backbone's entry in the
    config, and `backbone` its description in the catalogue.

    A value that `options` sets is used. Any other value is the one with which the weights were tested. If the test is
    not known, or had another `size`, the crop is cut out of the frame before it is resized, and Pillow resizes it.
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
        is_squeezed = tested is not None and tested.resize_short is None and options.size in (None, tested.size)
        resize = "pillow" if tested is None or (short is None and not is_squeezed) else tested.resize
    return Framing(size=options.size or own_size, resize_short=short, resize=resize)
