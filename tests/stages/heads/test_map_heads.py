"""What the heads on maps and the baselines have in common, and what each baseline computes."""

from collections.abc import Callable
from itertools import combinations
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kinegraph.stages.device import upload
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.conv_lstm import ConvLstmLayer
from kinegraph.stages.heads.head import Head, HeadError
from kinegraph.stages.heads.maps import each_frame
from kinegraph.stages.heads.trn import draw_tuples
from tests.stages.heads.conftest import Lively, learns_by_heart

Spec = dict[str, tuple[int, ...]]
MakeBatch = Callable[..., dict[str, Tensor]]
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    ("avg_pool", {"consensus": "logits"}),
    ("avg_pool", {"consensus": "max"}),
    ("trn", {"dim": 16, "hidden": 16}),
    ("conv_lstm", {"dim": 16, "hidden": 16}),
    ("conv_lstm", {"dim": None, "hidden": 16, "peephole": False, "kernel": 1}),
    ("conv3d", {"num_blocks": 1}),
    ("conv3d", {"dim": 16, "num_blocks": 2, "non_local_after": 1}),
    ("non_local", {}),
    ("non_local", {"dim": 16, "num_blocks": 2}),
    ("trg", {"dim": 16}),
    ("trg", {"dim": None, "num_blocks": 1, "num_heads": 1, "scale_relation": False}),
    ("trg", {"dim": 16, "num_blocks": 1, "relation": "sum", "aggregator": "mean", "fusion": "concat"}),
    ("trg", {"dim": 16, "num_blocks": 2, "relation": "bilinear", "aggregator": "concatenation", "norm_after": "graph"}),
    ("atr", {}),
    ("atr", {"dim": 16, "num_blocks": 2, "map_fusion": "concat", "last_motion": "wrap"}),
    ("atr", {"zero_init_norm": False, "distribution": "scaling", "channel_transform": "depthwise", "radius": 2}),
    ("atr", {"zero_init_norm": False, "locator": "motion", "reasoner": "graph", "channel_transform": "bottleneck"}),
    ("atr", {"zero_init_norm": False, "locator": "appearance", "reasoner": "none", "sigmoid_in_adding": False}),
    ("atr", {"zero_init_norm": False, "distribution": "none"}),
    ("lstm", {"convolutions": 2, "dim": 16}),
    ("atr", {"zero_init_norm": False, "locator": "none", "num_reasoners": 3, "last_motion": "repeat"}),
]


def _stuck_at_the_start(head: Head) -> set[str]:
    """Parameters whose first gradient is 0: behind a BatchNorm gain of 0, or the share of the only head."""
    stuck = set()
    if head.name == "non_local" or head.options.get("zero_init_norm"):
        stuck = {name for name, _ in head.named_parameters() if ".norm." not in name and name.startswith("blocks.")}
    if head.name == "conv3d":  # the block between the two residual ones is a non-local one
        names = [name for name, _ in head.named_parameters()]
        stuck = {name for name in names if name.startswith("blocks.1.") and ".norm." not in name}
    if head.options.get("num_heads") == 1:
        stuck = {"blocks.0.aggregate.weight.weight"}
    return stuck


@pytest.mark.parametrize(("name", "options"), CONFIGS)
def test_every_parameter_gets_a_gradient_at_the_first_step(
    name: str, options: dict[str, Any], spec: Spec, make_batch: MakeBatch
) -> None:
    head = build_head(name, spec, 3, **options).double()
    head(make_batch()).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert {name for name, gradient in gradients.items() if not gradient.any()} == _stuck_at_the_start(head)


@pytest.mark.parametrize(("name", "options"), CONFIGS)
def test_no_parameter_stays_without_a_gradient(
    name: str, options: dict[str, Any], spec: Spec, make_batch: MakeBatch, lively: Lively
) -> None:
    head = lively(build_head(name, spec, 3, **options)).train()
    head(make_batch(num_clips=1)).square().sum().backward()  # one clip alone can be trained on
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    without = {name for name, gradient in gradients.items() if not gradient.any()}
    assert without == ({"blocks.0.aggregate.weight.weight"} if options.get("num_heads") == 1 else set())


@pytest.mark.parametrize(("name", "options"), CONFIGS)
def test_a_head_learns_32_random_clips_by_heart(
    name: str, options: dict[str, Any], spec: Spec, make_batch: MakeBatch
) -> None:
    wide = {key: (shape[0], 48, *shape[2:]) if key.startswith("features/") else shape for key, shape in spec.items()}
    batch = {key: x.float() for key, x in make_batch(num_clips=32, channels=48).items()}
    labels = torch.arange(32) % 4
    head = build_head(name, wide, 4, dropout=0.0, **options)
    assert learns_by_heart(head, batch, labels, 1e-2, steps=60)


