"""Leases: one holder at a time, taken over when it is dead or silent, whatever the clocks say."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest

from kinegraph.cache_schemas.errors import StorageError
from kinegraph.cache_schemas.files import HOST, start_ticks
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.pipeline.shards.lease import Lease, lease_of, live_leases
from kinegraph.pipeline.shards.leases import Leases, NoLeases, leases_on, warn_if_off
from kinegraph.pipeline.shards.watching import LISTING_SECONDS
from tests.clock import Clock

Make = Callable[..., Leases]
KEYS = ("clips",)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("kinegraph.pipeline.shards.watching.monotonic", made)
    return made


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def of_dead_process(shard: int, attempt: int = 1) -> Lease:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return Lease(shard=shard, attempt=attempt, seconds=300, keys=KEYS, holder="gone", host=HOST, pid=gone.pid)


def leave(storage: LocalStorage, lease: Lease) -> None:
    assert storage.create(lease.name, lease.content)


def names(storage: LocalStorage) -> list[str]:
    return sorted(storage.names("leases"))


def test_one_holder_until_it_gives_the_shard_back(storage: LocalStorage, clock: Clock) -> None:
    one, other = Leases(storage, 300), Leases(storage, 300)
    assert one.take(3, KEYS)
    assert not other.take(3, KEYS)
    assert other.take(4, KEYS)
    assert names(storage) == ["leases/000003.json", "leases/000004.json"]
    assert one.is_ours(3)
    assert not other.is_ours(3)
    one.release(3)
    assert not one.is_ours(3)
    clock.now += LISTING_SECONDS
    assert other.take(3, KEYS)
    assert other.attempt(3) == 1, "what was given back was no death"
    one.close()
    assert other.is_ours(3)
    other.close()
    assert names(storage) == []


def test_a_dead_process_of_this_machine_is_taken_over_at_once(storage: LocalStorage) -> None:
    leave(storage, of_dead_process(3))
    leases = Leases(storage, 300)
    assert leases.deaths(3) == 1
    assert leases.take(3, KEYS)
    assert leases.attempt(3) == 2
    assert leases.deaths(3) == 1
    assert names(storage) == ["leases/000003.2.json"]
    leases.close()
    assert names(storage) == []


@pytest.mark.parametrize(("later", "is_dead"), [(0, False), (1, True)])
def test_a_process_that_has_the_number_of_the_holder_is_not_the_holder(
    storage: LocalStorage, later: int, is_dead: bool
) -> None:
    started = start_ticks(os.getpid())
    assert started, "the tests run on Linux"
    leave(storage, replace(of_dead_process(3), pid=os.getpid(), started=started - later))
    leases = Leases(storage, 300)
    assert leases.take(3, KEYS) == is_dead
    leases.close()


def test_a_lease_of_an_earlier_version_has_no_start(storage: LocalStorage) -> None:
    """Whoever has its holder's number counts as the holder, as then; and each holder before counts as a death."""
    early = {"shard": 3, "attempt": 4, "seconds": 300, "keys": [], "holder": "x", "host": HOST, "pid": os.getpid()}
    storage.put("leases/000003.4.json", [json.dumps(early).encode()])
    leases = Leases(storage, 300)
    assert not leases.take(3, KEYS)
    assert leases.deaths(3) == 3
    leases.close()


def test_a_zombie_is_dead(storage: LocalStorage) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not asked how
        leave(storage, replace(of_dead_process(3), pid=ended.pid))
        leases = Leases(storage, 300)
        assert leases.take(3, KEYS)
        leases.close()


