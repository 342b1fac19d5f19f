"""Summarises ledger records. A summary has the counts that `kinegraph status` shows. Imports no torch."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from kinegraph.cache_schemas.ledger import Record
from kinegraph.pipeline.shards.pace import Sealed


class Summary(NamedTuple):
    """The counts of one ledger record."""

    failed: dict[str, int]  # reason of a failure, such as "timeout" -> number of clips that failed for it
    num_warned: int  # the number of clips with warnings of the decoder
    num_bytes: int  # the size of the shard's objects
    kinds: tuple[str, ...]  # names of kinds of work, such as "copy"
    seconds: tuple[float, ...]  # the seconds that each of `kinds` took
    sealed: Sealed  # when and on which host the shard was finished, and its number of rows

    @classmethod
    def of(cls, record: Record) -> "Summary":
        return cls(
            failed=dict(Counter(failure.reason for failure in record.failures)),
            num_warned=len(record.warnings),
            num_bytes=sum(entry.size for entry in record.objects.values()),
            kinds=tuple(record.seconds),
            seconds=tuple(record.seconds.values()),
            sealed=Sealed.of(record),
        )


def total_seconds(summaries: Iterable[Summary]) -> dict[str, float]:
    """Returns kind of work -> sum of its seconds in all `summaries`. The order of the summaries does not matter."""
    rows_of: dict[tuple[str, ...], list[tuple[float, ...]]] = {}  # column by column takes a tenth of the time
    for summary in summaries:
        rows_of.setdefault(summary.kinds, []).append(summary.seconds)
    values_of: dict[str, list[float]] = {}
    for kinds, rows in rows_of.items():
        for kind, column in zip(kinds, zip(*rows, strict=True), strict=True):
            values_of.setdefault(kind, []).extend(column)
    return {kind: math.fsum(values) for kind, values in values_of.items()}
