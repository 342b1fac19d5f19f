"""Defines BN-Inception (Ioffe and Szegedy 2015, arXiv 1502.03167), run on each frame of a clip.

Layers and parameter names are those of the public files for temporal segment networks (TSN, Wang et al. 2016, arXiv
1608.00859), for example `inception_3a_3x3_reduce.weight`.

Shapes: B clips, T frames, C channels, H rows and W columns of a map.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone, frame_by_frame

# Channels of: 1x1; 3x3 reduce, 3x3; double 3x3 reduce, both double 3x3; pool projection. 0 means that the block lacks
# this branch. Such a block halves the map, and one branch is its pooled input.
WIDTHS: dict[str, tuple[int, int, int, int, int, int]] = {
    "inception_3a": (64, 64, 64, 64, 96, 32),
    "inception_3b": (64, 64, 96, 64, 96, 64),
    "inception_3c": (0, 128, 160, 64, 96, 0),
    "inception_4a": (224, 64, 96, 96, 128, 128),
    "inception_4b": (192, 96, 128, 96, 128, 128),
    "inception_4c": (160, 128, 160, 128, 160, 128),
    "inception_4d": (96, 128, 192, 160, 192, 128),
    "inception_4e": (0, 128, 192, 192, 256, 0),
    "inception_5a": (352, 192, 320, 160, 224, 128),
    "inception_5b": (352, 192, 320, 192, 224, 128),
}
MAX_POOLED = "inception_5b"  # the pool of this block takes the maximum; other pools without stride take the mean


def _convolutions(tap: str, in_channels: int) -> dict[str, tuple[int, int, int, int]]:
    """Returns {name: (input channels, output channels, kernel size, stride)} of the convolutions of the Inception block
    `tap`.

    `in_channels` is the number of channels of the input of the block.
    """
    single, reduce, triple, double_reduce, double, pool = WIDTHS[tap]
    stride = 1 if single else 2
    convolutions = {
        "1x1": (in_channels, single, 1, 1),
        "3x3_reduce": (in_channels, reduce, 1, 1),
        "3x3": (reduce, triple, 3, stride),
        "double_3x3_reduce": (in_channels, double_reduce, 1, 1),
        "double_3x3_1": (double_reduce, double, 3, 1),
        "double_3x3_2": (double, double, 3, stride),
        "pool_proj": (in_channels, pool, 1, 1),
    }
    return {f"{tap}_{name}": sizes for name, sizes in convolutions.items() if sizes[1]}


def _all_branches() -> dict[str, tuple[int, ...]]:
    """Returns {Inception block: numbers of channels of its branches}. The branches are in the order in which the block
    joins them.
    """
    branches: dict[str, tuple[int, ...]] = {}
    in_channels = 192
    for tap, (single, _, triple, _, double, pool) in WIDTHS.items():
        branches[tap] = (single, triple, double, pool) if single else (triple, double, in_channels)
        in_channels = sum(branches[tap])
    return branches


BRANCHES = _all_branches()


def _all_convolutions() -> dict[str, dict[str, tuple[int, int, int, int]]]:
    """Returns all convolutions of the network: {tap: {name: (input channels, output channels, kernel size, stride)}}.

    The convolutions of a tap lie between the tap below and the tap itself. The convolutions of the lowest tap, `stem`,
    begin at the input of the network.
    """
    convolutions = {
        "stem": {"conv1_7x7_s2": (3, 64, 7, 2)},
        "conv2": {"conv2_3x3_reduce": (64, 64, 1, 1), "conv2_3x3": (64, 192, 3, 1)},
    }
    in_channels = 192
    for tap, branches in BRANCHES.items():
        convolutions[tap] = _convolutions(tap, in_channels)
        in_channels = sum(branches)
    return convolutions


CONVOLUTIONS = _all_convolutions()


def _submodules(tap: str) -> tuple[str, ...]:
    layers = tuple(f"{name}{norm}" for name in CONVOLUTIONS[tap] for norm in ("", "_bn"))
    return (*layers, f"{tap}_output") if tap in BRANCHES else layers


class Joined(nn.Module):
    """The last module of an Inception block, which joins the outputs of the branches along the channels.

    The joining is a module with a name of its own, so that users can insert another block after it.
    """

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """Joins the outputs of all branches of the Inception block along the channels. `branches` has one output [B*T,
        C_i, H, W] for each branch i, for T frames of B clips, H rows and W columns.

        Returns [B*T, C, H, W], where C is the sum of all C_i.
        """
        return torch.cat(list(branches), 1)


class BNInception(Backbone):
    """BN-Inception without its classifier.

    `stages` maps each tap to the submodules that compute it. The sides of the input should be multiples of 32 px. With
    other sides, the branches of a block that halves the map may have different sizes, which cannot be joined.
    """

    stages: ClassVar = {tap: _submodules(tap) for tap in CONVOLUTIONS}

    def __init__(self) -> None:
        super().__init__()
        for names in CONVOLUTIONS.values():
            for name, (in_channels, out_channels, kernel, stride) in names.items():
                self.add_module(name, nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2))
                self.add_module(f"{name}_bn", nn.BatchNorm2d(out_channels))
        for tap in BRANCHES:
            self.add_module(f"{tap}_output", Joined())

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Runs the network on each frame of B clips. Returns {tap: maps [B, C, T, H', W']} for each wanted tap (a named
        layer).

        `clips` are normalised pixels [B, 3, T, H, W].
        """
        return frame_by_frame(self.run, clips)

    def step(self, tap: str, x: Tensor) -> Tensor:
        """Returns the maps [B*T, C', H', W'] of the tap `tap`. `x` [B*T, C, H, W] are the maps of the tap below.

        The first axis has all T frames of all B clips. C and C' are numbers of channels. H and H' are rows, W and W'
        are columns.
        """
        if tap not in WIDTHS:
            return _halved(self._chain(x, *CONVOLUTIONS[tap]))
        joined: Tensor = self.get_submodule(f"{tap}_output")(self._branches(tap, x))
        return joined

    def _branches(self, tap: str, x: Tensor) -> list[Tensor]:
        three = self._chain(x, f"{tap}_3x3_reduce", f"{tap}_3x3")
        double = self._chain(x, f"{tap}_double_3x3_reduce", f"{tap}_double_3x3_1", f"{tap}_double_3x3_2")
        if f"{tap}_1x1" not in CONVOLUTIONS[tap]:
            return [three, double, _halved(x)]
        pool = F.max_pool2d if tap == MAX_POOLED else F.avg_pool2d
        pooled = self._chain(pool(x, 3, stride=1, padding=1), f"{tap}_pool_proj")
        return [self._chain(x, f"{tap}_1x1"), three, double, pooled]

    def _chain(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))
        return x


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)
