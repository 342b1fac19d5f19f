"""Ways take turns, what prepares them is not timed, and ratios are those of a round."""

import itertools

import pytest

from kinegraph.pipeline.machine import hardware
from kinegraph.pipeline.machine.alternation import Spread, Way, alternate, ratios


def test_ways_take_turns_and_each_begins_a_round() -> None:
    ran: list[str] = []
    ways = [Way(name=name, run=lambda name=name: ran.append(name)) for name in "abc"]  # type: ignore[misc]
    alternate(ways, 4)
    assert "".join(ran) == "abcbcacababc"


def test_time_is_that_of_run_alone() -> None:
    """A clock that each call moves on: `prepare` by 100 s, `run` by 1 or 2 s."""
    now, said = [0.0], []

    def takes(seconds: float) -> None:
        now[0] += seconds

    ways = [
        Way(name="slow", run=lambda: takes(2), prepare=lambda: takes(100)),
        Way(name="fast", run=lambda: takes(1), prepare=lambda: takes(100)),
    ]
    seconds = alternate(ways, 3, clock=lambda: now[0], on_progress=lambda *state: said.append(state))
    assert seconds == {"slow": [2, 2, 2], "fast": [1, 1, 1]}
    assert said[:3] == [("slow", 1, 6), ("fast", 2, 6), ("fast", 3, 6)]
    assert said[-1] == ("fast", 6, 6)


def test_ratios_are_those_of_each_round() -> None:
    """A machine that is twice as slow in one round moves seconds, and not ratios."""
    seconds = {"ours": [1.0, 2.0, 1.0], "other": [3.0, 6.0, 4.0]}
    assert ratios(seconds, "other", "ours") == Spread(median=3, lowest=3, highest=4)
    assert Spread.of(seconds["ours"]) == Spread(median=1, lowest=1, highest=2)


def test_an_error_of_a_way_ends_all() -> None:
    counted = itertools.count()

    def fails() -> None:
        next(counted)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        alternate([Way(name="a", run=fails), Way(name="b", run=fails)], 2)
    assert next(counted) == 1


def test_the_machine_is_described(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path_factory.mktemp("proc") / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\n")
    monkeypatch.setattr(hardware, "CPU_INFO", info)
    machine = hardware.machine()
    assert (machine["cpu"], machine["instructions"]) == ("Some CPU @ 2 GHz", ["avx2", "avx512f"])
    monkeypatch.setattr(hardware, "CPU_INFO", info.with_name("gone"))
    assert hardware.machine()["cpu"]
    assert hardware.machine()["instructions"] == []
    run = hardware.described_run("cuda:0 (Some GPU)")
    assert run.keys() == {"machine", "versions", "date", "load"}
    assert run["machine"]["device"] == "cuda:0 (Some GPU)"
    assert run["machine"]["cores"] >= 1
