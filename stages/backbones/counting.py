"""Counts the parameters and multiplications of a backbone as papers count them."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.stages.backbones.build import untrained
from kinegraph.stages.backbones.entry import BackboneEntry


def count(backbone: BackboneEntry, **options: int | str) -> tuple[int, float]:
    """Returns (number of parameters, billions of multiplications (GMACs) for one clip) of a backbone with its
    classifier.

    `backbone.counts` has the size of the clip and the number of classes of the classifier. Multiplications of
    convolutions, linear layers and attention are counted, but not those of norms, pools and activations.
    """
    form = backbone.counts
    assert form is not None
    pooled = form.pooled or (backbone.taps[-1].name,)
    with torch.device("meta"):
        classifier = _classifier([sum(backbone.tap(name).channels for name in pooled), *form.hidden], form.num_classes)
        network = untrained(backbone.name, **options).eval()
        clip = torch.empty(1, 3, form.num_frames, form.size, form.size)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            maps = network(clip)
            classifier(torch.cat([maps[name].mean((2, 3, 4)) for name in pooled], 1))
    num_params = sum(parameter.numel() for module in (network, classifier) for parameter in module.parameters())
    return num_params, counter.get_total_flops() / 2e9


def _classifier(widths: Sequence[int], num_classes: int) -> nn.Module:
    """Returns linear layers for `widths` channels, each without a bias, and the last layer, for `num_classes` classes.
    Returns the identity if there are no classes.
    """
    if not num_classes:
        return nn.Identity()
    hidden = [nn.Linear(*pair, bias=False) for pair in pairwise(widths)]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], num_classes))
