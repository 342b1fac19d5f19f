"""Draws random weights for deep networks, with which the size of the activations hardly changes from layer to layer."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from kinegraph.stages.backbones.non_local import NonLocal

BRANCH_GAIN, LINEAR_GAIN = 0.2, 0.5**0.5


def initialise(network: nn.Module, seed: int) -> None:
    """Fills `network` with random weights, drawn from `seed`, in place. torch's global generator stays unchanged.

    With these weights, the size of the activations hardly changes with depth. They are drawn as by He et al. 2015
    (arXiv 1502.01852, eq. 10), from the bottom layer to the top. So the weights of a layer do not depend on where the
    network is cut. A network with a method `draw` draws its own weights.
    """
    draw = getattr(network, "draw", None)
    if draw is not None:
        draw(seed)
        return
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.reset_parameters()
    # Otherwise each residual branch would add twice the mean square of its input, and the 33 blocks of a ResNet-101
    # would overflow float16. With these gains a block multiplies the mean square by only 1 + 2 BRANCH_GAIN^2, and
    # shortcuts and linear projections, which no ReLU follows, keep it.
    for norm, gain in _norms_before_no_relu(network):
        nn.init.constant_(norm.weight, gain)


def draw_as_built(network: nn.Module, seed: int, build: Callable[[], nn.Module]) -> None:
    """Fills `network` with random weights, in place: those of the network that `build` makes. They depend on `seed`
    alone. torch's global generator stays unchanged.

    The network that `build` makes has all tensors of `network`, under the same names.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = build().state_dict()
    network.load_state_dict({name: drawn[name] for name in network.state_dict()})


def _norms_before_no_relu(network: nn.Module) -> Iterator[tuple[Any, float]]:
    """Yields (norm, gain) for each norm that no ReLU follows directly: the norms at the end of residual branches,
    shortcuts and linear projections. `gain` is the value to which the gain of the norm has to be set.

    The blocks of `network` must have torchvision's names.
    """
    module: Any
    for module in network.modules():
        if isinstance(module, NonLocal):
            yield module.norm, BRANCH_GAIN
        elif hasattr(module, "downsample"):
            yield _last_norm(module), BRANCH_GAIN
            if module.downsample is not None:
                yield module.downsample[1], LINEAR_GAIN
        elif hasattr(module, "use_res_connect"):  # torchvision's InvertedResidual of MobileNetV3
            yield module.block[-1][1], BRANCH_GAIN if module.use_res_connect else LINEAR_GAIN


def _last_norm(block: Any) -> Any:
    """Returns the last norm in the branch of a residual block.

    In torchvision's video networks, this norm is the second module of `conv2`. In other networks it is `bn3`, or `bn2`
    if the block has no `bn3`.
    """
    if isinstance(block.conv2, nn.Sequential):
        return block.conv2[1]
    return block.bn3 if hasattr(block, "bn3") else block.bn2
