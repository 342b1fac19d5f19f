"""A tiny network with class tokens: tiny_i3d, whose class token is the mean of its maps over the clip."""

from dataclasses import replace

from torch import Tensor

from kinegraph.cache_schemas.arrays import CLASS_SUFFIX
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.catalogue import CATALOGUE

TINY = CATALOGUE["tiny_i3d"]
ENTRY = replace(TINY, taps=tuple(replace(tap, class_token="clip") for tap in TINY.taps))


def run(network: Backbone, x: Tensor) -> dict[str, Tensor]:
    """Replaces `TinyI3D.run`."""
    maps = Backbone.run(network, x)
    tokens = {f"{tap}{CLASS_SUFFIX}": maps[tap].mean((2, 3, 4))[:, None] for tap in network.taps}
    return maps | (tokens if network.wants_class_tokens else {})
