"""The contract of all sources of scene graphs. Imports no torch."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Reason

# T graphs of a clip, M objects of a graph, R relations.


@dataclass(frozen=True, kw_only=True)
class ClipGraphs:
    """The graphs of one clip as they are cached, in order of time, padding last.

    times [T] float64: seconds from the start of the clip, NaN in padding.
    count [T] int16: objects besides the person, -1 in padding.
    objects [T, M] int16: class numbers, -1 past count.
    linked [T, M] uint8: 1 where an edge leads to the person.
    relations [T, M, R] uint8: 1 where the object has the relation; 0 where it is not linked.
    """

    times: np.ndarray
    count: np.ndarray
    objects: np.ndarray
    linked: np.ndarray
    relations: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> "ClipGraphs":
        """Returns graphs that are all padding, to be filled in. `shape` is (T, M, R)."""
        return cls(
            times=np.full(shape[:1], np.nan),
            count=np.full(shape[:1], -1, np.int16),
            objects=np.full(shape[:2], -1, np.int16),
            linked=np.zeros(shape[:2], np.uint8),
            relations=np.zeros(shape, np.uint8),
        )


class GraphError(Exception):
    """A source has no graphs for a clip. `reason` is a reason of the ledger."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class GraphSource(Protocol):
    """A source of scene graphs: relations of things to the one person, at moments of a clip."""

    def graphs(self, row: ClipRow, frame_times: np.ndarray) -> ClipGraphs:
        """Returns the graphs of a clip whose frames were presented at `frame_times`, s.

        Raises GraphError where the clip can have no graphs.
        """
