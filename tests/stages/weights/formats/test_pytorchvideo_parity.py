"""Networks that pytorchvideo itself builds, read from its state dicts: the same maps at every tap."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video import mvit

from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.torchvision_video import MViT
from kinegraph.stages.weights.formats.convert import convert

# Their model, ours, and the numbers of the blocks after which our taps sit.
CASES = [
    ("c2d_r50", "c2d_r50", {0: "stem", 1: "res2", 3: "res3", 4: "res4", 5: "res5"}),
    ("i3d_r50", "i3d_r50", {0: "stem", 1: "res2", 3: "res3", 4: "res4", 5: "res5"}),
    ("slow_r50", "slowonly_r50", {0: "stem", 1: "res2", 2: "res3", 3: "res4", 4: "res5"}),
]


@pytest.fixture(scope="module")
def hub() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorchvideo.models import hub, slowfast
    return SimpleNamespace(**vars(hub), create_slowfast=slowfast.create_slowfast)


def randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.0),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 2.0),
                ):
                    assert tensor is not None
                    tensor.uniform_(low, high, generator=generator)


@pytest.mark.parametrize(("model", "ours", "taps"), CASES)
def test_every_tap_equals_pytorchvideos(tmp_path: Path, hub: Any, model: str, ours: str, taps: dict[int, str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = getattr(hub, model)().eval()
    randomise(theirs)
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "file.pyth")
    network = build_backbone(ours, str(tmp_path / "file.pyth"), list(taps.values()), res5_stride=2)
    x = clips = torch.randn(1, 3, 4, 48, 48, generator=torch.Generator().manual_seed(2))
    found, compared = network(clips), []
    with torch.inference_mode():
        for number, block in enumerate(theirs.blocks[:-1]):
            x = block(x)
            if number in taps:
                torch.testing.assert_close(found[taps[number]], x, rtol=1e-5, atol=1e-5)
                compared.append(x.std().item())
    assert len(compared) == 5
    assert min(compared) > 0.01


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert [*found] == [*expected]
    for tap, x in expected.items():
        assert x.std() > 0.005, tap
        error = (found[tap] - x) / x.std()
        assert error.square().mean().sqrt() < 1e-5, tap
        assert error.abs().max() < 5e-5, tap


def built(path: Path, build: Callable[..., nn.Module], model: str, **options: Any) -> tuple[nn.Module, Backbone]:
    """pytorchvideo's network with random weights, and ours with all its taps, read from the other's file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = build(**options).eval()
    randomise(theirs)
    torch.save({"model_state": theirs.state_dict()}, path)
    known = entry(model)
    taps = [tap.name for tap in known.taps]
    return theirs, build_backbone(model, str(path), taps, head=known.head_channels is not None)


@pytest.mark.parametrize(("model", "shape"), [("csn_r101", (8, 64, 64)), ("x3d_s", (5, 64, 50))])
@torch.inference_mode()
def test_depthwise_networks_are_pytorchvideos(
    tmp_path: Path, hub: Any, model: str, shape: tuple[int, int, int]
) -> None:
    theirs, ours = built(tmp_path / "file.pyth", getattr(hub, model), model)
    x = clips = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(2))
    expected = {}
    blocks: Any = theirs.blocks
    for block, tap in zip(blocks, ["stem", "res2", "res3", "res4", "res5"], strict=False):
        expected[tap] = x = block(x)
    if model == "x3d_s":
        pool = blocks[5].pool
        expected["conv5"] = x = pool.pre_act(pool.pre_norm(pool.pre_conv(x)))
        expected["head"] = pool.post_act(pool.post_conv(x.mean((2, 3, 4), keepdim=True))).flatten(1)
    assert_close(ours(clips), expected)


@pytest.mark.parametrize(("model", "alpha", "kernel"), [("slowfast_r50_4x16", 8, 5), ("slowfast_r50_8x8", 4, 7)])
@torch.inference_mode()
def test_both_pathways_of_slowfast_are_pytorchvideos(
    tmp_path: Path, hub: Any, model: str, alpha: int, kernel: int
) -> None:
    """Slow frames by the rule of SlowFast's datasets; a tap is what stands before the fusion."""
    options = {"slowfast_fusion_conv_kernel_size": (kernel, 1, 1), "slowfast_fusion_conv_stride": (alpha, 1, 1)}
    theirs, ours = built(tmp_path / "file.pyth", hub.create_slowfast, model, **options)
    fast = torch.randn(1, 3, 16, 64, 64, generator=torch.Generator().manual_seed(2))
    expected: dict[str, Tensor] = {}
    blocks: Any = theirs.blocks
    for block, part in zip(blocks, ["stem", "res2", "res3", "res4", "res5"], strict=False):
        for pathway, module in zip(("slow", "fast"), block.multipathway_blocks, strict=True):
            module.register_forward_hook(
                lambda module, args, out, tap=f"{pathway}_{part}": expected.__setitem__(tap, out.clone())
            )
    slow = fast.index_select(2, torch.linspace(0, 15, 16 // alpha).long())
    x = [slow, fast]
    for block in blocks[:5]:
        x = block(x)
    expected["head"] = torch.cat([expected[tap].mean((2, 3, 4)) for tap in ("slow_res5", "fast_res5")], 1)
    assert_close(ours(fast), expected)


@torch.inference_mode()
def test_mvit_is_pytorchvideos(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 4 frames of 64 px, for which both packages build it: the positions alone are smaller.

    Norms in pytorchvideo's attention have an epsilon of 1e-5 in place of torchvision's 1e-6.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = hub.mvit_base_16x4(spatial_size=64, temporal_size=4).eval()
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        for name, module in theirs.named_modules():
            if isinstance(module, nn.LayerNorm):
                assert module.eps == (1e-5 if ".attn." in name else 1e-6)
                module.eps = 1e-6
        build = mvit._mvit
        monkeypatch.setattr(mvit, "_mvit", lambda **o: build(**o | {"spatial_size": (64, 64), "temporal_size": 4}))
        ours = MViT(mvit.mvit_v1_b).eval()
    converted = convert(theirs.state_dict())
    assert (converted.unknown, converted.classes) == ((), 400)
    ours.load_state_dict(converted.state)
    ours.want(class_tokens=True, head=False)
    expected, taps = {}, [f"block{number}" for number in range(16)]

    def keep(tap: str, tokens: Tensor, grid: Any) -> None:
        expected[tap] = tokens[:, 1:].transpose(1, 2).unflatten(2, tuple(grid))
        expected[f"{tap}_class"] = tokens[:, :1]

    for tap, block in zip(taps, theirs.blocks, strict=True):
        block.register_forward_hook(lambda module, args, out, tap=tap: keep(tap, *out))
    theirs.norm_embed.register_forward_hook(lambda module, args, out: keep("norm", out, expected["block15"].shape[2:]))
    clips = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(2))
    theirs(clips)
    assert_close(ours(clips), expected)
