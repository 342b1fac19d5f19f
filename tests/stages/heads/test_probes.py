"""Linear and attentive probes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kinegraph.stages.heads.attentive_probe import AttentiveClassifier
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.candidates import CandidateHead
from kinegraph.stages.heads.head import Head, HeadError
from kinegraph.stages.heads.sizes import SIZES, count
from tests.stages.heads.conftest import Lively

Spec = dict[str, tuple[int, ...]]
MakeBatch = Callable[..., dict[str, Tensor]]
ONE: dict[str, Any] = {"learning_rates": [1e-3], "weight_decays": [0]}
MAPS, POOLED = "features/i3d/res5", "features/i3d/res5_pooled"


def test_a_linear_probe_is_a_linear_layer_on_the_mean(spec: Spec, make_batch: MakeBatch, lively: Lively) -> None:
    batch = make_batch()
    batch[POOLED] = batch[MAPS].mean((3, 4))
    probe, plain = lively(build_head("linear_probe", spec, 7, **ONE)), lively(build_head("avg_pool", spec, 7))
    plain.classifier.load_state_dict(probe.probes[0].state_dict())
    torch.testing.assert_close(probe(batch), plain(batch))
    of_maps = build_head("linear_probe", spec, 7, read="maps", **ONE).double()
    of_maps.load_state_dict(probe.state_dict())
    torch.testing.assert_close(of_maps(batch), plain(batch))
    torch.testing.assert_close(probe({POOLED: batch[POOLED].mean(1)}), plain(batch))


@pytest.mark.parametrize(("name", "num_candidates"), [("linear_probe", 13), ("attentive_probe", 20)])
def test_candidates_are_copies_until_one_is_kept(
    name: str, num_candidates: int, spec: Spec, make_batch: MakeBatch, lively: Lively
) -> None:
    head, batch = build_head(name, spec, 7).double().eval(), make_batch()
    assert isinstance(head, CandidateHead)
    logits = head.candidate_logits(batch)
    assert logits.shape == (3, num_candidates, 7)
    assert (logits == logits[:, :1]).all()
    logits = lively(head).candidate_logits(batch)
    assert head(batch).equal(logits.mean(1))
    weights, kept = head.weights_of(5), head.candidates[5]
    head.keep(5)
    assert head(batch).equal(logits[:, 5])
    assert weights.keys() == head.state_dict().keys()
    again = build_head(head.name, spec, 7, **head.options).double().eval()
    again.load_state_dict(weights)
    assert again(batch).equal(logits[:, 5])
    assert (again.options, again.candidates) == (head.options, (kept,))


def test_the_attentive_probe_has_the_size_of_the_package_s_classifier() -> None:
    """49.5 M parameters and 107.3 GMACs are those of the whole classifier without its encoder and predictor."""
    num_params, gmacs, reads = count(next(size for size in SIZES if size.head == "attentive_probe"))
    c, tokens, classes = 1024, 8 * 16 * 16, 174
    blocks, cross = 3 * (12 * c * c + 13 * c), 11 * c * c + 12 * c
    assert num_params == blocks + cross + c + classes * (c + 1)
    assert num_params / 1e6 == pytest.approx(49.5, abs=0.05)
    linear, attention = tokens * (3 * 12 + 2) * c * c + 9 * c * c + classes * c, (3 * tokens + 1) * tokens * 2 * c
    assert gmacs == pytest.approx((linear + attention) / 1e9, rel=1e-9)
    assert gmacs == pytest.approx(107.3, abs=0.1)
    assert reads == ("features/vjepa2/norm",)


def test_attention_is_that_of_the_formula(lively: Lively) -> None:
    """One head, one block, one token after the other."""
    net = lively(AttentiveClassifier(4, 3, num_blocks=1, num_heads=1, mlp_ratio=2))
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    block, cross = net.blocks[0], net.cross
    q, k, v = block.query_key_value(block.norm1(x)).split(4, -1)
    after = x + block.out((q @ k.mT / 2).softmax(-1) @ v)
    after = after + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(after))))
    k, v = cross.key_value(cross.norm1(after)).split(4, -1)
    pooled = cross.token + (cross.query(cross.token) @ k.mT / 2).softmax(-1) @ v
    pooled = pooled + cross.mlp.fc2(functional.gelu(cross.mlp.fc1(cross.norm2(pooled))))
    torch.testing.assert_close(net(x), net.fc(pooled[:, 0]))


@pytest.mark.parametrize("name", ["linear_probe", "attentive_probe"])
def test_class_tokens_and_the_output_of_the_network_are_read_by_their_names(
    name: str, spec: Spec, make_batch: MakeBatch, lively: Lively
) -> None:
    x = make_batch()[POOLED]  # [B, T, C]
    plain = lively(build_head(name, {POOLED: (5, 12)}, 7, read="pooled", **ONE))
    tokens = build_head(name, spec | {f"{MAPS}_class": (5, 12)}, 7, read="pooled", tap="res5_class", **ONE).double()
    tokens.load_state_dict(plain.state_dict())
    assert tokens.reads == (f"{MAPS}_class",)
    torch.testing.assert_close(tokens({f"{MAPS}_class": x}), plain({POOLED: x}))
    whole = build_head(name, spec | {"features/i3d/head": (12,)}, 7, read="pooled", tap="head", **ONE).double()
    whole.load_state_dict(plain.state_dict())
    torch.testing.assert_close(whole({"features/i3d/head": x[:, 0]}), plain({POOLED: x[:, :1]}))


def attentive(spec: Spec, lively: Lively, **options: Any) -> Head:
    return lively(build_head("attentive_probe", spec, 7, **ONE, num_blocks=1, **options))


def test_tokens_are_all_cells_in_any_order(spec: Spec, make_batch: MakeBatch, lively: Lively) -> None:
    head, batch = attentive(spec, lively), make_batch()
    cells = batch[MAPS].movedim(2, -1).flatten(1, 3)  # [B, T*H*W, C]
    shuffled = cells[:, torch.randperm(45)].view(3, 5, 3, 3, 12).movedim(-1, 2)
    torch.testing.assert_close(head(batch | {MAPS: shuffled}), head(batch))
    of_vectors = build_head("attentive_probe", {POOLED: (45, 12)}, 7, **head.options | {"read": "pooled"}).double()
    of_vectors.load_state_dict(head.state_dict())
    torch.testing.assert_close(of_vectors({POOLED: cells}), head(batch))


def test_places_without_a_box_are_no_tokens(spec: Spec, make_batch: MakeBatch, lively: Lively) -> None:
    head, batch = attentive(spec, lively, read="regions"), make_batch()
    regions, counts = "regions/i3d/res5", "proposals/count"
    assert {*head.reads} == {regions, counts}
    batch[counts][:, 1:] = 0
    batch[counts][1] = 0
    batch[counts][2, 3] = -1
    before = head(batch)
    changed = batch[regions].clone()
    changed[:, 1:], changed[1] = float("nan"), 7.0
    torch.testing.assert_close(head(batch | {regions: changed}), before)
    assert before.isfinite().all()
    batch[regions][0, 0, 0, 0] += 1
    assert not torch.allclose(head(batch)[0], before[0])


def test_activations_may_be_computed_again(spec: Spec, make_batch: MakeBatch) -> None:
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        head = build_head("attentive_probe", spec, 7, recompute=recompute, num_blocks=1, weight_decays=[0]).double()
        torch.manual_seed(1)
        head(make_batch()).square().sum().backward()
        gradients.append([parameter.grad for parameter in head.parameters()])
    torch.testing.assert_close(*gradients)


def test_heads_of_attention(spec: Spec) -> None:
    def num_heads(channels: int, **options: Any) -> int:
        head = build_head("attentive_probe", {MAPS: (2, channels, 2, 2)}, 2, **ONE, **options)
        found: int = head.probes[0].cross.num_heads
        return found

    assert [num_heads(channels) for channels in (1024, 1408, 768, 96, 12, 22)] == [16, 16, 16, 16, 12, 11]
    assert num_heads(12, num_heads=3) == 3
    with pytest.raises(HeadError, match="num_heads: given 5, allowed: a divisor of the 12 channels of a token"):
        build_head("attentive_probe", spec, 2, num_heads=5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rates": []}, "option learning_rates is .*at least 1 item"),
        ({"learning_rates": [0]}, "option learning_rates is 0: .*greater than 0"),
        ({"weight_decays": [0.1, 0.1]}, r"given \[0.1, 0.1\], allowed: each number once"),
        ({"tail": {"from": "res5"}}, "tail: allowed: none with linear_probe, because all its candidates"),
    ],
)
def test_wrong_candidates(options: dict[str, Any], words: str, spec: Spec) -> None:
    with pytest.raises(HeadError, match=words):
        build_head("linear_probe", spec, 2, **options)


@pytest.mark.parametrize("name", ["linear_probe", "attentive_probe"])
def test_whole_videos_are_read_as_vectors(name: str) -> None:
    spec: Spec = {POOLED: (0, 6)}
    with pytest.raises(HeadError, match=r"read: given maps, allowed with train\.over: videos: pooled"):
        build_head(name, spec, 3, read="maps")
    head = build_head(name, spec, 3, **ONE, read="pooled").eval()
    long, short = torch.randn(1, 5, 6), torch.randn(1, 3, 6)
    padded = torch.cat([long, torch.cat([short, torch.full((1, 2, 6), 9.0)], 1)])
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    expected = torch.cat([head({POOLED: x, "mask": torch.ones(x.shape[:2], dtype=torch.bool)}) for x in (long, short)])
    torch.testing.assert_close(head({POOLED: padded, "mask": mask}), expected)