@pytest.mark.parametrize(("name", "options"), CONFIGS)
def test_a_clip_has_the_same_logits_in_any_batch_and_every_time(
    name: str, options: dict[str, Any], spec: Spec, make_batch: MakeBatch, lively: Lively
) -> None:
    head, batch = lively(build_head(name, spec, 3, **options)), make_batch()
    alone = torch.cat([head({key: x[[clip]] for key, x in batch.items()}) for clip in range(3)])
    torch.testing.assert_close(alone, head(batch))
    again = build_head(name, spec, 3, **options).double().eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(batch), head(batch))


@pytest.mark.parametrize("name", ["conv_lstm", "non_local", "trg", "atr"])
def test_maps_without_a_number_give_no_number(name: str, spec: Spec, make_batch: MakeBatch, lively: Lively) -> None:
    """A NaN is seen, by the loss of training or by evaluation, and stays in its clip."""
    head, batch = lively(build_head(name, spec, 3, dim=8)), make_batch()
    batch["features/i3d/res5"][1, 2, 3, 0, 1] = torch.nan
    assert head(batch).isnan().all(1).tolist() == [False, True, False]


def test_consensus_over_frames(spec: Spec, make_batch: MakeBatch, lively: Lively) -> None:
    features, logits, highest = (
        lively(build_head("avg_pool", spec, 3, consensus=name)) for name in ("features", "logits", "max")
    )
    batch = make_batch()
    for head in (logits, highest):
        head.load_state_dict(features.state_dict())
    torch.testing.assert_close(logits(batch), features(batch))  # a mean commutes with a linear layer
    frames = features.classifier.fc(batch["features/i3d/res5_pooled"])
    torch.testing.assert_close(highest(batch), frames.amax(1))
    assert not torch.equal(logits.train()(batch), features.train()(batch)), "dropout is of frames, not of the clip"


def test_trn_sums_its_networks_over_tuples_of_frames(spec: Spec, make_batch: MakeBatch, lively: Lively) -> None:
    head, batch = lively(build_head("trn", spec, 3, dim=6, hidden=4, num_tuples=10)), make_batch()
    frames, logits = head.project(batch["features/i3d/res5_pooled"]), head.classifier.fc.bias
    for index, length in enumerate(range(2, 6)):  # of 5 frames, there are at most 10 tuples
        weight = head.classifier.fc.weight[:, 4 * index : 4 * (index + 1)]
        for frame_numbers in combinations(range(5), length):
            logits = logits + head.relations[index].g(frames[:, frame_numbers].flatten(1)) @ weight.T
    torch.testing.assert_close(head(batch), logits)
    reversed_batch = {key: x.flip(1) for key, x in batch.items()}
    assert not torch.allclose(head(reversed_batch), head(batch), atol=1e-3)


def test_trn_draws_new_tuples_in_training_from_the_global_generator(
    spec: Spec, make_batch: MakeBatch, lively: Lively
) -> None:
    head, batch = lively(build_head("trn", spec, 3, dropout=0.0)).train(), make_batch()
    torch.manual_seed(1)
    first, second = head(batch), head(batch)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(head(batch), first)
    before = torch.get_rng_state()
    head.eval()(batch)
    assert torch.equal(torch.get_rng_state(), before)


