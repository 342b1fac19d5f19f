"""From a proposal network's name to the frozen network: one line each in PROPOSERS, facts in the catalogue."""

from collections.abc import Callable

import torch
from torch import nn
from torchvision.models import detection

from stages.proposals.catalogue import entry
from stages.proposals.rpn import RpnProposer
from stages.proposals.tiny_rpn import TinyPyramid, tiny_region_proposal_network
from stages.weights.load import load_weights


def _from_torchvision(model: str, pre_nms_top: int = 1000) -> RpnProposer:
    """Backbone, pyramid and RPN of a torchvision detector; `pre_nms_top` as in its own configuration."""
    detector = getattr(detection, model)(weights=None, weights_backbone=None)
    known = entry(model)
    return RpnProposer(detector.backbone, detector.rpn, known.mean, known.std, pre_nms_top)


def _fasterrcnn_resnet50_fpn() -> RpnProposer:
    """As published: trained with an epsilon of zero in the frozen norms, which torchvision sets for that file alone."""
    proposer = _from_torchvision("fasterrcnn_resnet50_fpn")
    for module in proposer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
    return proposer


def _tiny_rpn() -> RpnProposer:
    known = entry("tiny_rpn")
    return RpnProposer(TinyPyramid(), tiny_region_proposal_network(), known.mean, known.std, 50, 0.5)


PROPOSERS: dict[str, Callable[[], RpnProposer]] = {
    "fasterrcnn_resnet50_fpn": _fasterrcnn_resnet50_fpn,
    "fasterrcnn_resnet50_fpn_v2": lambda: _from_torchvision("fasterrcnn_resnet50_fpn_v2"),
    "fasterrcnn_mobilenet_v3_large_fpn": lambda: _from_torchvision("fasterrcnn_mobilenet_v3_large_fpn"),
    "fasterrcnn_mobilenet_v3_large_320_fpn": lambda: _from_torchvision(
        "fasterrcnn_mobilenet_v3_large_320_fpn", pre_nms_top=150
    ),
    "tiny_rpn": _tiny_rpn,
}


def build_proposer(model: str, weights: str) -> RpnProposer:
    """The network in eval mode, frozen, on the CPU in float32.

    weights: a name from the entry's `weights`, a local file, or `random:<seed>`. The second stage of a detector's
    file (`roi_heads.*`) is left out; all its other keys must be used.

    Raises ValueError if there is no such network, WeightsError if the weights cannot be had or do not belong.
    """
    known = entry(model)
    with torch.random.fork_rng(devices=[]):  # constructors draw weights that are replaced below
        proposer = PROPOSERS[model]()
    load_weights(proposer, weights, known.weights, lambda key: key.startswith("roi_heads."))
    if weights.startswith("random:"):
        with torch.no_grad():
            proposer.rpn.head.bbox_pred.weight.mul_(0.1)  # boxes near their anchors, or few survive suppression
    return proposer.eval().requires_grad_(False)
