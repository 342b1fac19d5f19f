"""Measures how much time threads spend on each kind of work, and names the kinds. Imports only the standard library.

One thread of an extraction runs the networks (the computing thread). The seconds of its kinds add up to its wall time.
Other threads, such as decoders, work at the same time. Their seconds are not part of this sum.

A ledger record has {kind of work: seconds} of all threads. A name without a prefix is a kind of the computing thread: a
key of COMPUTING, or the key of a stage. The prefix THREADS marks the other threads, and the prefix DEVICE marks a stage
on a CUDA device. START_UP is the time that a worker needs to start.
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
    """A stopwatch for one thread, which divides the time among kinds of work, such as "decode" and "write". Each moment
    counts for one kind: the kind of the innermost `during` block, or `base` outside of all blocks.
    """

    def __init__(self, base: str) -> None:
        self._kind, self._since = base, monotonic()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Counts the time that a `with` block takes as `kind`. In nested blocks, time counts only for the kind of the
        inner block.
        """
        outer = self._change(kind)
        try:
            yield
        finally:
            self._change(outer)

    def each(self, items: Iterable[Item], kind: str, first: str) -> Iterator[Item]:
        """Yields the `items`, and measures how long the caller waits for each item. The wait for the first item counts
        as the kind `first`. Every later wait counts as `kind`. A kind is a name of work or waiting, such as
        DECODE_WAIT.
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
        """Returns {kind: seconds} since the clock was made, or since the last call of `taken`. Only `taken` sets the
        kinds to 0.
        """
        self._change(self._kind)
        return dict(self._seconds)

    def taken(self) -> dict[str, float]:
        """Returns {kind: seconds} since the clock was made, or since the last call of this method. Then sets all kinds
        to 0.
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
    """Adds up several mappings {kind of work: seconds}. Returns one mapping, with the sum for each kind."""
    total: dict[str, float] = {}
    for part in parts:
        for kind, seconds in part.items():
            total[kind] = total.get(kind, 0.0) + seconds
    return total


def marked(prefix: str, seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns a copy of `seconds`, {kind of work: seconds}, with `prefix` before the name of each kind. Ledger records
    have such names. Kinds that took less than half a millisecond are left out.
    """
    return {f"{prefix}{kind}": value for kind, value in seconds.items() if round(value, 3) > 0}


def of_prefix(prefix: str, seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the entries of `seconds` whose kind begins with `prefix`. The kinds in the result have no prefix.

    `seconds` is {kind of work: seconds} of a ledger record. `prefix` is THREADS or DEVICE.
    """
    return {kind.removeprefix(prefix): value for kind, value in seconds.items() if kind.startswith(prefix)}


def of_computing(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the part of `seconds` that belongs to the computing thread, {kind of work: seconds}. These seconds add up
    to the wall time of the thread. In records of early versions, all entries belong to the computing thread.

    `seconds` is {kind of work: seconds} of a ledger record.
    """
    return {
        kind: value for kind, value in seconds.items() if not kind.startswith((THREADS, DEVICE)) and kind != START_UP
    }
