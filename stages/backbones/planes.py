"""Runs layers of a frozen 3D network as 2D layers, because 2D layers are faster on a CPU. A layer can become 2D if it
works on each frame alone, or along time alone.

Values stay the same, except for the rounding of convolutions in float32. Two layers of torch are slow otherwise: 3D max
pools under autocast, which compute in float32, and 3D convolutions of channels-last maps in float32.

Shapes: B clips, C channels, T time steps, H rows and W columns of a map. T', H' and W' are those after the layer.
"""

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ONE = (1, 1)


class FrameConv(nn.Module):
    """A 3D convolution with a kernel of 1 x k x k, computed as a 2D convolution of each frame. `conv` is the 3D
    convolution.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.conv = _conv2d(conv, conv.weight[:, :, 0], _sizes(conv.stride)[1:], _sizes(conv.padding)[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Applies the convolution to the maps `x` [B, C, T, H, W]. Returns [B, C', T, H', W'], for B clips, C and C'
        channels, T time steps, H and H' rows, W and W' columns.
        """
        return _as_clips(self.conv(_as_frames(x)), len(x))


class TimeConv(nn.Module):
    """A 3D convolution with a kernel of k x 1 x 1, computed as a 2D convolution over (time, position). `conv` is the 3D
    convolution.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        steps, padding = conv.stride[0], _sizes(conv.padding)[0]
        self.conv = _conv2d(conv, conv.weight[..., 0], (steps, 1), (padding, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the convolution to the maps `x` [B, C, T, H, W]. Returns [B, C', T', H, W], for B clips, C and C'
        channels, T and T' time steps, H rows and W columns.
        """
        cells = x.permute(0, 2, 3, 4, 1).flatten(2, 3)  # [B, T, H W, C], without a copy of channels-last maps
        out: Tensor = self.conv(cells.permute(0, 3, 1, 2))
        return out.permute(0, 2, 3, 1).reshape(len(x), -1, *x.shape[3:], out.shape[1]).permute(0, 4, 1, 2, 3)


class FlatMaxPool(nn.Module):
    """The 3D max pool `pool`, computed first over the cells of each frame, then over time. `pool` must not pad time
    steps.

    The maps are bit-equal to those of `pool`, and have the type of the input.
    """

    def __init__(self, pool: nn.MaxPool3d) -> None:
        super().__init__()
        self.kernel, self.stride = _sizes(pool.kernel_size), _sizes(pool.stride)
        self.padding = _sizes(pool.padding)[1:]

    def forward(self, x: Tensor) -> Tensor:
        """Applies the max pool to the maps `x` [B, C, T, H, W]. Returns [B, C, T', H', W'], for B clips, C channels, T
        and T' time steps, H and H' rows, W and W' columns.
        """
        if self.kernel[1:] != ONE or self.stride[1:] != ONE:
            pooled = F.max_pool2d(_as_frames(x), self.kernel[1:], self.stride[1:], self.padding)
            x = _as_clips(pooled, len(x))
        end = x.shape[2] - self.kernel[0] + 1  # windows begin before this time step
        shifted = (x[:, :, step : end + step : self.stride[0]] for step in range(self.kernel[0]))
        return reduce(torch.maximum, shifted)


def flatten_layers(network: nn.Module, *, convolutions: bool) -> None:
    """Replaces the 3D max pools of the frozen `network` by 2D layers, in place. If `convolutions` is true, also
    replaces the convolutions whose kernels span only one time step (1 x k x k) or only one position (k x 1 x 1).
    """
    for parent in network.modules():
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.MaxPool3d and _is_plain_pool(layer):
                parent.add_module(name, FlatMaxPool(layer))
            elif convolutions and isinstance(layer, nn.Conv3d) and _is_plain_conv(layer):
                if layer.kernel_size[0] == layer.stride[0] == 1 and not _sizes(layer.padding)[0]:
                    parent.add_module(name, FrameConv(layer))
                elif layer.kernel_size[1:] == layer.stride[1:] == ONE and not any(_sizes(layer.padding)[1:]):
                    parent.add_module(name, TimeConv(layer))


def _is_plain_conv(conv: nn.Conv3d) -> bool:
    pads_zeros = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    is_torchs = type(conv).forward is nn.Conv3d.forward
    return is_torchs and pads_zeros and conv.groups == 1 and conv.dilation == (1, 1, 1)


def _is_plain_pool(pool: nn.MaxPool3d) -> bool:
    is_whole = not pool.ceil_mode and not pool.return_indices and _sizes(pool.dilation) == (1, 1, 1)
    return is_whole and not _sizes(pool.padding)[0]


def _conv2d(conv: nn.Conv3d, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> nn.Conv2d:
    """Returns a 2D convolution with the bias of `conv` and with `weight` [C', C, k, l]."""
    out_channels, in_channels, *kernel = weight.shape
    flat = nn.Conv2d(in_channels, out_channels, (kernel[0], kernel[1]), stride, padding, device="meta")
    flat.weight, flat.bias = nn.Parameter(weight.detach(), requires_grad=False), conv.bias
    return flat


def _sizes(size: Any) -> tuple[int, int, int]:
    """Returns the option `size` of a 3D layer as (time, rows, columns). A single number holds for all axes."""
    time, rows, columns = (size,) * 3 if isinstance(size, int) else size
    return time, rows, columns


def _as_frames(x: Tensor) -> Tensor:
    """Returns the maps x [B, C, T, H, W] as [B T, C, H, W]. Channels-last maps are not copied."""
    return x.transpose(1, 2).flatten(0, 1)


def _as_clips(frames: Tensor, num_clips: int) -> Tensor:
    """Returns `frames` [B T, C, H, W] as [B, C, T, H, W]. B is `num_clips`."""
    return frames.reshape(num_clips, -1, *frames.shape[1:]).transpose(1, 2)
