"""Defines the Inception I3D of temporal action localisation (Carreira and Zisserman 2017, arXiv 1705.07750), for RGB
and for optical flow.

Layers and parameter names are those of the public files of pytorch-i3d, for example `Mixed_3b.b1b.conv3d.weight`.

Shapes: B clips, T frames, C channels, H rows and W columns of a map.
"""

from collections import OrderedDict
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone

# Channels of: 1x1x1; 3x3x3 reduce, 3x3x3; second 3x3x3 reduce, second 3x3x3; pool projection.
WIDTHS: dict[str, tuple[int, int, int, int, int, int]] = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
NORM_EPSILON = 1e-3  # of the network as trained


def same_padding(length: int, kernel: int, stride: int) -> int:
    """Returns how many cells TensorFlow's padding "SAME" adds to an axis of `length` cells. A layer with this `kernel`
    and `stride` then has ceil(length / stride) outputs.

    Half of the added cells, rounded down, stand before the first cell. The others stand after the last cell.
    """
    return max(kernel - (length % stride or stride), 0)


class SameConv3d(nn.Conv3d):
    """A convolution whose padding depends on the size of its input, as TensorFlow's "SAME" does."""

    def forward(self, x: Tensor) -> Tensor:
        """Applies the convolution to the maps `x` [B, C, T, H, W]. Returns [B, C', T', H', W'].

        T', H' and W' are T, H and W, divided by the stride and rounded up. C' is the number of output channels.
        """
        totals = _totals(x.shape, self.kernel_size, self.stride)
        if all(total % 2 == 0 for total in totals):
            return F.conv3d(x, self.weight, self.bias, self.stride, [total // 2 for total in totals])
        ends = [end for total in reversed(totals) for end in (total // 2, total - total // 2)]
        return F.conv3d(F.pad(x, ends), self.weight, self.bias, self.stride)


class SameMaxPool3d(nn.Module):
    """A max pool whose padding depends on the size of its input, as TensorFlow's "SAME" does. `kernel` and `stride` are
    (time steps, rows, columns). Padded cells are never the maximum.
    """

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Applies the max pool to the maps `x` [B, C, T, H, W]. Returns [B, C, T', H', W'] in the type of `x`, also
        under autocast.

        T', H' and W' are T, H and W, divided by the stride and rounded up.
        """
        before = [total // 2 for total in _totals(x.shape, self.kernel, self.stride)]
        # The last window may be cut off (ceil_mode). Autocast computes F.max_pool3d in float32, but not this function,
        # which takes the same maxima.
        pooled, _ = F.max_pool3d_with_indices(x, self.kernel, self.stride, before, ceil_mode=True)
        return pooled


def _totals(shape: Size, kernel: tuple[int, ...], stride: tuple[int, ...]) -> list[int]:
    return [same_padding(*axis) for axis in zip(shape[2:], kernel, stride, strict=True)]


class Mixed(nn.Module):
    """An Inception block of four branches, for maps with `in_channels` channels.

    `widths` are the numbers of output channels of its six convolutions. The comment at WIDTHS states their order.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        single, reduce, triple, second_reduce, second, pool = widths
        self.b0 = _unit(in_channels, single)
        self.b1a, self.b1b = _unit(in_channels, reduce), _unit(reduce, triple, 3)
        self.b2a, self.b2b = _unit(in_channels, second_reduce), _unit(second_reduce, second, 3)
        self.b3a, self.b3b = SameMaxPool3d((3, 3, 3), (1, 1, 1)), _unit(in_channels, pool)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the four branches on `x` [B, C, T, H, W] and joins their outputs along the channels. Returns [B, C', T,
        H, W], for B clips, C and C' channels, T frames, H rows and W columns.
        """
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, 1)


class InceptionI3D(Backbone):
    """Inception I3D without its classifier, for RGB. The network takes any number of frames of any size."""

    stages: ClassVar = {
        "conv3d_1a": ("Conv3d_1a_7x7",),
        "conv3d_2b": ("MaxPool3d_2a_3x3", "Conv3d_2b_1x1"),
        "conv3d_2c": ("Conv3d_2c_3x3",),
        **{tap: (tap.capitalize(),) for tap in WIDTHS},
        "mixed_3b": ("MaxPool3d_3a_3x3", "Mixed_3b"),
        "mixed_4b": ("MaxPool3d_4a_3x3", "Mixed_4b"),
        "mixed_5b": ("MaxPool3d_5a_2x2", "Mixed_5b"),
    }

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _unit(3, 64, 7, stride=2)
        self.MaxPool3d_2a_3x3 = SameMaxPool3d((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = _unit(64, 64)
        self.Conv3d_2c_3x3 = _unit(64, 192, 3)
        self.MaxPool3d_3a_3x3 = SameMaxPool3d((1, 3, 3), (1, 2, 2))
        self.MaxPool3d_4a_3x3 = SameMaxPool3d((3, 3, 3), (2, 2, 2))
        self.MaxPool3d_5a_2x2 = SameMaxPool3d((2, 2, 2), (2, 2, 2))
        in_channels = 192
        for tap, widths in WIDTHS.items():
            self.add_module(tap.capitalize(), Mixed(in_channels, widths))
            in_channels = widths[0] + widths[2] + widths[4] + widths[5]


class InceptionI3DFlow(InceptionI3D):
    """Inception I3D without its classifier, for optical flow. Channel 0 of its input is the flow along x, channel 1 the
    flow along y. Further channels are not read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _unit(2, 64, 7, stride=2)

    def step(self, tap: str, x: Tensor) -> Tensor:
        return super().step(tap, x[:, :2] if tap == "conv3d_1a" else x)


def _unit(in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1) -> nn.Sequential:
    """Returns a convolution with its norm and ReLU. `kernel` and `stride` hold for all three axes."""
    return nn.Sequential(
        OrderedDict(
            conv3d=SameConv3d(in_channels, out_channels, kernel, stride, bias=False),
            bn=nn.BatchNorm3d(out_channels, eps=NORM_EPSILON),
            relu=nn.ReLU(inplace=True),
        )
    )
