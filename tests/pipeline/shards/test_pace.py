"""The rate of a stage: pauses do not count, units side by side count once."""

import pytest

from kinegraph.cache_schemas.ledger import Record
from kinegraph.pipeline.shards.pace import RECENT_RECORDS, Sealed, clips_per_second


def test_one_worker_with_a_pause() -> None:
    units = [Sealed(at=float(at), rows=8, seconds=4.0) for at in (100, 104, 108, 90_000, 90_004)]
    assert clips_per_second(units) == pytest.approx(2.0)


def test_two_workers_side_by_side() -> None:
    units = [Sealed(at=100.0 + 2 * number, rows=8, seconds=4.0) for number in range(40)]
    assert clips_per_second(reversed(units)) == pytest.approx(320 / (4 + 39 * 2))


def test_only_recent_units_count() -> None:
    slow = [Sealed(at=float(at), rows=1, seconds=100.0) for at in range(0, 1000, 100)]
    fast = [Sealed(at=5000.0 + at, rows=10, seconds=1.0) for at in range(RECENT_RECORDS)]
    assert clips_per_second(slow + fast) == pytest.approx(10.0)


@pytest.mark.parametrize("ahead", [0.0, 3600.0, -3600.0])
def test_the_clocks_of_two_hosts_are_not_compared(ahead: float) -> None:
    """Each does 8 clips in 4 s, side by side with the other, whose clock is an hour ahead or behind."""
    one = [Sealed(at=1e6 + 4.0 * number, rows=8, seconds=4.0, host="one") for number in range(10)]
    other = [Sealed(at=1e6 + 4.0 * number + ahead, rows=8, seconds=4.0, host="other") for number in range(10)]
    assert clips_per_second(one + other, {"one", "other"}) == pytest.approx(4.0), "together"
    assert clips_per_second(one + other, {"other", "new"}) == pytest.approx(2.0), "one has stopped"
    assert clips_per_second(one + other) == pytest.approx(2.0), "of one host: none is at work"


def test_nothing_tells() -> None:
    assert clips_per_second([]) is None
    assert clips_per_second([Sealed.of(record("", {}))]) is None


def test_times_are_read_as_sealing_writes_them() -> None:
    sealed = Sealed.of(record("1970-01-01T00:01:40.500+00:00", {"decode": 1.0, "features": 2.0}))
    assert sealed == Sealed(at=100.5, rows=8, seconds=3.0, host="here")


def record(sealed_at: str, seconds: dict[str, float]) -> Record:
    return Record(
        key="clips", shard=0, num_rows=8, fingerprint="", objects={}, seconds=seconds, host="here", sealed_at=sealed_at
    )
