"""Computes the time limit of a run, and decides whether another work unit can end before it. Torch-free.

A unit is one shard with the stage keys to compute for it.
"""

import os
import subprocess
import threading
import time
from dataclasses import dataclass

from kinegraph.pipeline.errors import OutOfTimeError, ProgramMissing, WalltimeError
from kinegraph.pipeline.machine import programs

SIGNAL_SECONDS = 60  # SLURM signals a job so long before its end; the signal may come up to a minute earlier
SHORT_SECONDS = 10 * SIGNAL_SECONDS  # a shorter job gets no signal: the signal might come as soon as the job begins
ASK_SECONDS = 30.0
CLOCK_SECONDS = 1.0  # two clocks that differ by less count as one


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """The time limit of a run. The run began at `began_at` and must end by `ends_at`, both in seconds since 1970."""

    began_at: float
    ends_at: float

    @property
    def seconds(self) -> float:
        return self.ends_at - self.began_at

    @property
    def stops_at(self) -> float:
        """Returns the time at which the run stops by itself, in seconds since 1970: 60 s before `ends_at`.

        If the whole time is shorter than 600 s, the run stops a tenth of the whole time before `ends_at`.
        """
        return self.ends_at - min(SIGNAL_SECONDS, self.seconds / 10)

    def on_clock(self, ahead_seconds: float) -> "Allotment":
        """Returns a copy of this time limit whose times are converted to another clock, for example that of another
        machine. The other clock is `ahead_seconds` ahead of the clock of this object.

        If the clocks differ by less than one second, returns this object, because clocks cannot be compared more
        exactly.
        """
        if abs(ahead_seconds) < CLOCK_SECONDS:
            return self
        return Allotment(began_at=self.began_at + ahead_seconds, ends_at=self.ends_at + ahead_seconds)


def require_time_to_wait(allotted: Allotment | None) -> None:
    """Raises OutOfTimeError if the time limit `allotted` of the run has passed. Call this function while the run only
    waits for shards that other runs compute.

    `allotted` None means that the time is not limited.
    """
    if allotted is not None and time.time() >= allotted.stops_at:
        raise OutOfTimeError(
            f"the {allotted.seconds:.0f} s of this job are over, and other runs have the shards that are left. "
            "Finished shards are kept. The same command goes on from there."
        )


def allotment(walltime_seconds: float | None, began_at: float | None = None) -> Allotment | None:
    """Returns the time limit of a run as an Allotment, or None if the time is not limited.

    The run begins at `began_at`, in seconds since 1970, by default now. The run ends after `walltime_seconds`, or at
    the end of the SLURM job around this process, whichever comes first.
    """
    began_at = time.time() if began_at is None else began_at
    ends = [] if walltime_seconds is None else [began_at + walltime_seconds]
    if (slurm_end := _slurm_end()) is not None:
        ends.append(slurm_end)
    return Allotment(began_at=began_at, ends_at=min(ends)) if ends else None


def _slurm_end() -> float | None:
    """Returns the time at which the SLURM job around this process ends, in seconds since 1970. Returns None if there is
    no job, or if its end is unknown.
    """
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
        return float(end)
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    try:
        done = programs.run("scontrol", "--oneliner", "show", "job", job, seconds=ASK_SECONDS)
    except (ProgramMissing, subprocess.TimeoutExpired) as error:
        programs.tell_once(
            f"{error}, so the end of SLURM job {job} is unknown, and the job may be cut off within a shard. Set "
            "run.walltime_seconds to the job's time limit."
        )
        return None
    ends = [word.removeprefix("EndTime=") for word in done.stdout.split() if word.startswith("EndTime=")]
    try:
        return time.mktime(time.strptime(ends[0], "%Y-%m-%dT%H:%M:%S"))
    except (IndexError, ValueError):  # `Unknown`: the partition has no limit
        return None


class UnitSchedule:
    """Decides whether a worker may begin another work unit within its time limit. A work unit is one shard with the
    stage keys to compute for it.

    The first unit may always begin. A later unit may begin if it would end before the limit, if it took as long as the
    slowest unit so far.

    - `allotted`: the time limit, or None if the time is not limited.
    - `idle_until`: the time, in seconds since 1970, at which the first unit came, if the process waited long for it.
      Otherwise None.
    """

    def __init__(self, allotted: Allotment | None, idle_until: float | None = None) -> None:
        self.allotted, self.idle_until = allotted, idle_until
        self.slowest_seconds: float | None = None
        self._under_way: dict[int, float] = {}
        self._first_began_at = self._last_ended_at = 0.0
        self._lock = threading.Lock()

    @property
    def lacks_measure(self) -> bool:
        """Returns whether the time is limited and no work unit has ended yet, so that the time of a unit is unknown."""
        return self.allotted is not None and self.slowest_seconds is None

    def begin(self, shard: int) -> None:
        """Records that the computation of the shard `shard` begins now."""
        with self._lock:
            self._under_way[shard] = now = time.time()
            self._first_began_at = self._first_began_at or now

    def end(self, shard: int) -> None:
        """Records that the computation of the shard `shard` ends now."""
        with self._lock:
            now = time.time()
            took = now - max(self._under_way.pop(shard), self._last_ended_at)
            self.slowest_seconds, self._last_ended_at = max(took, self.slowest_seconds or 0.0), now

    def has_room(self) -> bool:
        """Returns whether a work unit (one shard with its stages) that begins now is expected to end before the time
        limit.
        """
        with self._lock:
            if self.allotted is None or self.slowest_seconds is None:
                return True
            return time.time() + (len(self._under_way) + 1) * self.slowest_seconds <= self.allotted.ends_at

    def stopped(self) -> OutOfTimeError | WalltimeError:
        """Returns the error to raise when no further work unit may begin: a WalltimeError if the whole time is too
        short for one unit, otherwise an OutOfTimeError.
        """
        assert self.allotted is not None
        assert self.slowest_seconds is not None
        if self._start_up_seconds + self.slowest_seconds > self.allotted.seconds:
            return self._too_short(f"{self.slowest_seconds:.1f} s")
        return OutOfTimeError(
            f"no further shard can end within the {self.allotted.seconds:.0f} s of this job: one took up to "
            f"{self.slowest_seconds:.1f} s. Finished shards are kept. The same command goes on from there."
        )

    def cut_off(self) -> WalltimeError | None:
        """Returns a WalltimeError if the time limit caused a signal while the first work unit was computed. Returns
        None otherwise. Call this method right after the signal.

        The time limit counts as the cause if the signal came shortly before the limit, or after the limit.
        """
        if self.allotted is None or not self._under_way:
            return None
        warning = 0 if self.allotted.seconds < SHORT_SECONDS else 2 * SIGNAL_SECONDS
        return self.first_cut_off() if time.time() >= self.allotted.ends_at - warning else None

    def first_cut_off(self) -> WalltimeError | None:
        """Returns a WalltimeError if the time limit ended before the first work unit ended, else None.

        Returns None, too, if the process waited long for its first unit, because a new job may have enough time.
        """
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
            f"plus one shard ({unit}). Ask for a longer walltime, or start a cache with a smaller store.shard_clips."
        )
