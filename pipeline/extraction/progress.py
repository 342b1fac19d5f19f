"""Shows the progress of an extraction: a bar on a terminal, or a line in a log every 30 s to 5 min."""

import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from tqdm.contrib.logging import logging_redirect_tqdm

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.extraction.events import (
    ClipsDone,
    Event,
    Measured,
    Preparing,
    UnitLeased,
    UnitSealed,
    UnitSealedElsewhere,
    WorkerLost,
)
from kinegraph.pipeline.machine.terminal import Bar, LineTimer, Pace, speed

log = logging.getLogger("kinegraph")


def clips_of(cache: Cache, units: Iterable[WorkUnit]) -> dict[int, int]:
    """Returns a dict {shard number: number of clips to compute in this shard}, for the work units `units`. If a unit
    only retries failed clips, the other clips of its shard do not count.
    """
    return {unit.shard: len(cache.shard_rows(unit.shard) if unit.retried is None else unit.retried) for unit in units}


class Progress:
    """Shows the progress of an extraction, and remembers which clips failed and which work units were finished. Call
    this object with each event of a worker.

    `num_clips` maps each shard number to the number of clips to compute. If another run finishes a shard, its clips are
    subtracted from the total. `task` is the first word of each line in a log, for example "extract".
    """

    def __init__(self, num_clips: Mapping[int, int], task: str = "extract") -> None:
        self.num_clips, self.task = num_clips, task
        self.failed: set[str] = set()
        self.sealed: list[WorkUnit] = []
        self.total_units, self.total_clips = len(num_clips), sum(num_clips.values())
        self.units_done = self.units_elsewhere = 0
        self.clips = self.videos = 0
        self._leased: set[int] = set()
        self._knows_others = self._has_waited = False
        self.doing = "starting"
        self._logged: set[str] = set()
        self._begun = time.monotonic()
        self._pace: Pace | None = None  # begins when the networks are loaded
        self._lines = LineTimer()
        self._around = ExitStack()
        self._bar = Bar(self.total_clips)
        if self._bar.is_shown:  # otherwise messages would begin at the end of the bar
            self._around.enter_context(logging_redirect_tqdm())
        self._show()

    def __call__(self, event: Event) -> None:
        if isinstance(event, ClipsDone):
            self._pace = self._pace or Pace(seconds_ago=self.seconds)
            self.clips += event.clips
            self.videos += event.videos
            self.doing = f"mostly {event.waiting}"
        elif isinstance(event, Preparing):
            self._prepare(event.doing)
        elif isinstance(event, Measured):
            log.info("%s", event.result)
        elif isinstance(event, UnitSealed):
            self.units_done += 1
            self._leased.discard(event.unit.shard)
            self.failed |= set(event.failed_clips)
            self.sealed.append(event.unit)
        elif isinstance(event, UnitSealedElsewhere):
            self._note_elsewhere(event.unit.shard)
        elif isinstance(event, UnitLeased):
            self._leased.add(event.unit.shard)
        elif isinstance(event, WorkerLost):
            how = "" if event.exit_code is None else f" (exit code {event.exit_code})"
            shards = ", ".join(map(str, event.shards))
            log.warning("a worker died%s%s", how, f" with shards {shards}" if shards else ", at no shard")
        self._tell_of_others()
        self._show()

    def _prepare(self, doing: str) -> None:
        """Shows the text `doing`, for example "loading networks", before the first batch. A log gets the same text only
        once.
        """
        self._pace = Pace(self.clips) if not self.clips else self._pace
        self.doing = doing
        if not self._bar.is_shown and doing not in self._logged:
            self._logged.add(doing)
            log.info("%s: %s", self.task, doing)

    def _note_elsewhere(self, shard: int) -> None:
        self.units_done += 1
        self.units_elsewhere += 1
        self._leased.discard(shard)
        self.total_clips -= self.num_clips[shard]

    def _tell_of_others(self) -> None:
        """Logs once that other runs work on the cache. Logs once that only shards of other runs are left, and that this
        run waits for them.
        """
        if not self._knows_others and (self._leased or self.units_elsewhere):
            self._knows_others = True
            log.info("another run works on this cache. This run does the shards that no other run has leased")
        if not self._has_waited and self._leased and len(self._leased) + self.units_done == self.total_units:
            self._has_waited = True
            log.info(
                "other runs have leased all shards that are left. This run waits until they are sealed, or until a run "
                "dies and its shards can be taken over. Ctrl-C loses nothing"
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def _show(self) -> None:
        shards = f"{self.units_done:,} of {counted(self.total_units, 'shard')}"
        clips = f"{self.clips:,} of {counted(self.total_clips, 'clip')}"
        pace = []
        if self._pace is not None and self.clips:
            pace = [
                speed(self.clips / (time.monotonic() - self._pace.since)),
                *self._pace.left(self.clips, self.total_clips),
            ]
        self._bar.show(self.clips, self.total_clips, [clips, *pace, shards, self.doing] if pace else [self.doing])
        if not self._bar.is_shown and pace and self._lines.is_due():
            log.info("%s: %s", self.task, ", ".join([shards, clips, *pace, self.doing]))

    def close(self) -> None:
        self._bar.close()
        self._around.close()
