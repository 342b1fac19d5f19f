import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kinegraph.stages.backbones.build import build_backbone, untrained
from kinegraph.stages.backbones.non_local import NonLocal
from kinegraph.stages.backbones.resnet3d import ResidualStage, ResNet3D


def clip(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def block() -> NonLocal:
    torch.manual_seed(0)
    block = NonLocal(8).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block


def test_a_fresh_block_is_the_identity() -> None:
    x = clip(2, 8, 3, 4, 5)
    assert torch.equal(NonLocal(8).eval()(x), x)


def test_every_place_sees_all_places_of_all_frames_by_the_equation(block: NonLocal) -> None:
    """y_i = sum_j softmax_j(theta_i phi_j / sqrt(C / 2)) g_j, written out for each place."""
    x = clip(1, 8, 2, 4, 5)
    pooled = nn.functional.max_pool3d(x, (1, 2, 2))
    theta = block.theta(x)[0].flatten(1).T  # [N, C / 2]
    phi, g = (conv(pooled)[0].flatten(1).T for conv in (block.phi, block.g))  # [M, C / 2]
    assert (len(theta), len(phi)) == (2 * 4 * 5, 2 * 2 * 2)
    rows = []
    for place in theta:
        scores = (phi @ place / 4**0.5).exp()
        rows.append(scores @ g / scores.sum())
    y = torch.stack(rows).T.reshape(1, 4, 2, 4, 5)
    torch.testing.assert_close(block(x), x + block.norm(block.out(y)), rtol=1e-4, atol=1e-5)


def test_groups_of_frames_see_only_each_other(block: NonLocal) -> None:
    grouped, x = NonLocal(8, 4).eval(), clip(2, 8, 12, 4, 5)
    grouped.load_state_dict(block.state_dict())
    alone = torch.cat([block(frames) for frames in x.split(4, dim=2)], dim=2)
    torch.testing.assert_close(grouped(x), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(block(x), alone, atol=0.1)
    channels_last = x.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(grouped(channels_last), alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="invalid for input"):
        grouped(x[:, :, :6])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_fused_attention_is_used_whatever_the_layout(block: NonLocal, layout: torch.memory_format) -> None:
    """Forwards and backwards: without a fused kernel the weights of all places for all places are held."""
    block, x = block.double(), clip(2, 8, 3, 4, 5).double().to(memory_format=layout).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        expected = block(x)
        (expected_gradient,) = torch.autograd.grad(expected.square().sum(), x)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # or an error
        found = block(x)
        (gradient,) = torch.autograd.grad(found.square().sum(), x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_the_five_blocks_stand_where_the_paper_puts_them() -> None:
    with torch.device("meta"):
        names = untrained("nonlocal_i3d_r50").state_dict()
    found = {name.removesuffix(".theta.weight") for name in names if name.endswith(".theta.weight")}
    assert found == {f"res3.after.{i}" for i in (1, 3)} | {f"res4.after.{i}" for i in (1, 3, 5)}
    assert {"res3.after.1.norm.running_var", "res4.after.5.out.bias", "res3.0.downsample.0.weight"} <= names.keys()


def test_what_stands_after_a_block_sees_its_output() -> None:
    stage = ResidualStage([nn.Hardtanh(0, 5), nn.Hardtanh(-1, 9)])
    plain = {"0", "1", "after"}
    assert {name for name, _ in stage.named_children()} == plain
    stage.after["0"] = nn.Hardtanh(2, 3)
    assert stage(torch.tensor([-4.0, 2.5, 20.0])).tolist() == [2.0, 2.5, 3.0]
    stage.after["1"] = nn.Hardtanh(-9, 2.75)
    assert stage(torch.tensor([-4.0, 2.5, 20.0])).tolist() == [2.0, 2.5, 2.75]


def test_random_weights_make_the_blocks_matter() -> None:
    network = build_backbone("nonlocal_i3d_r50", "random:0", ["res3"])
    assert isinstance(network, ResNet3D)
    x = clip(1, 3, 4, 64, 64)
    before = network(x)["res3"]
    stage = network.get_submodule("res3")
    assert isinstance(stage, ResidualStage)
    stage.after = nn.ModuleDict()
    assert (network(x)["res3"] - before).std() > 0.05 * before.std()
