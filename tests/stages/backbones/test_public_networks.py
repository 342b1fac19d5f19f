"""Networks that are public elsewhere give what their public definitions give, under the same parameter names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import Inception3
from torchvision.models.video import MViT as TheirMViT
from torchvision.models.video import mc3_18, r2plus1d_18, r3d_18, s3d, swin3d_t
from torchvision.models.video.mvit import MSBlockConfig

from kinegraph.stages.backbones.build import build_backbone, untrained
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.torchvision_video import MViT
from kinegraph.stages.weights.load import load_weights


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def normalised(clip: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    shape = (1, 3, *[1] * (clip.ndim - 2))
    return (clip - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


@torch.inference_mode()
def test_inception_v3_sees_colours_as_torchvisions_does() -> None:
    """Torchvision takes ImageNet's normalisation and undoes it inside; our entry states what arrives."""
    ours, known = build_backbone("inception_v3", "random:0", ["mixed_7c"]), entry("inception_v3")
    theirs = Inception3(aux_logits=False, transform_input=True, init_weights=False).eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    frame = noise(1, 3, 107, 107)
    expected = theirs(normalised(frame, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    found = ours(normalised(frame, known.mean, known.std).unsqueeze(2))["mixed_7c"].mean((2, 3, 4))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_s3d_is_torchvisions() -> None:
    ours, theirs = build_backbone("s3d", "random:0", ["mixed_5c"]), s3d().eval()
    assert theirs.load_state_dict(ours.state_dict(), strict=False).unexpected_keys == []
    clip = noise(1, 3, 16, 64, 64)
    torch.testing.assert_close(ours(clip)["mixed_5c"], theirs.features(clip))


@pytest.mark.parametrize("build", [r2plus1d_18, r3d_18, mc3_18])
@torch.inference_mode()
def test_resnets_for_video_are_torchvisions(build: Callable[[], nn.Module]) -> None:
    model = build.__name__
    ours, theirs = build_backbone(model, "random:0", ["res5"]), build().eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    clip = noise(1, 3, 8, 32, 32)
    maps = ours(clip)["res5"]
    assert maps.shape[1:] == (512, *entry(model).tap("res5").shape(8, 32)[::2], 2)
    torch.testing.assert_close(maps.mean((2, 3, 4)), theirs(clip))


@torch.inference_mode()
def test_video_swin_is_torchvisions() -> None:
    """An odd number of frames and a side that the patches do not divide are padded, as in torchvision."""
    taps = ["stage1", "stage2", "stage3", "stage4", "norm"]
    ours, theirs = build_backbone("swin3d_t", "random:0", taps), swin3d_t().eval()
    theirs.head = nn.Identity()
    assert theirs.load_state_dict(ours.state_dict()).missing_keys == []
    clip = noise(1, 3, 5, 70, 70)
    maps = ours(clip)
    for tap in taps:
        frames, *others = entry("swin3d_t").tap(tap).shape(5, 70)
        assert maps[tap].shape[1:] == (others[0], frames, *others[1:])
    torch.testing.assert_close(maps["norm"].mean((2, 3, 4)), theirs(clip))
    assert maps["stage1"].std() > 0.1
    assert not torch.equal(ours(clip.flip(2))["norm"], maps["norm"].flip(2))


@pytest.mark.parametrize("is_v2", [False, True])
@torch.inference_mode()
def test_mvit_is_torchvisions(is_v2: bool, tmp_path: Path) -> None:
    """A small one, whose grid changes in blocks 1, 3 and 14, at each tap: the map, and the class token."""
    ours, theirs = MViT(lambda: small_mvit(is_v2)), small_mvit(is_v2).eval()
    torch.save(theirs.state_dict(), tmp_path / "file.pth")
    load_weights(ours, str(tmp_path / "file.pth"), {}, ours.is_classifier, model="mvit_v2_s")
    ours.want(class_tokens=True, head=False)
    layers: list[tuple[Tensor, tuple[int, ...]]] = []
    for block in theirs.blocks:
        block.register_forward_hook(lambda _, __, out: layers.append(out))
    theirs.norm.register_forward_hook(lambda _, __, out: layers.append((out, layers[-1][1])))
    theirs.head = nn.Identity()
    clip = noise(2, 3, 4, 32, 32)
    feature, found = theirs(clip), ours.eval()(clip)
    grids = []
    for tap, (tokens, grid) in zip(ours.stages, layers, strict=True):
        assert torch.equal(found[tap], tokens[:, 1:].transpose(1, 2).unflatten(2, grid))
        assert torch.equal(found[f"{tap}_class"], tokens[:, :1])
        grids.append(grid)
    assert grids == [(2, 8, 8)] + [(2, 4, 4)] * 2 + [(2, 2, 2)] * 11 + [(2, 1, 1)] * 3
    assert torch.equal(found["norm_class"][:, 0], feature)
    ours.cut(["block3"])
    assert [*ours(clip)] == ["block3", "block3_class"]
    with pytest.raises(ValueError, match="the class token is needed"):
        ours.cut_below("block1")


def small_mvit(is_v2: bool) -> TheirMViT:
    blocks = [
        MSBlockConfig(
            num_heads=1, input_channels=8, output_channels=8, kernel_q=[3, 3, 3] if is_v2 or stride else [],
            kernel_kv=[3, 3, 3], stride_q=[1, 2, 2] if stride else [1, 1, 1] if is_v2 else [], stride_kv=[1, 1, 1],
        )
        for stride in (number in (1, 3, 14) for number in range(16))
    ]  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TheirMViT(
            (32, 32), 4, blocks, residual_pool=is_v2, residual_with_cls_embed=False, rel_pos_embed=is_v2,
            proj_after_attn=is_v2,
        )  # fmt: skip


def test_cutting_inside_a_sequence_drops_what_is_above() -> None:
    network = build_backbone("s3d", "random:0", ["mixed_3b"])
    assert {name.split(".")[1] for name in network.state_dict()} == {"0", "2", "3", "5"}
    assert list(network(noise(1, 3, 4, 32, 32))) == ["mixed_3b"]


def test_bn_inception_has_the_names_and_shapes_of_the_public_files() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in untrained("bn_inception").state_dict().items()}
    assert len(shapes) == 69 * 7  # convolutions of 2 tensors, each with a norm of 5
    for name, shape in {
        "conv1_7x7_s2.weight": (64, 3, 7, 7),
        "conv1_7x7_s2.bias": (64,),
        "conv1_7x7_s2_bn.running_var": (64,),
        "conv2_3x3_reduce_bn.weight": (64,),
        "inception_3a_1x1.weight": (64, 192, 1, 1),
        "inception_3c_double_3x3_2.weight": (96, 96, 3, 3),
        "inception_4e_3x3_reduce.weight": (128, 608, 1, 1),
        "inception_5a_pool_proj.weight": (128, 1056, 1, 1),
        "inception_5b_double_3x3_1_bn.bias": (224,),
    }.items():
        assert shapes[name] == shape


@pytest.mark.parametrize(("block", "pool"), [("inception_5a", "mean"), ("inception_5b", "max")])
def test_the_last_block_of_bn_inception_pools_the_largest(block: str, pool: str) -> None:
    """Of a map that is 9 in one place and 0 elsewhere, seen by the pool branch alone."""
    network = build_backbone("bn_inception", "random:0", ["inception_5b"])
    for name, parameter in network.named_parameters():
        nn.init.constant_(parameter, float(name in {f"{block}_pool_proj.weight", f"{block}_pool_proj_bn.weight"}))
    x = torch.zeros(1, {"inception_5a": 1056, "inception_5b": 1024}[block], 5, 5)
    x[0, 0, 2, 2] = 9
    pooled = network.step(block, x)[0, -1]
    assert pooled[1:4, 1:4].unique().item() == pytest.approx({"mean": 1, "max": 9}[pool], rel=1e-4)
    assert pooled[0].max() == 0
