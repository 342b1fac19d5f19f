"""Counts the parameters and multiplications of a backbone in the way in which papers count them."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.cache_schemas.arrays import HEAD
from kinegraph.stages.backbones.build import untrained
from kinegraph.stages.backbones.entry import BackboneEntry


def count(backbone: BackboneEntry, **options: int | str) -> tuple[int, float]:
    """Returns (number of parameters, billions of multiplications for one clip) of a backbone with its classifier.

    `backbone.counts` has the size of the clip and the number of classes of the classifier. Multiplications of
    convolutions, linear layers and attention are counted. Those of norms, pools and activations are not counted.
    """
    form = backbone.counts
    assert form is not None
    last = backbone.taps[-1]
    with torch.device("meta"):
        channels = backbone.head_channels or last.channels
        classifier = nn.Linear(channels, form.num_classes) if form.num_classes else nn.Identity()
        network = untrained(backbone.name, **options).eval()
        network.want(class_tokens=False, head=backbone.head_channels is not None)
        clip = torch.empty(1, 3, form.num_frames, form.size, form.size)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            outputs = network(clip)
            classifier(outputs[HEAD] if HEAD in outputs else outputs[last.name].mean((2, 3, 4)))
    num_params = sum(parameter.numel() for module in (network, classifier) for parameter in module.parameters())
    return num_params, counter.get_total_flops() / 2e9
