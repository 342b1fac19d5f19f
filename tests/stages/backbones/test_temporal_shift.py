import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck

from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.temporal_shift import ShiftedConv, ShiftedResNet, shift_channels


def test_an_eighth_comes_from_the_next_frame_and_an_eighth_from_the_one_before() -> None:
    """Two clips of three frames, 16 channels; frame t of clip b holds 10 b + t + 1 everywhere."""
    values = torch.tensor([1.0, 2, 3, 11, 12, 13]).view(6, 1, 1, 1)
    out = shift_channels(values.expand(6, 16, 1, 1), num_frames=3)[:, :, 0, 0]
    assert out[:, 0:2].T.tolist() == [[2, 3, 0, 12, 13, 0]] * 2
    assert out[:, 2:4].T.tolist() == [[0, 1, 2, 0, 11, 12]] * 2
    assert torch.equal(out[:, 4:], values[:, :, 0, 0].expand(6, 12))


def test_channels_last_frames_stay_so() -> None:
    frames = torch.randn(4, 16, 5, 5).contiguous(memory_format=torch.channels_last)
    assert shift_channels(frames, 2).is_contiguous(memory_format=torch.channels_last)


def test_a_block_shifts_its_branch_and_not_its_shortcut() -> None:
    """With a branch that ends in zeros the block is its shortcut, and the shortcut is not shifted."""
    network = ShiftedResNet(resnet50()).eval()
    block = network.get_submodule("layer1.1")
    assert isinstance(block, Bottleneck)
    assert isinstance(block.conv1, ShiftedConv)
    nn.init.zeros_(block.bn3.weight)
    block.conv1.num_frames = 2
    x = torch.rand(4, 256, 6, 6)
    assert torch.equal(block(x), x)


def test_parameters_are_named_as_torchvisions() -> None:
    with torch.device("meta"):
        names = ShiftedResNet(resnet50()).state_dict().keys()
        assert names == {name for name in resnet50().state_dict() if not name.startswith("fc.")}


def test_clips_do_not_mix_and_the_order_of_frames_matters() -> None:
    network = build_backbone("tsm_r50", "random:0", ["res3"])
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))

    def res3(x: Tensor) -> Tensor:
        maps: dict[str, Tensor] = network(x)
        return maps["res3"]

    both = res3(clips)
    torch.testing.assert_close(both[1:], res3(clips[1:]), rtol=1e-4, atol=1e-4)
    assert (res3(clips.flip(2)).flip(2) - both).std() > 0.1 * both.std()
    flat = build_backbone("resnet50", "random:0", ["res3"])(clips)["res3"]
    assert (flat - both).std() > 0.1 * both.std()
