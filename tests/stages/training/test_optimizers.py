import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from kinegraph.stages.errors import UsageError
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.optimizers import build_ema, build_optimizer
from kinegraph.stages.training.options import TrainOptions

SPEC = {"features/tiny/res5_pooled": (4, 8)}


def test_biases_may_be_spared_from_weight_decay() -> None:
    head = build_head("avg_pool", SPEC, 3)
    decayed, spared = build_optimizer(head, TrainOptions(decay_all=False, weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert decayed["params"][0] is head.classifier.fc.weight
    assert spared["params"][0] is head.classifier.fc.bias
    (both,) = build_optimizer(head, TrainOptions(weight_decay=0.3)).param_groups
    assert both["weight_decay"] == 0.3


def test_frozen_parameters_are_left_out() -> None:
    head = build_head("avg_pool", SPEC, 3)
    head.classifier.fc.weight.requires_grad_(False)
    (group,) = build_optimizer(head, TrainOptions()).param_groups
    assert len(group["params"]) == 1
    assert group["params"][0] is head.classifier.fc.bias


def test_a_head_without_parameters_is_refused() -> None:
    head = Head()
    head.name = "mean"
    with pytest.raises(UsageError, match="Head mean has no parameter that is trained"):
        build_optimizer(head, TrainOptions())


def test_sgd_has_the_momentum_asked_for() -> None:
    head = build_head("avg_pool", SPEC, 3)
    for momentum, nesterov, expected in ((0.9, True, True), (0.9, False, False), (0.0, True, False)):
        options = TrainOptions(optimizer="sgd", momentum=momentum, nesterov=nesterov)
        optimizer = build_optimizer(head, options)
        assert isinstance(optimizer, torch.optim.SGD)
        assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (momentum, expected)


@pytest.mark.parametrize("decay_all", [True, False])
def test_a_head_may_give_parameters_a_factor(decay_all: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Head, "learning_rate_factor_of", lambda head, name: 0.1 if name.endswith("weight") else 1.0)
    head = build_head("avg_pool", SPEC, 3)
    groups = build_optimizer(head, TrainOptions(decay_all=decay_all, weight_decay=0.3)).param_groups
    found = [(group["factor"], group["weight_decay"], len(group["params"])) for group in groups]
    assert found == [(0.1, 0.3, 1), (1.0, 0.3 if decay_all else 0.0, 1)]
    assert groups[0]["params"][0] is head.classifier.fc.weight


def test_a_moving_mean_is_one_of_what_is_floating_point_and_a_copy_of_the_rest() -> None:
    """TRN's tuples at a decay that once truncated frame 11 to 10; a BatchNorm's statistics, and what it counts."""
    head = build_head("trn", {"features/tiny/res5_pooled": (16, 8)}, 3)
    head.norm = norm = torch.nn.BatchNorm1d(2)
    assert norm.running_mean is not None
    assert norm.num_batches_tracked is not None
    ema = build_ema(head, TrainOptions(ema=0.9999))
    assert ema is not None
    for value in (1.0, 2.0, 2.0):
        torch.nn.init.constant_(head.get_parameter("classifier.fc.weight"), value)
        torch.nn.init.constant_(norm.running_mean, value)
        norm.num_batches_tracked += 11
        ema.update(head)
    for mean in (ema.module.get_parameter("classifier.fc.weight"), ema.module.get_buffer("norm.running_mean")):
        torch.testing.assert_close(mean, torch.full_like(mean, 2 - 0.9999**2), atol=2e-7, rtol=0)
    assert ema.module.get_buffer("norm.num_batches_tracked") == 33
    buffers = dict(head.named_buffers())
    indices = [name for name in buffers if name.endswith("fixed")]
    assert len(indices) == 15
    assert all(torch.equal(ema.module.get_buffer(name), buffers[name]) for name in indices)


def test_the_states_of_torch_s_mean_are_read() -> None:
    head = build_head("avg_pool", SPEC, 3)
    ema = build_ema(head, TrainOptions(ema=0.9))
    assert ema is not None
    ema.load_state_dict(AveragedModel(build_head("avg_pool", SPEC, 3), use_buffers=True).state_dict())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_fused_optimizer_of_cpus_is_the_plain_one(name: str) -> None:
    options = TrainOptions.model_validate({"optimizer": name, "weight_decay": 0.1, "learning_rate": 1e-2})
    heads = [build_head("lstm", SPEC, 3, hidden=8) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    fused, plain = (build_optimizer(head, options) for head in heads)
    assert fused.param_groups[0]["fused"]
    plain.param_groups[0]["fused"] = False
    for _ in range(5):
        for parameters in zip(*(head.parameters() for head in heads), strict=True):
            gradient = torch.randn_like(parameters[0])
            for parameter in parameters:
                parameter.grad = gradient
        fused.step()
        plain.step()
    for ours, theirs in zip(*(head.parameters() for head in heads), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