def test_close_waits_for_a_lease_that_another_thread_takes(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker ends while its thread that decodes ahead writes the lease of the next shard."""
    leases, create = Leases(storage, 300), LocalStorage.create
    is_writing, may_write = threading.Event(), threading.Event()

    def slow_create(storage: LocalStorage, name: str, content: bytes) -> bool:
        is_writing.set()
        assert may_write.wait(60)
        return create(storage, name, content)

    monkeypatch.setattr(LocalStorage, "create", slow_create)
    with ThreadPoolExecutor(2) as threads:
        taking = threads.submit(leases.take, 3, KEYS)
        assert is_writing.wait(60)
        closing = threads.submit(leases.close)
        assert not wait([closing], 0.2).done
        may_write.set()
        assert taking.result(60)
        closing.result(60)
    with pytest.raises(RuntimeError, match="the leases of this worker are closed, and shard 4 cannot be taken"):
        leases.take(4, KEYS)
    assert names(storage) == []


def test_only_what_a_worker_was_at_counts_as_its_death(storage: LocalStorage, clock: Clock) -> None:
    """Shard 0 is the first, 1 is decoded, 2 being decoded, 3 only pulled; 4 was computed before all was decoded."""
    worker, thief = Leases(storage, 300), Leases(storage, 300)
    for shard in range(5):
        assert worker.take(shard, KEYS)
    worker.note(0, "decoding")
    worker.note(0, "decoded")
    for shard in (1, 2, 4):
        worker.note(shard, "decoding")
    worker.note(4, "computing")
    for shard in (1, 4):
        worker.note(shard, "decoded")
    assert [thief.deaths(shard) for shard in range(5)] == [0] * 5, "it lives"
    clock.now += 301
    assert [thief.deaths(shard) for shard in range(5)] == [1, 0, 1, 0, 1]
    for shard in range(5):
        assert thief.take(shard, KEYS)
    assert [thief.attempt(shard) for shard in range(5)] == [2] * 5
    assert [thief.deaths(shard) for shard in range(5)] == [1, 0, 1, 0, 1]
    thief.close()
    worker.close()


def test_silence_is_measured_by_the_one_who_listens(storage: LocalStorage, clock: Clock) -> None:
    """Another machine's lease, of a clock a year ahead or behind: only whether it changes counts."""
    thief = Leases(storage, 5)
    for shard, refreshed_at in enumerate((0.0, time.time() + 3e7)):
        lease = Lease(shard=shard, attempt=1, seconds=300, host="far", pid=os.getpid(), refreshed_at=refreshed_at)
        leave(storage, lease)
        assert not thief.take(shard, KEYS)
        clock.now += 299
        assert not thief.take(shard, KEYS)
        changed = Lease(**vars(lease) | {"refreshes": 1, "refreshed_at": refreshed_at - 3600})
        storage.put(lease.name, [changed.content])
        clock.now += 299
        assert not thief.take(shard, KEYS), "it was refreshed, by a clock that went backwards"
        clock.now += 301
        assert thief.take(shard, KEYS)
    thief.close()


def test_a_lease_is_refreshed_while_it_is_held(storage: LocalStorage) -> None:
    holder, other = Leases(storage, 0.4), Leases(storage, 0.4)
    assert holder.take(3, KEYS)
    until = time.monotonic() + 1.2
    while time.monotonic() < until:
        assert not other.take(3, KEYS)
        time.sleep(0.05)
    found = lease_of(storage, 3)
    assert found is not None
    assert found.refreshes >= 3
    holder.close()
    other.close()


@pytest.mark.parametrize("refreshes", [-1, 1])
def test_a_refresh_that_comes_late_or_without_an_answer_takes_nothing(storage: LocalStorage, refreshes: int) -> None:
    """From a store that was away: the lease there is another than the one that is known, and ours all the same."""
    holder = Leases(storage, 300)
    assert holder.take(3, KEYS)
    found = lease_of(storage, 3)
    assert found is not None
    storage.put(found.name, [replace(found, refreshes=refreshes).content])
    assert holder.is_ours(3)
    holder.close()
    assert names(storage) == []


def test_what_cannot_be_given_back_hides_nothing(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that ends because its store is away ends with that error."""
    holder = Leases(storage, 300)
    assert holder.take(3, KEYS)

    def away(name: str) -> None:
        raise StorageError("s3://bucket: gone")

    monkeypatch.setattr(storage, "delete", away)
    holder.close()
    assert "leases could not be released, and count for 300 s more: s3://bucket: gone" in caplog.text


def test_of_many_thieves_one_wins(storage: LocalStorage) -> None:
    leave(storage, of_dead_process(3))
    thieves = [Leases(storage, 300) for _ in range(8)]
    together, won = threading.Barrier(len(thieves)), []

    def steal(thief: Leases) -> None:
        together.wait()
        won.append(thief.take(3, KEYS))

    threads = [threading.Thread(target=steal, args=(thief,)) for thief in thieves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    assert [thief.is_ours(3) for thief in thieves].count(True) == 1
    for thief in thieves:
        thief.close()
    assert names(storage) == []


def test_a_lease_that_a_listing_missed_is_respected(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is not listed in one moment: between two of its names one may come and another go."""
    leave(storage, of_dead_process(3))
    winner, late = Leases(storage, 300), Leases(storage, 300)
    assert winner.take(3, KEYS)
    listings, complete = iter([()]), storage.names
    monkeypatch.setattr(storage, "names", lambda folder: next(listings, complete(folder)))
    assert not late.take(3, KEYS)
    assert winner.is_ours(3)
    winner.close()
    late.close()
    assert names(storage) == []


def test_a_holder_that_was_only_slow_leaves_the_thief_alone(storage: LocalStorage, clock: Clock) -> None:
    slow, thief = Leases(storage, 300), Leases(storage, 300)
    assert slow.take(3, KEYS)
    assert not thief.take(3, KEYS)
    clock.now += 301
    assert thief.take(3, KEYS)
    assert not slow.is_ours(3)
    slow._refresh(3)
    slow.release(3)
    slow.close()
    assert thief.is_ours(3)
    assert names(storage) == ["leases/000003.2.json"]
    thief.close()


def test_a_lease_that_cannot_be_read_goes_stale_too(storage: LocalStorage, clock: Clock) -> None:
    storage.put("leases/000003.2.json", [b'{"shard": 3,'])
    leases = Leases(storage, 300)
    assert not leases.take(3, KEYS)
    clock.now += 301
    assert leases.take(3, KEYS)
    assert leases.attempt(3) == 3
    leases.close()


def test_live_leases(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a dead process' lease nor one that was long not refreshed looks alive, by the storage's clock alone.

    That is an hour behind the clock of this machine; the others' clock is an hour ahead of it, or at 1970.
    """
    behind = time.time() - 3600
    leases = Leases(storage, 300)
    leave(storage, of_dead_process(1))
    leave(storage, Lease(shard=2, attempt=1, seconds=300, host="far", refreshed_at=time.time() + 3600))
    leave(storage, Lease(shard=3, attempt=1, seconds=300, host="far"))
    leases.take(4, KEYS)
    written = {"leases/000001.json": behind, "leases/000002.json": behind - 301, "leases/000003.json": behind - 3}
    monkeypatch.setattr(storage, "written_at", lambda name: written.get(name, behind))
    assert sorted(lease.shard for lease in live_leases(storage)) == [3, 4]
    assert not [*storage.names("probes")]
    leases.close()


def test_where_nobody_tells_the_time_leases_count(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cache that may only be read."""

    def refused(name: str, parts: object) -> None:
        raise PermissionError(name)

    leave(storage, of_dead_process(1))
    leave(storage, Lease(shard=2, attempt=1, seconds=300, host="far"))
    monkeypatch.setattr(storage, "put", refused)
    assert [lease.shard for lease in live_leases(storage)] == [2]


def test_there_are_none_where_two_could_hold_the_same(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = leases_on(storage, 300)
    assert isinstance(found, Leases)
    found.close()
    warn_if_off(storage)
    assert not caplog.messages
    monkeypatch.setattr(storage, "creates_exclusively", lambda: False)
    one, other = leases_on(storage, 300), leases_on(storage, 300)
    assert isinstance(one, NoLeases)
    assert one.take(3, KEYS)
    assert other.take(3, KEYS)
    assert (one.is_ours(3), one.deaths(3), one.attempt(3)) == (True, 0, 1)
    one.release(3)
    one.close()
    assert names(storage) == []
    warn_if_off(storage)
    assert "--shards I/N" in caplog.text
