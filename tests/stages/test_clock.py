"""One kind of work runs at each moment, so that the seconds of all kinds are those of the thread."""

from collections.abc import Iterator

import pytest
import torch

from kinegraph.stages.clock import DEVICE, START_UP, THREADS, Clock, marked, of_computing, of_prefix, summed
from kinegraph.stages.device_clock import DeviceClock
from tests.clock import Clock as Time


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr("kinegraph.stages.clock.monotonic", time)
    return time


def test_inner_kinds_are_no_part_of_outer_ones(time: Time) -> None:
    clock = Clock("rest")
    time.now += 1
    with clock.during("network"):
        time.now += 10
        with clock.during("copy"):
            time.now += 100
        time.now += 1000
    time.now += 10_000
    assert clock.seconds() == {"rest": 10_001, "network": 1010, "copy": 100}
    time.now += 5
    assert clock.taken()["rest"] == 10_006
    time.now += 7
    assert clock.taken() == {"rest": 7}, "it begins anew"


def test_an_error_ends_a_kind(time: Time) -> None:
    clock = Clock("rest")

    def fails() -> None:
        with clock.during("network"):
            time.now += 1
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fails()
    time.now += 2
    assert clock.taken() == {"network": 1, "rest": 2}


def test_the_first_item_is_waited_for_by_another_name(time: Time) -> None:
    def slow() -> Iterator[str | None]:
        for item in (None, "b", "c"):
            time.now += 10
            yield item

    clock = Clock("rest")
    items = []
    for item in clock.each(slow(), "later", "first"):
        items.append(item)
        time.now += 1
    assert items == [None, "b", "c"]
    assert clock.taken() == {"rest": 3, "first": 10, "later": 20}


def test_a_record_has_the_kinds_of_all_threads_in_one_mapping() -> None:
    recorded = {"proposals": 2.0, "rest": 1.0, START_UP: 9.0}
    recorded |= marked(THREADS, {"decode": 5.0, "fetch": 0.0004}) | marked(DEVICE, {"proposals": 1.5})
    assert of_computing(recorded) == {"proposals": 2.0, "rest": 1.0}
    assert of_prefix(THREADS, recorded) == {"decode": 5.0}, "less than a millisecond is nothing"
    assert of_prefix(DEVICE, recorded) == {"proposals": 1.5}
    earlier = {"waiting for decode": 1.0, "network": 2.0}
    assert of_computing(earlier) == earlier
    assert summed({"a": 1.0}, {"a": 2.0, "b": 3.0}) == {"a": 3.0, "b": 3.0}


class Event:
    """An event of CUDA whose work ends when the test says so."""

    made: list["Event"] = []  # noqa: RUF012
    done = True

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = -1.0
        self.made.append(self)

    def record(self, stream: object) -> None:
        self.at = 250.0 * len([event for event in self.made if event.at >= 0])

    def query(self) -> bool:
        return self.done

    def elapsed_time(self, end: "Event") -> float:
        return end.at - self.at  # ms


def test_a_gpu_is_measured_with_events_and_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event, "made", [])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", None)
    clock = DeviceClock(torch.device("cuda", 1))
    for kind in ("proposals", "features/i3d", "proposals"):
        with clock.during(kind):
            pass
    assert clock.taken() == {"proposals": 0.5, "features/i3d": 0.25}
    assert clock.taken() == {}
    monkeypatch.setattr(Event, "done", False)
    with clock.during("proposals"):
        pass
    assert clock.taken() == {}, "what is under way is left out"


def test_a_cpu_has_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", None)
    clock = DeviceClock(torch.device("cpu"))
    with clock.during("proposals"):
        pass
    assert clock.taken() == {}