def test_trn_draws_the_tuples_of_a_step_in_order_and_uploads_them_at_once(
    spec: Spec, make_batch: MakeBatch, lively: Lively, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is that of every run there has been: a run that goes on draws what it would have drawn."""
    head, batch = lively(build_head("trn", spec, 3, dropout=0.0)).train(), make_batch()
    uploaded = Mock(wraps=upload)
    monkeypatch.setattr("kinegraph.stages.heads.trn.upload", uploaded)
    torch.manual_seed(1)
    logits = head(batch)
    uploaded.assert_called_once()
    torch.manual_seed(1)
    for length, relation in enumerate(head.eval().get_submodule("relations").children(), 2):
        relation.fixed = draw_tuples(5, length, 3)
    assert torch.equal(head(batch), logits)


@pytest.mark.parametrize(("num_frames", "length", "expected"), [(5, 2, 3), (5, 5, 1), (3, 2, 3), (64, 32, 3)])
def test_tuples_are_different_and_in_order(num_frames: int, length: int, expected: int) -> None:
    tuples = draw_tuples(num_frames, length, 3)
    assert tuples.shape == (expected, length)
    assert (tuples.diff(dim=1) > 0).all()
    assert len(set(map(tuple, tuples.tolist()))) == expected
    assert tuples.min() >= 0
    assert tuples.max() < num_frames


@pytest.mark.parametrize(
    ("name", "array", "shape", "message"),
    [
        ("trn", "features/i3d/res5_pooled", (1, 12), "res5_pooled has 1 in a clip, and at least 2"),
        ("non_local", "features/i3d/res5", (5, 12, 1, 7), "res5 gives it 12 x 1 x 7, at least 2 x 2 x 2"),
    ],
)
def test_too_little_to_relate_is_said(name: str, array: str, shape: tuple[int, ...], message: str, spec: Spec) -> None:
    with pytest.raises(HeadError, match=message):
        build_head(name, spec | {array: shape}, 2)


def test_a_conv_lstm_of_one_cell_is_an_lstm() -> None:
    """torch's gates are in the order i, f, content, o."""
    layer, lstm = ConvLstmLayer(5, 4, 1, None).double(), nn.LSTM(5, 4, batch_first=True).double()
    order = torch.cat([torch.arange(4) + 4 * gate for gate in (0, 1, 3, 2)])
    layer.from_input.weight.data = lstm.weight_ih_l0.data[order][..., None, None]
    layer.from_state.weight.data = lstm.weight_hh_l0.data[order][..., None, None]
    layer.from_input.bias.data = (lstm.bias_ih_l0 + lstm.bias_hh_l0).data[order]
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x[..., None, None])[..., 0, 0], lstm(x)[0])


def test_gates_of_a_conv_lstm_see_the_cell_through_peepholes(lively: Lively) -> None:
    """Eq. 3 written out: the gate o sees the new cell, i and f the old one."""
    layer, x = lively(ConvLstmLayer(5, 4, 3, (2, 3))), torch.randn(1, 2, 5, 2, 3, dtype=torch.float64)
    state = cell = torch.zeros(1, 4, 2, 3, dtype=torch.float64)
    for t in range(2):
        i, f, o, c = (layer.from_input(x[:, t]) + layer.from_state(state)).chunk(4, 1)
        kept, entered = (f + layer.peepholes[1] * cell).sigmoid() * cell, (i + layer.peepholes[0] * cell).sigmoid()
        cell = kept + entered * c.tanh()
        state = (o + layer.peepholes[2] * cell).sigmoid() * cell.tanh()
    torch.testing.assert_close(layer(x)[:, -1], state)


def test_each_frame_is_on_its_own() -> None:
    clips, network = torch.randn(2, 3, 4, 6, 6), nn.Conv2d(4, 5, 3, stride=2)
    assert torch.equal(each_frame(network, clips)[1, 2], network(clips.flatten(0, 1))[5])


def test_sizes_of_the_baselines_at_res5_of_a_resnet50() -> None:
    """MAC and parameters of 8 frames of 224 px, written out."""
    spec = {"features/r50/res5": (8, 2048, 7, 7), "features/r50/res5_pooled": (8, 2048)}
    cells, classes = 8 * 49, 174 * (256 + 1)
    conv_lstm = 4 * 256 * 9 * (512 + 256)
    tuples = {n: 1 if n == 8 else 3 for n in range(2, 9)}
    inner = 1024
    expected = {
        # name: (parameters, MAC)
        "conv_lstm": (
            2049 * 512 + conv_lstm + 4 * 256 + 3 * 256 * 49 + classes,
            cells * (2048 * 512 + conv_lstm) + 174 * 256,
        ),
        "trn": (
            2049 * 256 + sum(n * 256**2 + 256 for n in tuples) + 174 * (7 * 256 + 1),
            8 * 2048 * 256 + sum(n * count * 256**2 for n, count in tuples.items()) + 174 * 7 * 256,
        ),
        "non_local": (
            4 * 2048 * inner + 3 * inner + 2048 + 2 * 2048 + 174 * 2049,
            2 * cells * 2048 * inner + 2 * 8 * 9 * 2048 * inner + 2 * cells * 8 * 9 * inner + 174 * 2048,
        ),
    }
    for name, (params, macs) in expected.items():
        with torch.device("meta"):
            head = build_head(name, spec, 174).eval()
            batch = {array: torch.empty(1, *spec[array]) for array in head.reads}
        counter = FlopCounterMode(display=False)
        with counter:
            head(batch)
        assert (sum(parameter.numel() for parameter in head.parameters()), counter.get_total_flops() // 2) == (
            params,
            macs,
        ), name
