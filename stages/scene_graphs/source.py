"""Defines what every source of scene graphs offers. Imports no torch.

A scene graph describes a frame with one person and some objects. It says which relations each object has to the person.

Shapes: T graphs of a clip, M objects of a graph, R relations.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Reason


@dataclass(frozen=True, kw_only=True)
class ClipGraphs:
    """The graphs of one clip as they are cached, in order of time: T graphs with room for M objects each, and R
    relations. A clip with fewer than T graphs has padding at the end.

    `times` [T] float64 are seconds from the start of the clip, NaN in padding. `count` [T] int16 is the number of
    objects of a graph besides the person, -1 in padding. `objects` [T, M] int16 are the class numbers of the objects,
    and -1 after the last object. `linked` [T, M] uint8 is 1 if an edge leads from the object to the person, else 0.
    `relations` [T, M, R] uint8 is 1 if the object has the relation to the person. It is 0 for an object that is not
    linked.
    """

    times: np.ndarray
    count: np.ndarray
    objects: np.ndarray
    linked: np.ndarray
    relations: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> "ClipGraphs":
        """Returns a ClipGraphs with fill values in every place, which the caller overwrites. `shape` is (T, M, R): T
        frames, M places for objects in a frame, R kinds of relations.
        """
        return cls(
            times=np.full(shape[:1], np.nan),
            count=np.full(shape[:1], -1, np.int16),
            objects=np.full(shape[:2], -1, np.int16),
            linked=np.zeros(shape[:2], np.uint8),
            relations=np.zeros(shape, np.uint8),
        )


class GraphError(Exception):
    """Raised if a source has no graphs for a clip. `reason` is a reason for a failure in the ledger, such as "missing".
    `detail` says in words what is missing.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class GraphSource(Protocol):
    """A source of scene graphs. A graph belongs to one time of a clip. It describes one person and some objects, and
    says which relations each object has to the person.
    """

    def graphs(self, row: ClipRow, frame_times: np.ndarray) -> ClipGraphs:
        """Returns the ClipGraphs, the scene graphs, of the clip `row`. `frame_times` are the presentation times of the
        clip's frames in seconds.

        Raises GraphError if the source has no graphs for this clip.
        """
