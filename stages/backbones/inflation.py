"""Makes the weights of 3D networks from the weights of 2D networks.

The method is that of Carreira and Zisserman 2017, arXiv 1705.07750, section 2.4.
"""

import re
from collections.abc import Mapping

from torch import Size, Tensor, nn

NEW = ".after."  # part of the names of blocks that a 2D network does not have


def inflate(network: nn.Module, flat: Mapping[str, Tensor]) -> None:
    """Fills the 3D `network` with weights that are made from the weights of a 2D network. `network` is a ResNet-3D or a
    TSM.

    `flat` is the state dict of torchvision's 2D ResNet with the same depth. A 3D kernel of t frames is the 2D kernel
    repeated t times and divided by t. So a clip of equal frames has the same maps as one frame in the 2D network,
    except near the ends of the clip. New non-local blocks return their input.
    """
    ours = {re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", name): x for name, x in flat.items()}
    ours |= flat  # TSM has the names and shapes of the 2D network
    state = network.state_dict()
    for name, like in state.items():
        if NEW not in name:
            state[name] = repeat_kernels(ours[name], like.shape)
        elif name.endswith("norm.weight"):
            state[name] = like * 0
    network.load_state_dict(state)


def repeat_kernels(flat: Tensor, shape: Size) -> Tensor:
    """Returns 3D kernels [O, I, t, h, w], made from the 2D kernels `flat` [O, I, h, w], for O outputs and I inputs.
    Each 2D kernel is repeated t times and divided by t. `shape` is the shape of the result.

    A tensor that already has as many axes as `shape` is returned unchanged.
    """
    if flat.ndim == len(shape):
        return flat
    return flat.unsqueeze(2).expand(shape) / shape[2]
