"""Two processes on the CPU, started by the launcher of torchrun, train as one does."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from kinegraph.stages.errors import UsageError
from kinegraph.stages.training import together
from tests.stages.training import sharing
from tests.stages.training.resuming import CPU, run
from tests.stages.training.sharing import candidates, flat, plain, tuned

# As `torchrun --standalone --nproc-per-node 2`, but its processes have loaded torch (tests/warm_processes.py).
STANDALONE = LaunchConfig(
    min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
    start_method="spawn",
)  # fmt: skip


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """On a thread: on the main one, the launcher would set handlers of signals for good."""
    folder = tmp_path_factory.mktemp("together")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(elastic_launch(STANDALONE, sharing.share), folder).result()
    found: list[dict[str, Any]] = torch.load(folder / "found.pt", weights_only=True)
    return found


def test_two_processes_give_what_one_does(by_rank: list[dict[str, Any]]) -> None:
    weights, losses = plain()
    first, second = by_rank
    assert torch.equal(first["weights"], second["weights"])
    assert first["losses"] == second["losses"]
    torch.testing.assert_close(first["weights"], weights, atol=1e-6, rtol=0)
    assert first["losses"] == pytest.approx(losses, abs=1e-6)


def test_candidates_are_trained_and_chosen_as_in_one_process(by_rank: list[dict[str, Any]]) -> None:
    (weights, name, scores), (its_weights, its_name, its_scores) = (found["candidates"] for found in by_rank)
    assert torch.equal(weights, its_weights)
    assert (name, scores) == (its_name, its_scores)
    expected, chosen, of_each = candidates()
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)
    assert (name, len({*scores})) == (chosen, 4)
    assert scores == pytest.approx(of_each, abs=1e-5)


def test_backbones_with_frozen_norms_are_tuned_as_in_one_process(by_rank: list[dict[str, Any]]) -> None:
    first, second = by_rank
    assert torch.equal(first["tuned"], second["tuned"])
    torch.testing.assert_close(first["tuned"], tuned(), atol=1e-5, rtol=0)


def test_they_go_on_where_they_were_cut_off(by_rank: list[dict[str, Any]]) -> None:
    first, second = by_rank
    assert torch.equal(first["resumed"], first["undisturbed"])
    assert torch.equal(second["resumed"], first["resumed"])
    assert not torch.equal(first["undisturbed"], flat(run(None)[0])), "their dropout is not that of one process"


def test_batches_are_shared_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    order = torch.arange(7)
    alone, size = together.own_share(order, 3)
    assert (alone.tolist(), size) == (order.tolist(), 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in (("0", [0, 2, 4, 6]), ("1", [1, 3, 5, 0])):
        monkeypatch.setenv("RANK", rank)
        own, size = together.own_share(order, 2)
        assert (own.tolist(), size) == (expected, 1)
    with pytest.raises(UsageError, match=r"batch_size: given 3, allowed: a multiple of the 2 processes"):
        together.own_share(order, 3)
    with pytest.raises(UsageError, match="BatchNorm is trained"):
        together.distributed(torch.nn.BatchNorm1d(3), CPU)
