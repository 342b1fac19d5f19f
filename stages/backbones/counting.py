"""Counts the parameters and multiplications of a backbone as papers count them."""

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
    last = backbone.taps[-1]
    with torch.device("meta"):
        classifier = nn.Linear(last.channels, form.num_classes) if form.num_classes else nn.Identity()
        network = untrained(backbone.name, **options).eval()
        clip = torch.empty(1, 3, form.num_frames, form.size, form.size)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            classifier(network(clip)[last.name].mean((2, 3, 4)))
    num_params = sum(parameter.numel() for module in (network, classifier) for parameter in module.parameters())
    return num_params, counter.get_total_flops() / 2e9
