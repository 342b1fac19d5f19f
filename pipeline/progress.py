"""What an extraction says while it runs: a bar on a terminal, a quiet line now and then elsewhere."""

import logging
import sys
import time

from tqdm import tqdm

from pipeline.events import ClipsDone, Event, UnitSealed, UnitSealedElsewhere, WorkerLost

LINE_EVERY_SECONDS = 30.0
log = logging.getLogger("kinegraph")


class Progress:
    """Counts events; also remembers which clips failed."""

    def __init__(self, total_clips: int, total_units: int) -> None:
        self.failed: set[str] = set()
        self.units_done, self.total_units, self.total_clips = 0, total_units, total_clips
        self.clips = self.videos = 0
        self.waiting = ""
        self._begun = self._last_line = time.monotonic()
        quiet = not sys.stderr.isatty()
        self._bar = tqdm(total=total_clips, unit="clip", disable=quiet, file=sys.stderr, smoothing=0.1)

    def __call__(self, event: Event) -> None:
        if isinstance(event, ClipsDone):
            self.clips += event.clips
            self.videos += event.videos
            self.waiting = event.waiting
            self._bar.update(event.clips)
        elif isinstance(event, UnitSealed):
            self.units_done += 1
            self.failed |= set(event.failed_clips)
        elif isinstance(event, UnitSealedElsewhere):
            self.units_done += 1
        elif isinstance(event, WorkerLost):
            how = "" if event.exit_code is None else f" (exit code {event.exit_code})"
            log.warning("a worker died%s with shards %s", how, event.shards)
        self._show()

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
