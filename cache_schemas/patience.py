"""Waiting for a store that is away: its server restarts, its port is refused, the network is gone for a while."""

import logging
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from kinegraph.cache_schemas.stopping import asked as stop_asked
from kinegraph.cache_schemas.stopping import sleep

# Less than what is left of a lease's 300 s (run.lease_seconds) when it was due to be refreshed as the store went away:
# the leases of a run that outlasts it are still good.
PATIENCE_SECONDS = 180.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 15.0
# By name: clients have errors of their own (botocore's are no ConnectionError of Python's) and need not be installed.
AWAY = {"ConnectionError", "TimeoutError", "HTTPClientError", "ClientConnectionError", "ClientPayloadError"}
AWAY_STATUS = {429, 500, 502, 503, 504}
Answer = TypeVar("Answer")
log = logging.getLogger("kinegraph")


def status_in(error: BaseException | None) -> int:
    """What the server answered, as far as the error itself says, else 0.

    Errors of botocore have a response, those of aiohttp a status.
    """
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None)
    return status if isinstance(status, int) else 0


def status_of(error: BaseException | None) -> int:
    """The same of an error of fsspec's, which keeps the client's as its cause."""
    return status_in(error.__cause__) if error else 0


def is_away(error: BaseException) -> bool:
    """Whether nothing answered, or said that it cannot now."""
    return status_of(error) in AWAY_STATUS or not AWAY.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def told(error: BaseException) -> str:
    """An error by its kind, and by its words where it has some."""
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class Patience:
    """Repeats what a store could not answer, after longer and longer pauses, for `PATIENCE_SECONDS` since it went away.

    Only for one that answered before: a wrong address is told at once. Threads share it, so that once one of them gave
    up the others do too. What clients repeat by themselves comes on top.
    A signal that stops the process ends the waiting.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.answered = False
        self.away_since: float | None = None

    def outlast(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` gives. Raises what it raised last."""
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
                "%s does not answer (%s); waiting for it, up to %.0f s", self.root, told(error), PATIENCE_SECONDS
            )
        return monotonic() - self.away_since < PATIENCE_SECONDS

    def _note_answer(self) -> None:
        if self.away_since is not None:
            log.warning("%s answers again, after %.0f s", self.root, monotonic() - self.away_since)
        self.answered, self.away_since = True, None
