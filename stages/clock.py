"""Divides the time of threads among kinds of work, and names the kinds. Imports only the standard library.

An extraction has one thread that computes. Each moment of this thread counts for exactly one kind of work, from the
first request for a batch to the last batch of the last shard. So the seconds of its kinds add up to its wall time.
Other threads, such as decoders, work at the same time. Their seconds are not part of this sum.

A ledger record has all seconds in one mapping, `seconds`. A name without a prefix is a kind of the thread that
computes: a key of COMPUTING, or the key of a stage (the time in its runner). The prefix THREADS marks a kind of the
other threads, and the prefix DEVICE the time of a stage on a CUDA device. START_UP stands in the record of the first
shard of a worker only.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar

Item = TypeVar("Item")

FIRST_BATCH, DECODE_WAIT, WRITER_WAIT = "waiting for the first batch", "waiting for decode", "waiting for writer"
COPY, REST = "copy", "rest"
DECODE, CONVERT, FETCH, FETCH_WAIT = "decode", "convert and resize", "fetch", "waiting for fetch"
ASSEMBLE, WRITE = "assemble", "write"

COMPUTING = {
    FIRST_BATCH: "the first batch is decoded, and no network has work yet",
    DECODE_WAIT: "a later batch is not decoded yet",
    COPY: "results go from the device to the arrays of the shard; on a GPU also the wait for these results",
    WRITER_WAIT: "the shard before is still being written",
    REST: "everything else in this thread",
}
BESIDE = {
    DECODE: "decoder threads read and decode videos",
    CONVERT: "decoder threads convert wanted frames to RGB, crop and resize them",
    FETCH_WAIT: "decoder threads wait for a copy of a video at a URL",
    FETCH: "threads copy videos from URLs to this machine",
    ASSEMBLE: "one thread puts the pixels of clips together to batches",
    WRITE: "one thread compresses, writes and seals shards",
}
THREADS, DEVICE, START_UP = "threads: ", "device: ", "before: start-up"


class Clock:
    """Measures the time of one thread by kinds of work. Each moment counts for one kind: that of the innermost `during`
    block, or `base` outside of all these blocks.
    """

    def __init__(self, base: str) -> None:
        self._kind, self._since = base, monotonic()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Counts the time of a `with` block as `kind`. The time of a block inside the block goes to the inner kind."""
        outer = self._change(kind)
        try:
            yield
        finally:
            self._change(outer)

    def each(self, items: Iterable[Item], kind: str, first: str) -> Iterator[Item]:
        """Yields `items`, and measures how long the caller waits for each of them. A kind is a name of work or waiting,
        such as DECODE_WAIT. The wait for the first item counts as the kind `first`, and every other wait as `kind`.
        """
        rest = iter(items)
        while True:
            with self.during(first):
                item = next(rest, rest)  # the iterator itself is no item
            if item is rest:
                return
            yield item  # type: ignore[misc]
            first = kind

    def seconds(self) -> dict[str, float]:
        """Returns a dict kind -> seconds so far. The seconds sum up to the time since the clock was made, or since the
        last call of `taken`, which sets all kinds to 0.
        """
        self._change(self._kind)
        return dict(self._seconds)

    def taken(self) -> dict[str, float]:
        """Returns the seconds of each kind of work since the clock was made or since the last call of `taken`. Begins
        anew with 0 s for all kinds.
        """
        seconds = self.seconds()
        self._seconds = {}
        return seconds

    def _change(self, kind: str) -> str:
        now = monotonic()
        self._seconds[self._kind] = self._seconds.get(self._kind, 0.0) + now - self._since
        outer, self._kind, self._since = self._kind, kind, now
        return outer


def summed(*parts: Mapping[str, float]) -> dict[str, float]:
    """Returns the sum of several mappings kind -> seconds, kind by kind."""
    total: dict[str, float] = {}
    for part in parts:
        for kind, seconds in part.items():
            total[kind] = total.get(kind, 0.0) + seconds
    return total


def marked(prefix: str, seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns a copy of `seconds` (kind of work -> seconds) with `prefix` before each kind, for a ledger record. Kinds
    that took less than a millisecond are left out.
    """
    return {f"{prefix}{kind}": value for kind, value in seconds.items() if round(value, 3) > 0}


def of_prefix(prefix: str, seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns those entries of `seconds` whose kind begins with `prefix`, and removes the prefix from the kinds.

    `seconds` is the field of a ledger record: kind of work -> seconds. `prefix` is THREADS or DEVICE.
    """
    return {kind.removeprefix(prefix): value for kind, value in seconds.items() if kind.startswith(prefix)}


def of_computing(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns those entries of a ledger record's `seconds` (kind of work -> seconds) that belong to the thread that
    computes. Their sum is its wall time.

    Records of earlier versions have only such kinds.
    """
    return {
        kind: value for kind, value in seconds.items() if not kind.startswith((THREADS, DEVICE)) and kind != START_UP
    }
