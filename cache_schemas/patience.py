"""Repeats requests to an object store that does not answer for a while, for example because its server restarts or the
network is down.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from kinegraph.cache_schemas.answers import meaning_of, status_of
from kinegraph.cache_schemas.stopping import asked as stop_asked
from kinegraph.cache_schemas.stopping import sleep

# A lease lasts 300 s (run.lease_seconds). This time is shorter than what is left of a lease when its refresh is due.
# So the leases of a run that waits this long are still valid.
PATIENCE_SECONDS = 180.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
# Names of error classes. Clients have their own errors (those of botocore do not derive from Python's ConnectionError),
# and a client need not be installed.
AWAY = {"ConnectionError", "TimeoutError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError"}
Answer = TypeVar("Answer")
log = logging.getLogger("kinegraph")


def is_away(error: BaseException) -> bool:
    """Returns whether the error means that the store did not answer or is not available now, so that a later request
    may succeed.
    """
    return meaning_of(status_of(error)) == "away" or not AWAY.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def error_text(error: BaseException) -> str:
    """Returns the text of an error: `<class>: <message>`, or only `<class>` if the message is empty."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class Patience:
    """Repeats requests that the object store at `root` could not answer. The pauses between the attempts grow. Threads
    share one `Patience`.

    The waiting ends `PATIENCE_SECONDS` after the store stopped answering, or after a signal. A store that has never
    answered is not waited for, so a wrong address is reported at once. If one thread has waited in vain, the other
    threads do not wait either.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.answered = False
        self.away_since: float | None = None

    def outlast(self, ask: Callable[[], Answer]) -> Answer:
        """Calls `ask`, which makes a request, and returns its result. If the error of `ask` means that the store is not
        available now, waits and calls `ask` again, for at most PATIENCE_SECONDS.

        Raises any other error of `ask` at once. Does not wait if the store has never answered, or if a signal asks this
        process to stop.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            asked = monotonic()
            try:
                answer = ask()
            except Exception as error:
                if not self._waits_after(error, asked):
                    raise
            else:
                self._note_answer()
                return answer
            sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _waits_after(self, error: Exception, asked: float) -> bool:
        if stop_asked() or not (self.answered and is_away(error)):
            return False
        if self.away_since is None:
            self.away_since = asked
            log.warning(
                "%s does not answer (%s); waiting for it, up to %.0f s", self.root, error_text(error), PATIENCE_SECONDS
            )
        return monotonic() - self.away_since < PATIENCE_SECONDS

    def _note_answer(self) -> None:
        if self.away_since is not None:
            log.warning("%s answers again, after %.0f s", self.root, monotonic() - self.away_since)
        self.answered, self.away_since = True, None
