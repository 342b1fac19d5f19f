"""What an extraction says while it runs: a bar on a terminal, a quiet line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cache_schemas.cache import Cache
from pipeline.events import ClipsDone, Event, UnitLeased, UnitSealed, UnitSealedElsewhere, WorkerLost
from pipeline.plan import WorkUnit

LINE_EVERY_SECONDS = 30.0
log = logging.getLogger("kinegraph")


def clips_of(cache: Cache, units: Iterable[WorkUnit]) -> dict[int, int]:
    """Shard -> clips to run, of each unit."""
    return {unit.shard: len(cache.shard_rows(unit.shard) if unit.retried is None else unit.retried) for unit in units}


class Progress:
    """Counts events; also remembers which clips failed. What other runs seal is not among the clips of this one.

    `num_clips`: shard -> clips to run, of each unit.
    """

    def __init__(self, num_clips: Mapping[int, int]) -> None:
        self.num_clips = num_clips
        self.failed: set[str] = set()
        self.total_units, self.total_clips = len(num_clips), sum(num_clips.values())
        self.units_done = self.units_elsewhere = 0
        self.clips = self.videos = 0
        self._leased: set[int] = set()
        self._knows_others = self._has_waited = False
        self.waiting = ""
        self._begun = self._last_line = time.monotonic()
        quiet = not sys.stderr.isatty()
        self._around = ExitStack()
        if not quiet:  # else messages would begin at the end of the bar
            self._around.enter_context(logging_redirect_tqdm())
        self._bar = tqdm(total=self.total_clips, unit="clip", disable=quiet, file=sys.stderr, smoothing=0.1)

    def __call__(self, event: Event) -> None:
        if isinstance(event, ClipsDone):
            self.clips += event.clips
            self.videos += event.videos
            self.waiting = event.waiting
            self._bar.update(event.clips)
        elif isinstance(event, UnitSealed):
            self.units_done += 1
            self._leased.discard(event.unit.shard)
            self.failed |= set(event.failed_clips)
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

    def _note_elsewhere(self, shard: int) -> None:
        self.units_done += 1
        self.units_elsewhere += 1
        self._leased.discard(shard)
        self.total_clips -= self.num_clips[shard]
        self._bar.total = self.total_clips

    def _tell_of_others(self) -> None:
        """Once that there are other runs, and once that there is nothing else to do than to wait for them."""
        if not self._knows_others and (self._leased or self.units_elsewhere):
            self._knows_others = True
            log.info("another run is at work on this cache; this one does the shards that nobody is at")
        if not self._has_waited and self._leased and len(self._leased) + self.units_done == self.total_units:
            self._has_waited = True
            log.info(
                "others have taken all shards that are left; waiting until these are sealed, or can be taken over "
                "because a run died. Ctrl-C loses nothing"
            )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def _show(self) -> None:
        rate = self.videos / self.seconds if self.seconds else 0.0
        words = f"{rate:.1f} videos/s, shards {self.units_done}/{self.total_units}, mostly {self.waiting}"
        if self._bar.disable:
            if time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
                self._last_line = time.monotonic()
                log.info(
                    "%d of %d clips, %.1f clips/s, %s", self.clips, self.total_clips, self.clips / self.seconds, words
                )
        else:
            self._bar.set_postfix_str(words, refresh=False)

    def close(self) -> None:
        self._bar.close()
        self._around.close()
