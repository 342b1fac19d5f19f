"""Inception I3D against a plain computation of what its paper and TensorFlow's padding say."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.inception_i3d import SameMaxPool3d, same_padding
from kinegraph.stages.kinds import KINDS
from kinegraph.stages.recipe import Recipe

FLOW = {"model": "inception_i3d_flow", "weights": "random:0", "taps": ["mixed_5c"]}
TAPS = [tap.name for tap in entry("inception_i3d").taps]
# Layers in running order: kernel and stride (T, H, W) of a pool, the kernel of a convolution, or None for a block.
LAYERS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]] | None] = {
    "Conv3d_1a_7x7": ((7, 7, 7), (2, 2, 2)),
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Conv3d_2b_1x1": ((1, 1, 1), (1, 1, 1)),
    "Conv3d_2c_3x3": ((3, 3, 3), (1, 1, 1)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": None,
    "Mixed_3c": None,
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    **dict.fromkeys(("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f")),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
    "Mixed_5b": None,
    "Mixed_5c": None,
}


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's "SAME": out = ceil(n / stride), and what the last window lacks is added, the odd cell at the end."""
    ends: list[int] = []
    for n, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        ends = [total // 2, total - total // 2, *ends]
    return F.pad(x, ends)


def convolved(state: Mapping[str, Tensor], name: str, x: Tensor, stride: tuple[int, ...] = (1, 1, 1)) -> Tensor:
    weight = state[f"{name}.conv3d.weight"]
    x = F.conv3d(padded(x, tuple(weight.shape[2:]), stride), weight, stride=stride)
    leaves = ("running_mean", "running_var", "weight", "bias")
    mean, var, scale, shift = (state[f"{name}.bn.{leaf}"].view(1, -1, 1, 1, 1) for leaf in leaves)
    return ((x - mean) / (var + 0.001).sqrt() * scale + shift).clamp(min=0)


def expected_maps(state: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Maps of every tap. Pools are padded with zeros, as in pytorch-i3d."""
    found = {}
    for name, layer in LAYERS.items():
        if name.startswith("Max"):
            assert layer is not None
            x = F.max_pool3d(padded(x, *layer), *layer)
            continue
        if layer is not None:
            x = convolved(state, name, x, layer[1])
        else:
            pooled = F.max_pool3d(padded(x, (3, 3, 3), (1, 1, 1)), 3, 1)
            x = torch.cat(
                [
                    convolved(state, f"{name}.b0", x),
                    convolved(state, f"{name}.b1b", convolved(state, f"{name}.b1a", x)),
                    convolved(state, f"{name}.b2b", convolved(state, f"{name}.b2a", x)),
                    convolved(state, f"{name}.b3b", pooled),
                ],
                1,
            )
        found["_".join(name.lower().split("_")[:2])] = x
    return found


@pytest.fixture(scope="module")
def network() -> Backbone:
    """With norms as training might leave them; the epsilon of norms shows in small variances."""
    whole = build_backbone("inception_i3d", "random:0", TAPS)
    generator = torch.Generator().manual_seed(1)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.01, 2, generator=generator)
            module.weight.uniform_(0.3, 0.9, generator=generator)
            module.bias.uniform_(-0.1, 0.3, generator=generator)
    return whole


@pytest.mark.parametrize("shape", [(16, 64, 64), (9, 50, 71), (2, 37, 34)])
@torch.inference_mode()
def test_every_tap_is_the_plain_computation(network: Backbone, shape: tuple[int, int, int]) -> None:
    """Even and odd frames, rows and columns: each is padded in its own way."""
    clip = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(2))
    maps = network(clip)
    expected = expected_maps(network.state_dict(), clip)
    assert [*maps] == [*expected] == TAPS
    for tap, x in expected.items():
        assert x.std() > 0.05
        error = (maps[tap] - x) / x.std()
        assert error.square().mean().sqrt() < 1e-5, tap
        assert error.abs().max() < 5e-5, tap


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "total"), [(224, 7, 2, 5), (15, 7, 2, 6), (112, 3, 2, 1), (7, 2, 2, 1), (9, 3, 1, 2)]
)
def test_padding_depends_on_the_size(length: int, kernel: int, stride: int, total: int) -> None:
    assert same_padding(length, kernel, stride) == total


def test_a_padded_cell_is_never_the_maximum() -> None:
    x = torch.full((1, 1, 3, 4, 5), -1.0)
    assert (SameMaxPool3d((3, 3, 3), (2, 2, 2))(x) == -1).all()


@pytest.mark.parametrize(("kernel", "stride"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (1, 1, 1)), ((2, 2, 2), (2, 2, 2))])
def test_a_pool_keeps_the_type_of_bf16_maps_under_autocast_and_the_same_maxima(
    kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> None:
    maps = torch.randn(1, 4, 5, 9, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    pool = SameMaxPool3d(kernel, stride)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool(maps)
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled.float(), pool(maps.float()))


@pytest.mark.parametrize(
    ("num_frames", "size", "shape"), [(16, 224, (2, 1024, 7, 7)), (17, 230, (3, 1024, 8, 8)), (1, 224, (1, 1024, 7, 7))]
)
def test_sizes_are_rounded_up(num_frames: int, size: int, shape: tuple[int, int, int, int]) -> None:
    """At 16 frames of 224 px, the pool 2x7x7 of localisation sees the whole map once."""
    assert entry("inception_i3d").tap("mixed_5c").shape(num_frames, size) == shape


def test_pixels_run_from_minus_one_to_one() -> None:
    known = entry("inception_i3d")
    assert [(x / 255 - known.mean[0]) / known.std[0] for x in (0, 255)] == [-1, 1]
    assert len({*known.mean, *known.std}) == 1


@torch.inference_mode()
def test_flow_is_the_same_network_on_two_channels(network: Backbone) -> None:
    """With the kernel of RGB's first two channels, it sees what RGB sees without blue."""
    flow = build_backbone("inception_i3d_flow", "random:0", TAPS)
    first = "Conv3d_1a_7x7.conv3d.weight"
    state = dict(network.state_dict())
    flow.load_state_dict(state | {first: state[first][:, :2]})
    clip = torch.randn(1, 3, 9, 37, 34, generator=torch.Generator().manual_seed(2))
    expected = network(clip * torch.tensor([1.0, 1, 0]).view(1, 3, 1, 1, 1))
    maps = flow(clip)
    for tap in ("conv3d_1a", "mixed_5c"):
        torch.testing.assert_close(maps[tap], expected[tap])
    flow.cut_below("mixed_4f")
    assert [*flow(maps["mixed_4f"])] == ["mixed_5b", "mixed_5c"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            {"clips": {"num_frames": 16, "crops": ["center", "left_flip"]}},
            "clips.crops: given 'left_flip', allowed: crops",
        ),
        ({"dataset": {"kind": "folder", "root": "."}}, "dataset.frame_rate: given None, allowed: images per second"),
        (
            {"backbones": {"flow": FLOW | {"channel_order": "BGR"}}},
            "backbones.flow.channel_order: given 'BGR', allowed: RGB",
        ),
    ],
)
def test_a_config_that_flow_does_not_allow_is_refused(more: dict[str, Any], told: str) -> None:
    recipe = Recipe.model_validate({"clips": {"num_frames": 16}, "backbones": {"flow": FLOW}} | more)
    with pytest.raises(ValueError, match=re.escape(told)):
        KINDS["features"].check(recipe)
