"""The simulated cluster of `benchmarks/week.py`, small: what its tasks do when machines die and a unit is deadly."""

import pytest

from benchmarks.week import HOUR, MINUTE, Cluster, arguments, print_account, run


def test_tasks_share_the_units_and_end_soon_after_the_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster(arguments("--workers 6 --units 40 --minutes 20 --hours 2 --deaths-a-day 8 --seed 3".split()))
    run(cluster)  # which asserts that each unit was sealed once
    account = cluster.account
    assert account.num_sealed == 39
    assert account.ends["killed"] > 0
    assert account.ends["OutOfTimeError"] > 0
    assert account.spent["twice"] == 0
    assert account.spent["sealed"] > 39 * 15 * MINUTE
    assert sum(account.spent.values()) == pytest.approx(account.held_seconds, rel=0.03), "all time is accounted for"
    assert account.ends["SetAsideError"] == 6, "each task names the deadly unit"
    deaths_at_it = account.spent["deadly"] / cluster.unit_seconds[cluster.deadly]
    assert deaths_at_it < 5, "three workers, one alone, and not each task one after the other"
    assert cluster.simulation.now - account.sealed_at < HOUR
    print_account(cluster)
    assert "39 units were sealed exactly once" in capsys.readouterr().out
