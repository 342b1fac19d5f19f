"""Draws random weights for deep networks. With these weights, the size of the activations hardly changes from layer to
layer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from kinegraph.stages.backbones.non_local import NonLocal

BRANCH_GAIN, LINEAR_GAIN = 0.2, 0.5**0.5
# With these functions, layers of torch draw weights in their constructors. trunc_normal_ is not among them, because a
# mode cannot replace it as a whole. Without its draws it would never end.
DRAWS = frozenset({nn.init.kaiming_uniform_, nn.init.normal_, nn.init.uniform_})


class Undrawn(TorchFunctionMode):
    """A context in which the constructors of layers draw no random weights, so that a network is built in less time.
    The weights of the network are arbitrary until the caller loads a file into all of them.
    """

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def drawing(weights: str) -> AbstractContextManager[object]:
    """Returns a context manager for the construction of a network. In its `with` block, torch's global generator stays
    unchanged. `weights` is the config's value for the network's weights.

    For `random:<seed>` and `inflate:...`, the layers draw random weights. For all other weights, the layers draw
    nothing, which saves time. The caller must then load a file into the network.
    """
    stack = ExitStack()
    stack.enter_context(torch.random.fork_rng(devices=[]))
    if not weights.startswith(("random:", "inflate:")):
        stack.enter_context(Undrawn())
    return stack


def initialise(network: nn.Module, seed: int) -> None:
    """Fills `network` in place with random weights that depend on `seed` alone. torch's global generator stays
    unchanged.

    The weights are drawn as by He et al. 2015 (arXiv 1502.01852, eq. 10). Layers are drawn from bottom to top, so the
    weights of a layer do not depend on where the network is cut. A network with a method `draw` draws its own weights.
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
    """Fills `network` in place with the random weights that the function `build` draws. The weights depend on `seed`
    alone. torch's global generator stays unchanged.

    `build` returns a new network that has all tensors of `network`, under the same names.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = build().state_dict()
    network.load_state_dict({name: drawn[name] for name in network.state_dict()})


def _norms_before_no_relu(network: nn.Module) -> Iterator[tuple[Any, float]]:
    """Yields (norm, gain) for each norm that no ReLU follows directly: norms at the end of residual branches, shortcuts
    and linear projections. `gain` is the value to which the caller must set the gain of the norm.

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
