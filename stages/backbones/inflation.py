"""2D weights for 3D networks (Carreira and Zisserman 2017, arXiv 1705.07750, section 2.4)."""

import re
from collections.abc import Mapping

from torch import Size, Tensor, nn

NEW = ".after."  # blocks that a 2D network does not have


def inflate(network: nn.Module, flat: Mapping[str, Tensor]) -> None:
    """Fill a network of the ResNet-3D family, or TSM, in place, from the state of torchvision's 2D ResNet of its depth.

    A kernel of t frames is the 2D kernel t times over t, so that a still clip gives, away from the zeros beyond its
    ends, what its frame gives in 2D. Non-local blocks stay as they are but for their last gain: 0, the identity.
    """
    ours = {re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", name): x for name, x in flat.items()}
    ours |= flat  # TSM keeps the names and shapes of the 2D network
    state = network.state_dict()
    for name, like in state.items():
        if NEW not in name:
            state[name] = repeated(ours[name], like.shape)
        elif name.endswith("norm.weight"):
            state[name] = like * 0
    network.load_state_dict(state)


def repeated(flat: Tensor, shape: Size) -> Tensor:
    """[O, I, h, w] -> `shape` [O, I, t, h, w], its sum over t the same; other tensors as they are."""
    if flat.ndim == len(shape):
        return flat
    return flat.unsqueeze(2).expand(shape) / shape[2]
