"""From a backbone's name to the frozen network: one line per backbone in BUILDERS, its facts in the catalogue."""

import logging
from collections.abc import Callable, Sequence

import torch
from torchvision import models

from stages.backbones.backbone import Backbone
from stages.backbones.catalogue import entry
from stages.backbones.geometry import differences
from stages.backbones.i3d import I3DResNet50
from stages.backbones.resnet2d import ResNet2D
from stages.backbones.tiny_i3d import TinyI3D
from stages.weights.load import load_weights
from stages.weights.sources import WeightSource, known_source

log = logging.getLogger("kinegraph")

BUILDERS: dict[str, Callable[[], Backbone]] = {
    "resnet18": lambda: ResNet2D(models.resnet18()),
    "resnet34": lambda: ResNet2D(models.resnet34()),
    "resnet50": lambda: ResNet2D(models.resnet50()),
    "resnet101": lambda: ResNet2D(models.resnet101()),
    "i3d_r50": I3DResNet50,
    "tiny_i3d": TinyI3D,
}


def build_backbone(model: str, weights: str, taps: Sequence[str]) -> Backbone:
    """The network up to the highest of `taps`, frozen, in eval mode, on the CPU in float32.

    weights: a name from the entry's `weights`, a local file, or `random:<seed>`. A file's classifier
    and its layers above the cut are left out; all its other keys must be used.

    Raises ValueError if there is no such backbone or tap, WeightsError if the weights cannot be had or do not belong.
    """
    known = entry(model)
    for tap in taps:
        known.tap(tap)
    with torch.random.fork_rng(devices=[]):  # constructors draw weights that are replaced below
        network = BUILDERS[model]()
    everything = network.state_dict().keys()
    network.cut(taps)
    above = everything - network.state_dict().keys()
    load_weights(network, weights, known.weights, above.__contains__, model=model)
    _log_other_geometry(network, model, known_source(weights, known.weights))
    return network.eval().requires_grad_(False)


def _log_other_geometry(network: Backbone, model: str, source: WeightSource | None) -> None:
    """Weights that fit a network of other strides give other features than the published ones."""
    if source is not None and (found := differences(network, source.geometry)):
        log.info("%s: %s was trained with %s", model, source.file_name, ", ".join(found))
