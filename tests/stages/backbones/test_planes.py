"""Layers that run as 2D layers, against torch's own 3D layers."""

import pytest
import torch
from torch import Tensor, nn

from kinegraph.stages.backbones.planes import FlatMaxPool, FrameConv, TimeConv, flatten_layers


def clips() -> Tensor:
    maps = torch.randn(2, 4, 6, 9, 7, generator=torch.Generator().manual_seed(0))
    return maps.to(memory_format=torch.channels_last_3d)


def flattened(layer: nn.Module, *, convolutions: bool = True) -> nn.Module:
    network = nn.Sequential(layer)
    flatten_layers(network, convolutions=convolutions)
    return network[0]


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        nn.MaxPool3d((2, 1, 1)),
        nn.MaxPool3d((3, 2, 2), (2, 1, 1)),
        nn.MaxPool3d(2),
    ],
)
@torch.inference_mode()
def test_flat_pools_have_the_values_of_3d_pools_and_keep_the_type(pool: nn.MaxPool3d) -> None:
    flat, maps = flattened(pool), clips()
    assert isinstance(flat, FlatMaxPool)
    assert flat(maps).is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(flat(maps), pool(maps), rtol=0, atol=0)
    half = maps.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(flat(half), pool(half).bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("conv", "kind"),
    [
        (nn.Conv3d(4, 5, 1, stride=(1, 2, 2)), FrameConv),
        (nn.Conv3d(4, 5, (1, 3, 3), stride=(1, 2, 1), padding=(0, 1, 0), bias=False), FrameConv),
        (nn.Conv3d(4, 5, (3, 1, 1), padding=(1, 0, 0)), TimeConv),
        (nn.Conv3d(4, 5, (5, 1, 1), stride=(2, 1, 1), padding=(2, 0, 0), bias=False), TimeConv),
    ],
)
@torch.inference_mode()
def test_flat_convolutions_are_3d_convolutions_to_the_rounding_of_float32(conv: nn.Conv3d, kind: type) -> None:
    flat, maps = flattened(conv), clips()
    assert isinstance(flat, kind)
    expected = conv(maps)
    torch.testing.assert_close(flat(maps), expected, rtol=0, atol=float(1e-5 * expected.std()))


def test_other_layers_stay() -> None:
    kept = [
        nn.Conv3d(4, 5, (3, 3, 3)),  # over both
        nn.Conv3d(4, 4, (1, 3, 3), groups=4),
        nn.Conv3d(4, 4, (1, 3, 3), padding=1),  # pads time
        nn.Conv3d(4, 4, (3, 1, 1), stride=(1, 2, 2)),
        nn.Conv3d(4, 4, (1, 3, 3), padding="same"),
        nn.MaxPool3d(3, padding=1),
        nn.MaxPool3d(2, ceil_mode=True),
    ]
    assert all(flattened(layer) is layer for layer in kept)
    conv = nn.Conv3d(4, 5, 1)
    assert flattened(conv, convolutions=False) is conv
