"""When a Dask cluster counts as one without workers: by its answers, on a clock that the test moves."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from distributed.core import Status

from kinegraph.pipeline.clusters.dask.workers import COUNT_WORKERS_SECONDS, STARTING_PATIENCE, Workers
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ClusterLost
from tests.clock import Clock

PATIENCE_SECONDS = 30.0


class Cluster:
    """A client and its cluster: how many workers it says it has, after how long, with nannies in which states."""

    def __init__(self, clock: Clock, nannies: tuple[Status, ...]) -> None:
        self.clock, self.number, self.seconds, self.fails = clock, 1, 0.0, False
        self.cluster = SimpleNamespace(workers={n: SimpleNamespace(status=status) for n, status in enumerate(nannies)})

    def scheduler_info(self, n_workers: int) -> dict[str, str]:
        return {"address": "tcp://x:1"}

    def nthreads(self) -> dict[int, int]:
        self.clock.now += self.seconds
        if self.fails:
            raise TimeoutError
        return dict.fromkeys(range(self.number), 4)


@pytest.fixture
def made(load: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Workers]]:
    clock = Clock()
    monkeypatch.setattr("kinegraph.pipeline.clusters.dask.workers.monotonic", clock)
    run = load("run.executor=dask", f"run.dask.timeout_seconds={PATIENCE_SECONDS}").run

    def cluster_and_workers(*nannies: Status) -> tuple[Any, Workers]:
        cluster: Any = Cluster(clock, nannies)
        return cluster, Workers(cluster, run)

    return cluster_and_workers


@pytest.mark.parametrize("fails", [False, True])
def test_a_slow_answer_is_no_death(made: Callable[..., tuple[Any, Workers]], fails: bool) -> None:
    """Each count takes longer than workers may be away, or gets no answer: the workers are there all the time."""
    cluster, workers = made()
    cluster.seconds, cluster.fails = 2 * PATIENCE_SECONDS, fails
    for _ in range(3):
        workers.require()
    assert workers.most() >= 1


def test_absence_counts_from_the_first_answer_that_says_so(made: Callable[..., tuple[Any, Workers]]) -> None:
    cluster, workers = made()
    workers.require()
    cluster.clock.now += 10 * PATIENCE_SECONDS  # this process had no time to ask
    cluster.number = 0
    workers.require()
    cluster.clock.now += PATIENCE_SECONDS - 1
    workers.require()
    cluster.number = 1
    cluster.clock.now += COUNT_WORKERS_SECONDS
    workers.require()
    cluster.number = 0
    cluster.clock.now += PATIENCE_SECONDS
    workers.require()
    cluster.clock.now += PATIENCE_SECONDS
    with pytest.raises(
        ClusterLost, match="The last worker of the Dask scheduler at tcp://x:1 died, and none came within"
    ):
        workers.require()


def test_workers_that_are_being_started_are_waited_for_longer(
    made: Callable[..., tuple[Any, Workers]], caplog: pytest.LogCaptureFixture
) -> None:
    cluster, workers = made(Status.closed, Status.running)
    cluster.number = 0
    workers.require()
    for _ in range(2):
        cluster.clock.now += PATIENCE_SECONDS * STARTING_PATIENCE / 2 - 1
        workers.require()
    assert caplog.messages == ["Dask's workers died and are restarting, which takes long. Waiting up to 300 s"]
    cluster.clock.now += 2
    with pytest.raises(ClusterLost, match="none came within 300 s"):
        workers.require()


def test_nannies_that_gave_up_start_none(made: Callable[..., tuple[Any, Workers]]) -> None:
    cluster, workers = made(Status.closed, Status.failed)
    cluster.number = 0
    workers.require()
    cluster.clock.now += PATIENCE_SECONDS
    with pytest.raises(ClusterLost, match="none came within 30 s"):
        workers.require()
