"""Parameters and multiplications of a backbone, counted as in papers."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from stages.backbones.build import untrained
from stages.backbones.entry import BackboneEntry


def count(known: BackboneEntry) -> tuple[int, float]:
    """Number of parameters and GMACs for the input and with the classifier that `known.counts` names.

    Counted are the multiplications of convolutions, linear layers and attention products; norms, pools and
    activations are not. Nothing is computed: tensors have shapes only.
    """
    form = known.counts
    assert form is not None
    last = known.taps[-1].name
    with torch.device("meta"):
        network = untrained(known.name).eval()
        classifier = nn.Linear(known.taps[-1].channels, form.num_classes)
        clip = torch.empty(1, 3, form.num_frames, form.size, form.size)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            features = network(clip)[last].mean((2, 3, 4))
            if form.num_classes:
                classifier(features)
    parameters = [*network.parameters(), *(classifier.parameters() if form.num_classes else ())]
    return sum(parameter.numel() for parameter in parameters), counter.get_total_flops() / 2e9
