"""Leases of three workers in any order of events: never two holders, and never a shard that nobody can take."""

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.pipeline.shards.lease import REFRESHES
from kinegraph.pipeline.shards.leases import Leases
from kinegraph.pipeline.shards.watching import LISTING_SECONDS
from tests.clock import Clock

WORKERS, SHARDS = st.integers(0, 2), st.integers(0, 1)
SECONDS = 1000.0  # a refresher's own thread never comes to it
KEYS = ("clips",)


class Workers(RuleBasedStateMachine):
    """Workers of other machines, for all that a lease tells: only silence shows that one is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.patches: list[Any] = [
            patch("kinegraph.pipeline.shards.watching.monotonic", self.clock),
            patch("kinegraph.pipeline.shards.leases.Leases._refresh_all"),
        ]
        for each in self.patches:
            each.start()
        self.storage = LocalStorage(Path(self.folder.name))
        self.workers = [Leases(self.storage, SECONDS) for _ in range(3)]
        self.refreshed: dict[tuple[int, int], float] = {}  # worker, shard -> when, of all that believe to hold it
        self.takeovers = {0: 0, 1: 0}  # of each shard, since it was last given back

    def teardown(self) -> None:
        for worker in self.workers:
            worker.close()
        assert [*self.storage.names("leases")] == []
        for each in self.patches:
            each.stop()
        self.folder.cleanup()

    def holder_of(self, shard: int) -> int | None:
        holders = [number for number, worker in enumerate(self.workers) if worker.is_ours(shard)]
        assert len(holders) <= 1, f"workers {holders} hold shard {shard}"
        return holders[0] if holders else None

    @rule(worker=WORKERS, shard=SHARDS)
    def take(self, worker: int, shard: int) -> None:
        before = self.holder_of(shard)
        if before == worker:
            return
        self.clock.now += LISTING_SECONDS
        taken = self.workers[worker].take(shard, KEYS)
        assert taken or before is not None, "a free shard can be taken"
        if not taken:
            return
        if before is not None:
            assert self.clock.now - self.refreshed[before, shard] >= SECONDS, "its holder was heard of lately"
            self.takeovers[shard] += 1
        assert self.holder_of(shard) == worker
        assert self.workers[worker].attempt(shard) == 1 + self.takeovers[shard]
        assert self.workers[worker].deaths(shard) <= self.takeovers[shard]
        self.refreshed[worker, shard] = self.clock.now

    @rule(worker=WORKERS, shard=SHARDS)
    def refresh(self, worker: int, shard: int) -> None:
        """Also by a worker that was thought to be dead: what another took over stays with that one."""
        holder = self.holder_of(shard)
        self.workers[worker]._refresh(shard)
        assert self.holder_of(shard) == holder
        if holder == worker:
            self.refreshed[worker, shard] = self.clock.now

    @rule(worker=WORKERS, shard=SHARDS)
    def give_back(self, worker: int, shard: int) -> None:
        holder = self.holder_of(shard)
        self.workers[worker].release(shard)
        assert self.holder_of(shard) == (None if holder == worker else holder)
        if holder == worker:
            self.takeovers[shard] = 0

    @rule(seconds=st.sampled_from([SECONDS / 4, SECONDS]))
    def time_goes_by(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(worker=WORKERS, shard=SHARDS)
    def a_silent_holder_loses_the_shard(self, worker: int, shard: int) -> None:
        if self.holder_of(shard) == worker:
            return
        for seconds in (SECONDS / REFRESHES, SECONDS):  # after the first of them, the lease is read again
            self.take(worker, shard)
            self.clock.now += seconds
        self.take(worker, shard)
        assert self.holder_of(shard) == worker

    @invariant()
    def one_object_a_shard_that_is_held(self) -> None:
        held = sum(self.holder_of(shard) is not None for shard in (0, 1))
        assert len([*self.storage.names("leases")]) == held


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, derandomize=True)
