"""A worker that waits for the shards of others asks the storage seldom, and still finds each lease that became free."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.pipeline.shards import revisiting
from kinegraph.pipeline.shards.lease import REFRESHES, Lease
from kinegraph.pipeline.shards.watching import LISTING_SECONDS, Watch
from tests.clock import Clock

SECONDS, SHARDS = 300.0, range(5)


class Counting(LocalStorage):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: Counter[str] = Counter()

    def names(self, folder: str) -> Iterator[str]:
        self.asked["names"] += 1
        return super().names(folder)

    def get(self, name: str) -> bytes:
        self.asked["get"] += 1
        return super().get(name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("kinegraph.pipeline.shards.watching.monotonic", made)
    return made


@pytest.fixture
def storage(tmp_path: Path) -> Counting:
    made = Counting(tmp_path)
    for shard in SHARDS:
        refresh(made, shard, 0)
    return made


def lease_of_another(shard: int, refreshes: int) -> Lease:
    return Lease(shard=shard, attempt=1, seconds=SECONDS, holder="other", host="far", refreshes=refreshes)


def refresh(storage: LocalStorage, shard: int, refreshes: int) -> None:
    lease = lease_of_another(shard, refreshes)
    storage.put(lease.name, [lease.content])


def test_leases_are_listed_once_for_a_pass_and_read_as_often_as_they_are_refreshed(
    storage: Counting, clock: Clock
) -> None:
    watch = Watch(storage, SECONDS)
    for _ in range(10):
        for shard in SHARDS:
            assert watch.newest(shard) == (lease_of_another(shard, 0), False)
    assert storage.asked == {"names": 1, "get": 5}
    clock.now += LISTING_SECONDS
    for shard in SHARDS:
        watch.newest(shard)
    assert storage.asked == {"names": 2, "get": 5}
    clock.now += SECONDS / REFRESHES
    for shard in SHARDS:
        watch.newest(shard)
    assert storage.asked == {"names": 3, "get": 10}


def test_a_lease_is_read_again_before_it_counts_as_stale(storage: Counting, clock: Clock) -> None:
    watch = Watch(storage, SECONDS)
    watch.newest(0)
    clock.now += SECONDS - 1
    assert watch.newest(0) == (lease_of_another(0, 0), False)
    refresh(storage, 0, 1)
    clock.now += 2
    assert watch.newest(0) == (lease_of_another(0, 1), False)
    clock.now += SECONDS
    assert watch.newest(0) == (lease_of_another(0, 1), True)


def test_a_lease_that_went_after_the_listing_is_looked_for_again(storage: Counting, clock: Clock) -> None:
    watch = Watch(storage, SECONDS)
    watch.newest(0)
    storage.delete(lease_of_another(1, 0).name)
    assert watch.newest(1) == (None, False)
    storage.delete(lease_of_another(2, 0).name)
    later = replace(lease_of_another(2, 0), attempt=2)
    storage.put(later.name, [later.content])
    assert watch.newest(2) == (later, False)


def test_who_waits_longer_asks_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("kinegraph.cache_schemas.stopping.sleep", waits.append)
    revisiting.revisit([1], lambda units: [1] if sum(waits) < 3600 else [])
    assert waits[:10] == [revisiting.REVISIT_SECONDS] * 10
    assert waits == sorted(waits)
    assert max(waits) == revisiting.LONGEST_SECONDS
    assert len(waits) < 180
