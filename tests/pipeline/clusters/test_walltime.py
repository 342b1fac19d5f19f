"""No unit is begun that cannot end in time; time is a fixture."""

import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.clusters.walltime import Allotment, UnitSchedule, allotment
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import OutOfTimeError, WalltimeError
from kinegraph.pipeline.extraction.events import Event, UnitSealed
from kinegraph.pipeline.extraction.executors import local
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.inline import InlineExecutor
from kinegraph.pipeline.extraction.executors.local import LocalExecutor
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.extraction.shard import ShardInProgress
from kinegraph.pipeline.shards.leases import Leases
from tests.caches import same_bytes
from tests.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time stands still unless a test moves it; no scheduler is around."""
    found = Clock()
    monkeypatch.setattr(time, "time", found)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    return found


@pytest.fixture
def ten_seconds_a_unit(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = ShardInProgress.seal

    def slowly(shard: ShardInProgress, *arguments: Any) -> Any:
        clock.now += 10
        return seal(shard, *arguments)

    monkeypatch.setattr(ShardInProgress, "seal", slowly)


def test_the_first_unit_always_runs_and_what_is_under_way_counts(clock: Clock) -> None:
    schedule = UnitSchedule(Allotment(began_at=990, ends_at=1035))
    assert schedule.lacks_measure
    schedule.begin(0)
    clock.now = 1010
    schedule.end(0)
    assert schedule.has_room()
    schedule.begin(1)
    assert schedule.has_room()
    schedule.begin(2)
    assert not schedule.has_room()
    assert isinstance(schedule.stopped(), OutOfTimeError)


def test_units_side_by_side_are_not_measured_twice(clock: Clock) -> None:
    schedule = UnitSchedule(Allotment(began_at=1000, ends_at=1100))
    schedule.begin(0)
    schedule.begin(1)
    clock.now = 1010
    schedule.end(0)
    clock.now = 1025
    schedule.end(1)
    assert schedule.slowest_seconds == 15


@pytest.mark.usefixtures("ten_seconds_a_unit")
@pytest.mark.parametrize("executor", [InlineExecutor(), LocalExecutor(1)], ids=["inline", "local"])
def test_runs_go_on_until_all_is_done(load: Callable[..., Config], whole: Cache, executor: Any) -> None:
    """Three units of 10 s in 25 s: two in a first run, one in a second; the bytes are those of one run."""
    config = load()
    index(config)
    cache = Cache(config.cache)
    for sealed in (2, 3):
        plan = make_plan(config, cache)
        job = Job(config=config, cache=cache, keys=plan.keys, units=plan.units, allotted=allotment(25))
        if sealed == 2:
            with pytest.raises(OutOfTimeError, match=r"25 s of this job: one took up to 10\.0 s"):
                executor.run(job, lambda event: None)
        else:
            executor.run(job, lambda event: None)
        assert len(cache.ledger.shards("regions/tiny")) == sealed
        assert not [*cache.storage.names("leases")]
    assert same_bytes(config.cache) == same_bytes(whole.root)


@pytest.mark.usefixtures("ten_seconds_a_unit")
def test_a_walltime_without_room_for_one_unit_is_an_error(load: Callable[..., Config]) -> None:
    config = load("run.walltime_seconds=8")
    index(config)
    with pytest.raises(WalltimeError, match=r"8\.0 s is shorter than start-up \(0\.0 s\) plus one shard \(10\.0 s\)"):
        extract(config)
    assert len(Cache(config.cache).ledger.shards("clips")) == 1, "the first unit always runs"


def test_the_end_of_the_only_unit_is_not_too_late(load: Callable[..., Config], ten_seconds_a_unit: None) -> None:
    config = load("run.walltime_seconds=8")
    index(config)
    extract(config, limit=1)


@pytest.mark.parametrize("executor", [InlineExecutor(), LocalExecutor(1)], ids=["inline", "local"])
def test_waiting_for_others_ends_with_the_time(
    load: Callable[..., Config], clock: Clock, monkeypatch: pytest.MonkeyPatch, executor: Any
) -> None:
    """What another run gives back after that is not begun."""
    config = load()
    cache = index(config).cache
    plan = make_plan(config, cache)
    job = Job(config=config, cache=cache, keys=plan.keys, units=plan.units, allotted=allotment(100))
    waits: list[float] = []

    with closing(Leases(cache.storage, seconds=300)) as others:
        assert all(others.take(unit.shard, unit.keys) for unit in plan.units)

        def wait(seconds: float) -> None:
            waits.append(clock.now)
            clock.now += 50
            if clock.now >= 1100:
                others.close()

        monkeypatch.setattr("kinegraph.cache_schemas.stopping.sleep", wait)
        with pytest.raises(OutOfTimeError, match=r"100 s of this job are over, and other runs have"):
            executor.run(job, lambda event: None)
    assert waits == [1000, 1050]
    assert not cache.ledger.shards("clips")


@pytest.mark.parametrize(("seconds", "at", "is_error"), [(60, 1059, False), (60, 1061, True), (3600, 4500, True)])
def test_a_signal_in_the_first_unit(clock: Clock, seconds: int, at: int, is_error: bool) -> None:
    """It says that the time is up, or something else."""
    schedule = UnitSchedule(Allotment(began_at=1000, ends_at=1000 + seconds))
    assert schedule.cut_off() is None
    clock.now = 1012
    schedule.begin(0)
    clock.now = at
    found = schedule.cut_off()
    assert (found is not None) == is_error
    if found is not None:
        assert f"start-up (12.0 s) plus one shard (more than {at - 1012:.1f} s)" in str(found)


def test_a_stop_at_the_end_of_the_time_names_both_numbers(
    load: Callable[..., Config], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load("run.walltime_seconds=30")
    index(config)

    def stopped(shard: ShardInProgress, batch: Any) -> None:
        clock.now += 31
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardInProgress, "add", stopped)
    with pytest.raises(WalltimeError, match=r"one shard \(more than 31\.0 s\)"):
        extract(config)


@pytest.mark.usefixtures("clock")
def test_whichever_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert allotment(None) is None
    assert allotment(60) == Allotment(began_at=1000, ends_at=1060)
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1030")
    assert allotment(60) == allotment(None) == Allotment(began_at=1000, ends_at=1030)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("said", "ends_at"), [("EndTime=1970-01-01T01:00:00", 3600.0), ("EndTime=Unknown", None), ("", None)]
)
def test_scontrol_knows_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, ends_at: float | None
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\n[ "$*" = "--oneliner show job 7" ] && echo "JobId=7 {said} Deadline=N/A"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    found = allotment(None)
    assert (found and found.ends_at) == ends_at


@pytest.mark.usefixtures("clock")
def test_an_answer_that_does_not_come_is_no_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*command: Any, **keywords: Any) -> None:
        raise subprocess.TimeoutExpired("scontrol", 30)

    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.setattr("kinegraph.cache_schemas.stopping.run", fails)
    assert allotment(None) is None
    assert "timed out after 30 seconds, so the end of SLURM job 8 is unknown" in caplog.text


@pytest.mark.usefixtures("clock")
def test_nobody_to_ask_is_no_limit_and_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert allotment(None) is allotment(None) is None
    (told,) = caplog.messages
    assert told.startswith("scontrol is not on the PATH, so the end of SLURM job 9 is unknown")
    assert told.endswith("Set run.walltime_seconds to the job's time limit.")


class Process:
    """Stands in for a worker process that ended well."""

    exitcode, pid = 0, 0

    def join(self) -> None: ...

    def terminate(self) -> None: ...


def test_a_worker_out_of_time_leaves_the_others_to_theirs(
    load: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has pulled a unit that it cannot begin; what another has begun is waited for, and no worker is replaced."""
    config = load()
    index(config)
    plan = make_plan(config, Cache(config.cache))
    job = Job(config=config, cache=Cache(config.cache), keys=plan.keys, units=plan.units)
    heard: list[Event] = []
    children = iter([("out of time",), ("seals", "out of time")])

    def child(ends: Connection, acts: tuple[str, ...]) -> None:
        for act in acts:
            ends.send(local._Wants())
            unit = ends.recv()
            ends.send(UnitSealed(unit=unit, failed_clips=()) if act == "seals" else local._OutOfTime(OutOfTimeError()))
        ends.close()

    def start(pool: local._Pool, number: int) -> local._Member:
        ours, theirs = Pipe()
        threading.Thread(target=child, args=(theirs, next(children)), daemon=True).start()
        return local._Member(number, Process(), ours)  # type: ignore[arg-type]

    monkeypatch.setattr(local._Pool, "_start", start)
    with pytest.raises(OutOfTimeError):
        LocalExecutor(2).run(job, heard.append)
    assert [type(event) for event in heard] == [UnitSealed]
    assert next(children, None) is None
