from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck

from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.resnet3d import Bottleneck3D, ResNet3D
from kinegraph.stages.backbones.resnet3d_layouts import LAYOUTS, STAGES

FROZEN_MEANS = {"stem": 0.469866, "res2": 0.321752, "res3": 0.269547, "res4": 0.208004, "res5": 0.147233}


def test_temporal_kernels_repeat_over_the_blocks_of_a_stage() -> None:
    i3d, deep, slow = LAYOUTS["i3d_r50"], LAYOUTS["i3d_r101"], LAYOUTS["slowonly_r50"]
    assert [i3d.kernels(stage) for stage in STAGES] == [(3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1)]
    assert deep.kernels("res4") == (3, 1) * 11 + (3,)
    assert [slow.kernels(stage) for stage in STAGES] == [(1,) * 3, (1,) * 4, (3,) * 6, (3,) * 3]


@pytest.mark.parametrize(("res5_stride", "side"), [(1, 14), (2, 7)])
def test_maps_have_the_sizes_of_table_1(res5_stride: int, side: int) -> None:
    with torch.device("meta"):
        maps = ResNet3D(replace(LAYOUTS["i3d_r50"], res5_stride=res5_stride))(torch.empty(1, 3, 32, 224, 224))
    assert {tap: tuple(x.shape[1:]) for tap, x in maps.items()} == {
        "stem": (64, 32, 56, 56),
        "res2": (256, 32, 56, 56),
        "res3": (512, 16, 28, 28),
        "res4": (1024, 16, 14, 14),
        "res5": (2048, 16, side, side),
    }


@torch.inference_mode()
def test_strides_and_pools_are_those_of_their_names() -> None:
    """Of a small network, against the layers written out."""
    torch.manual_seed(0)
    plain = replace(LAYOUTS["i3d_r50"], blocks=(1, 1, 1, 1))
    paper = ResNet3D(plain).eval()
    names: dict[str, Any] = {"stem_time_stride": 2, "pool1_time_stride": 2, "pool1_padding": 0, "pool2_time_stride": 1}
    trained = ResNet3D(replace(plain, **names)).eval()
    trained.load_state_dict(paper.state_dict())
    clips = torch.randn(1, 3, 9, 41, 41)
    kernel = paper.conv1.weight
    found = trained(clips)
    stem = F.conv3d(clips, kernel, stride=2, padding=(2, 3, 3))
    stem = F.max_pool3d(paper.bn1(stem).relu(), (2, 3, 3), stride=2)
    torch.testing.assert_close(found["stem"], stem)
    torch.testing.assert_close(found["res3"], trained.res3(found["res2"]))
    assert found["res3"].shape[2:] == (2, 5, 5)
    found = paper(clips)
    stem = F.conv3d(clips, kernel, stride=(1, 2, 2), padding=(2, 3, 3))
    stem = F.max_pool3d(paper.bn1(stem).relu(), (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    torch.testing.assert_close(found["stem"], stem)
    torch.testing.assert_close(found["res3"], paper.res3(F.max_pool3d(found["res2"], (2, 1, 1))))
    assert found["res3"].shape[2:] == (4, 6, 6)


def test_a_block_without_temporal_extent_is_the_2d_block_on_every_frame() -> None:
    torch.manual_seed(0)
    shortcut = nn.Sequential(nn.Conv2d(12, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
    flat = Bottleneck(12, 8, stride=2, downsample=shortcut).eval()
    block = Bottleneck3D(12, 8, temporal_kernel=1, stride=2).eval()
    block.load_state_dict({name: x.unsqueeze(2) if x.ndim == 4 else x for name, x in flat.state_dict().items()})
    clips = torch.randn(2, 12, 3, 9, 9)
    frames = torch.stack([flat(frame) for frame in clips.unbind(2)], dim=2)
    torch.testing.assert_close(block(clips), frames, rtol=1e-4, atol=1e-5)


def test_an_inflated_block_sees_a_still_clip_as_the_2d_block_sees_its_frame() -> None:
    torch.manual_seed(0)
    shortcut = nn.Sequential(nn.Conv2d(12, 32, 1, bias=False), nn.BatchNorm2d(32))
    flat = Bottleneck(12, 8, downsample=shortcut).eval()
    block = Bottleneck3D(12, 8, temporal_kernel=3, stride=1).eval()
    state = {name: x.unsqueeze(2) if x.ndim == 4 else x for name, x in flat.state_dict().items()}
    state["conv1.weight"] = state["conv1.weight"].expand(-1, -1, 3, -1, -1) / 3
    block.load_state_dict(state)
    frame = torch.randn(1, 12, 9, 9)
    middle = block(frame.unsqueeze(2).expand(-1, -1, 5, -1, -1))[:, :, 2]
    torch.testing.assert_close(middle, flat(frame), rtol=1e-4, atol=1e-5)


def test_the_output_of_seeded_weights_is_frozen() -> None:
    network = build_backbone("i3d_r50", "random:0", ["stem", "res2", "res3", "res4", "res5"])
    clips = torch.linspace(-2, 2, 3 * 4 * 33 * 33).sin().reshape(1, 3, 4, 33, 33)
    means = {tap: x.mean().item() for tap, x in network(clips).items()}
    assert means == pytest.approx(FROZEN_MEANS, rel=1e-4)
