"""Builds a frozen proposal network from its name.

PROPOSERS has one line per network. The catalogue has the facts that need no torch.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import detection

from kinegraph.cache_schemas.words import sentence
from kinegraph.stages.errors import WeightsError
from kinegraph.stages.proposals.catalogue import entry
from kinegraph.stages.proposals.detectron2_rpn import (
    CELL_ANCHORS,
    RESNET50,
    Block,
    Detectron2Proposer,
    Widths,
    buffers_of_old_files,
)
from kinegraph.stages.proposals.rpn import RpnProposer
from kinegraph.stages.proposals.tiny_rpn import TinyPyramid, tiny_region_proposal_network
from kinegraph.stages.weights.load import load_weights, locate, read_known
from kinegraph.stages.weights.random import BRANCH_GAIN, LINEAR_GAIN, drawing
from kinegraph.stages.weights.sources import known_source

BRIGHTNESS_STD = 64.0  # rough standard deviation of pixels in 0..255


def _from_torchvision(model: str, pre_nms_top: int = 1000) -> RpnProposer:
    """Returns the proposal network of the torchvision detector `model`, untrained: its backbone, feature pyramid and
    RPN.

    `pre_nms_top` is the number of candidates of each pyramid level that enter non-maximum suppression.
    """
    detector = getattr(detection, model)(weights=None, weights_backbone=None)
    network = entry(model)
    return RpnProposer(
        detector.backbone, detector.rpn, network.mean, network.std, pre_nms_top, score_threshold=network.score_threshold
    )


def _fasterrcnn_resnet50_fpn(weights: str) -> RpnProposer:
    """Returns the proposal network of torchvision's Faster R-CNN with a ResNet-50, untrained.

    If `weights` names published weights, the epsilon of the batch norms is almost 0, as it was in the training of these
    weights.
    """
    model = "fasterrcnn_resnet50_fpn"
    proposer = _from_torchvision(model)
    if known_source(weights, entry(model).weights) is not None:
        for module in proposer.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = torch.finfo(torch.float32).tiny  # too small to matter; torch 2.11 refuses a plain zero
    return proposer


def tiny_rpn() -> RpnProposer:
    """Returns the proposal network of the demo, untrained."""
    network = entry("tiny_rpn")
    return RpnProposer(TinyPyramid(), tiny_region_proposal_network(), network.mean, network.std, 50, 0.5)


def _detectron2_fpn(weights: str) -> Detectron2Proposer:
    """Returns detectron2's proposal network, untrained, with the channels and blocks of the network in the file
    `weights`. If `weights` is `random:<seed>`, the network has a ResNet-50.

    Raises WeightsError if the file has another kind of network, or if its network was trained with other anchors or
    another normalisation of pixels.
    """
    network = entry("detectron2_fpn")
    if weights.startswith("random:"):
        return Detectron2Proposer(RESNET50, network.mean, network.std)
    path = locate(weights, network.weights)
    state = read_known(path, known_source(weights, network.weights))
    widths = _widths(path, state)
    _check_old_buffers(path, state, buffers_of_old_files(network.mean, network.std))
    return Detectron2Proposer(widths, network.mean, network.std)


def _calibrate(proposer: Detectron2Proposer) -> None:
    """Sets the gains of the norms in a proposal network with random weights, so that its maps have neither tiny nor
    huge values.
    """
    stem = proposer.backbone.bottom_up.stem.conv1.norm
    stem.weight.fill_(1 / BRIGHTNESS_STD)
    for block in proposer.modules():
        if isinstance(block, Block):
            block.conv3.norm.weight.fill_(BRANCH_GAIN)
            if block.shortcut is not None:
                block.shortcut.norm.weight.fill_(LINEAR_GAIN)


def _widths(path: Path, state: Mapping[str, Tensor]) -> Widths:
    try:
        return Widths.of(state)
    except KeyError as error:
        raise WeightsError(
            f"{path}: has no {sentence(error)} Expected a file of detectron2 for a ResNet with bottlenecks and FPN "
            f"(rpn_R_50_FPN, faster_rcnn_R_101_FPN, ...); its first tensors are {', '.join([*state][:3])}"
        ) from error


def _check_old_buffers(path: Path, state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Raises WeightsError if the network in the file `path` was trained with another normalisation of pixels, or with
    other anchors, than those of kinegraph's network.

    `state` has the tensors of the file. Older detectron2 files have the normalisation and the anchors under the keys in
    OLD_BUFFERS, and `ours` has kinegraph's values under these keys. A file without these keys is accepted, because it
    does not show how the network was trained.
    """
    for key in (key for key in state if key.startswith(OLD_BUFFERS)):
        theirs, own = state[key].flatten().float(), ours.get(key, torch.empty(0)).flatten()
        if theirs.shape != own.shape or not torch.allclose(theirs, own, rtol=0, atol=1e-3):
            seen, expected = ([float(f"{x:.6g}") for x in values.tolist()] for values in (theirs, own))
            raise WeightsError(
                f"{path}: was trained with {key} {seen}, this network has {expected} and would give wrong boxes. "
                "Run the file by `source: detectron2` with the config that it was trained with."
            )


Proposer = RpnProposer | Detectron2Proposer
PROPOSERS: dict[str, Callable[[str], Proposer]] = {
    "fasterrcnn_resnet50_fpn": _fasterrcnn_resnet50_fpn,
    "fasterrcnn_resnet50_fpn_v2": lambda weights: _from_torchvision("fasterrcnn_resnet50_fpn_v2"),
    "fasterrcnn_mobilenet_v3_large_fpn": lambda weights: _from_torchvision("fasterrcnn_mobilenet_v3_large_fpn"),
    "fasterrcnn_mobilenet_v3_large_320_fpn": lambda weights: _from_torchvision(
        "fasterrcnn_mobilenet_v3_large_320_fpn", pre_nms_top=150
    ),
    "detectron2_fpn": _detectron2_fpn,
    "tiny_rpn": lambda weights: tiny_rpn(),
}
# Keys of older files of detectron2. The config decides these values now.
OLD_BUFFERS = ("pixel_mean", "pixel_std", CELL_ANCHORS)
IGNORED = ("roi_heads.", *OLD_BUFFERS)  # prefixes of keys to leave out: a detector's second stage, and OLD_BUFFERS


def build_proposer(model: str, weights: str) -> Proposer:
    """Returns the proposal network `model`, frozen, in evaluation mode, on the CPU, in float32.

    `weights` is a name of the catalogue, a local file, or `random:<seed>`. Tensors whose names begin with one of
    IGNORED are not loaded. Raises ValueError if there is no such network. Raises WeightsError if the weights cannot be
    read, or if a tensor does not belong to the network.
    """
    network = entry(model)
    with drawing(weights):
        proposer = PROPOSERS[model](weights)
    load_weights(proposer, weights, network.weights, lambda key: key.startswith(IGNORED))
    if weights.startswith("random:"):
        with torch.no_grad():
            proposer.box_deltas.weight.mul_(0.1)  # keeps boxes near their anchors; otherwise few survive suppression
            if isinstance(proposer, Detectron2Proposer):
                _calibrate(proposer)
    return proposer.eval().requires_grad_(False)
