"""Class activation maps: their mean is the logit, and heads without a linear layer on the mean of maps refuse them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinegraph.stages.heads.build import HEADS, build_head
from kinegraph.stages.heads.clip_graphs import outputs_of
from kinegraph.stages.heads.grid_graph import links
from kinegraph.stages.heads.head import WITH_CLASS_MAPS, HeadError
from tests.stages.heads.conftest import Lively

MAPS, POOLED = "features/i3d/res5", "features/i3d/res5_pooled"
WITH_MAPS: dict[str, tuple[str, dict[str, Any]]] = {
    "avg_pool": ("avg_pool", {}),
    "of logits": ("avg_pool", {"consensus": "logits"}),
    "linear_probe": ("linear_probe", {"learning_rates": (0.1, 0.2)}),
    "probe of maps": ("linear_probe", {"read": "maps"}),
    "conv3d": ("conv3d", {"num_blocks": 1}),
    "non_local": ("non_local", {}),
    "trg": ("trg", {"dim": 8, "num_blocks": 1}),
    "atr": ("atr", {}),
    "rstg": ("rstg", {"output": "map", "dim": 8}),
}


@pytest.mark.parametrize("case", WITH_MAPS)
def test_their_mean_is_the_logit(
    case: str, spec: dict[str, tuple[int, ...]], make_batch: Callable[..., dict[str, Tensor]], lively: Lively
) -> None:
    name, options = WITH_MAPS[case]
    head, batch = lively(build_head(name, spec, 3, **options)), make_batch()
    batch[POOLED] = batch[MAPS].mean((3, 4))
    assert head.class_map_array == MAPS
    maps = head.class_maps(batch)
    assert maps.shape == (3, 3, *(spec[MAPS][0], *spec[MAPS][2:]))
    torch.testing.assert_close(maps.mean((2, 3, 4)), head(batch))


@pytest.mark.parametrize("name", [*HEADS, "of the largest"])
def test_other_heads_refuse_them(
    name: str, spec: dict[str, tuple[int, ...]], make_batch: Callable[..., dict[str, Tensor]]
) -> None:
    """The sentence of the refusal names all heads that have maps."""
    of_max = {"consensus": "max"} if name == "of the largest" else {}
    small = {"dim": 8} if name in ("trg", "conv_lstm") else {}
    head = build_head("avg_pool" if of_max else name, spec, 3, **of_max, **small)
    if head.class_map_array:
        assert name in WITH_CLASS_MAPS
        return
    with pytest.raises(HeadError, match=r"has no class activation maps\. Such a map needs"):
        head.class_maps(make_batch())


def test_the_map_of_the_action_is_that_of_the_locator(
    spec: dict[str, tuple[int, ...]], make_batch: Callable[..., dict[str, Tensor]], lively: Lively
) -> None:
    head, batch = lively(build_head("atr", spec, 3, num_blocks=2)), make_batch()
    logits, maps = head(batch), head.action_maps(batch)
    assert [*maps] == ["block1", "block2"]
    torch.testing.assert_close(maps["block1"], head.blocks[0].locate(batch[MAPS]).squeeze(2))
    assert torch.equal(head(batch), logits), "no hook stays"
    assert build_head("atr", spec, 3, locator="none").eval().action_maps(batch) == {}
    assert build_head("non_local", spec, 3).action_maps(batch) == {}


@contextmanager
def recorded_inputs(module: nn.Module) -> Iterator[list[Tensor]]:
    inputs: list[Tensor] = []
    with module.register_forward_pre_hook(lambda module, given: inputs.append(given[0])):
        yield inputs


def test_messages_add_up_to_what_the_nodes_gather(
    spec: dict[str, tuple[int, ...]], make_batch: Callable[..., dict[str, Tensor]], lively: Lively
) -> None:
    head, batch = lively(build_head("rstg", spec, 3, dim=8, num_iterations=2)), make_batch()
    logits, messages = head(batch), head.node_messages(batch)
    assert messages is not None
    assert messages.strengths.shape == (3, spec[MAPS][0], 90)
    assert messages.strengths.min() > 0
    assert (len(messages.cells), messages.cells[0], messages.cells[1][:2]) == (14, (0, 0, 1 / 3, 1 / 3), (1 / 3, 0))
    assert messages.cells[-1] == (0, 0, 1, 1)
    assert {*zip(messages.senders, messages.receivers, strict=True)} == {*links((3, 2, 1))}
    assert torch.equal(head(batch), logits), "no hook stays"
    space: Any = head.block.graph.space
    with outputs_of(space.sent, space.update) as outputs, recorded_inputs(space.update) as joined:
        head(batch)
    weighted = outputs[-2]  # then the update of the nodes
    torch.testing.assert_close(weighted.norm(dim=-1), messages.strengths)
    of_seven = [at for at, receiver in enumerate(messages.receivers) if receiver == 7]
    torch.testing.assert_close(weighted[:, :, of_seven].sum(2), joined[-1][:, :, 7, 8:])
    assert build_head("rstg", spec, 3, dim=8, schedule="time_only").eval().node_messages(batch) is None
    assert build_head("trg", spec, 3, dim=8).node_messages(batch) is None
