"""When the job that a process belongs to must have ended, and whether another unit can end before. Torch-free."""

import os
import subprocess
import threading
import time
from dataclasses import dataclass

from kinegraph.pipeline.errors import OutOfTimeError, ProgramMissing, WalltimeError
from kinegraph.pipeline.machine import programs

SIGNAL_SECONDS = 60  # before its end, SLURM is asked to tell a job; it may do so up to a minute earlier than that
SHORT_SECONDS = 10 * SIGNAL_SECONDS  # a job this short is not told: it might be stopped as soon as it has begun
ASK_SECONDS = 30.0
CLOCK_SECONDS = 1.0  # two clocks that differ by less count as one


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """The time of a run, seconds since 1970: its beginning, before torch is imported, and its job's end."""

    began_at: float
    ends_at: float

    @property
    def seconds(self) -> float:
        return self.ends_at - self.began_at

    @property
    def stops_at(self) -> float:
        """When who is not told stops by itself: a minute before the end, or in the last tenth of a short time."""
        return self.ends_at - min(SIGNAL_SECONDS, self.seconds / 10)

    def on_clock(self, ahead_seconds: float) -> "Allotment":
        """The same time by a clock that is so far ahead of this one. What measuring that takes makes no difference."""
        if abs(ahead_seconds) < CLOCK_SECONDS:
            return self
        return Allotment(began_at=self.began_at + ahead_seconds, ends_at=self.ends_at + ahead_seconds)

    def require_time_to_wait(self) -> None:
        """For who waits for others, and has nothing begun: raise OutOfTimeError once it is time to stop."""
        if time.time() >= self.stops_at:
            raise OutOfTimeError(
                f"the {self.seconds:.0f} s of this job are over; what is left is with other runs. What is sealed "
                "stays; the same command goes on from there."
            )


def allotment(walltime_seconds: float | None, began_at: float | None = None) -> Allotment | None:
    """The time of a run that begins now: what the config gives it, or what is left of the job, whichever is less.

    `began_at`: of a process that began earlier.
    """
    began_at = time.time() if began_at is None else began_at
    ends = [] if walltime_seconds is None else [began_at + walltime_seconds]
    if (slurm_end := _slurm_end()) is not None:
        ends.append(slurm_end)
    return Allotment(began_at=began_at, ends_at=min(ends)) if ends else None


def _slurm_end() -> float | None:
    """When the SLURM job around this process ends. Only newer versions say so in the environment."""
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        return float(end)
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    try:
        done = programs.run("scontrol", "--oneliner", "show", "job", job, seconds=ASK_SECONDS)
    except (ProgramMissing, subprocess.TimeoutExpired) as error:
        programs.tell_once(
            f"{error}, so it is not known when SLURM job {job} must end, and it may be cut off within a shard. Set "
            "run.walltime_seconds to the job's time limit."
        )
        return None
    ends = [word.removeprefix("EndTime=") for word in done.stdout.split() if word.startswith("EndTime=")]
    try:
        return time.mktime(time.strptime(ends[0], "%Y-%m-%dT%H:%M:%S"))
    except (IndexError, ValueError):  # `Unknown`: the partition has no limit
        return None


class Schedule:
    """Whether one worker may begin another unit. The first always may; then only what can end in time.

    A unit is expected to take as long as the slowest so far, after those that are under way. Without an allotment there
    is always room. `idle_until`: when a process that began long before was first asked for a unit; its start-up counts
    from there.
    """

    def __init__(self, allotted: Allotment | None, idle_until: float | None = None) -> None:
        self.allotted, self.idle_until = allotted, idle_until
        self.slowest_seconds: float | None = None
        self._under_way: dict[int, float] = {}
        self._first_began_at = self._last_ended_at = 0.0
        self._lock = threading.Lock()

    @property
    def lacks_measure(self) -> bool:
        """Whether time matters and no unit has shown yet how much it takes."""
        return self.allotted is not None and self.slowest_seconds is None

    def begin(self, shard: int) -> None:
        with self._lock:
            self._under_way[shard] = now = time.time()
            self._first_began_at = self._first_began_at or now

    def end(self, shard: int) -> None:
        with self._lock:
            now = time.time()
            took = now - max(self._under_way.pop(shard), self._last_ended_at)
            self.slowest_seconds, self._last_ended_at = max(took, self.slowest_seconds or 0.0), now

    def has_room(self) -> bool:
        with self._lock:
            if self.allotted is None or self.slowest_seconds is None:
                return True
            return time.time() + (len(self._under_way) + 1) * self.slowest_seconds <= self.allotted.ends_at

    def stopped(self) -> OutOfTimeError | WalltimeError:
        """Why no further unit is begun; a WalltimeError where the time is too short for any."""
        assert self.allotted is not None
        assert self.slowest_seconds is not None
        if self._start_up_seconds + self.slowest_seconds > self.allotted.seconds:
            return self._too_short(f"{self.slowest_seconds:.1f} s")
        return OutOfTimeError(
            f"no further shard can end within the {self.allotted.seconds:.0f} s of this job: one took up to "
            f"{self.slowest_seconds:.1f} s. What is sealed stays; the same command goes on from there."
        )

    def cut_off(self) -> WalltimeError | None:
        """Why a stop came in the first unit, where it came because the time was up."""
        if self.allotted is None or not self._under_way:
            return None
        warning = 0 if self.allotted.seconds < SHORT_SECONDS else 2 * SIGNAL_SECONDS
        return self.first_cut_off() if time.time() >= self.allotted.ends_at - warning else None

    def first_cut_off(self) -> WalltimeError | None:
        """What to say when the time is up in or before the first unit; None where one has ended, or began late."""
        if self.slowest_seconds is not None or self.idle_until is not None:
            return None
        took = time.time() - self._first_began_at
        return self._too_short(f"more than {took:.1f} s" if self._first_began_at else "not begun")

    @property
    def _start_up_seconds(self) -> float:
        assert self.allotted is not None
        return (self._first_began_at or time.time()) - (self.idle_until or self.allotted.began_at)

    def _too_short(self, unit: str) -> WalltimeError:
        assert self.allotted is not None
        return WalltimeError(
            f"a walltime of {self.allotted.seconds:.1f} s is shorter than start-up ({self._start_up_seconds:.1f} s) "
            f"plus one shard ({unit}). Ask for a longer one, or start a cache with a smaller store.shard_clips."
        )
