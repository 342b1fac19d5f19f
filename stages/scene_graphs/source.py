"""Defines the interface of the sources of scene graphs. Imports no torch.

A scene graph describes a frame. It has one person and some objects, and says which relations each object has to the
person.

Shapes: T graphs of a clip, M objects of a graph, R relations.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Reason


@dataclass(frozen=True, kw_only=True)
class ClipGraphs:
    """The scene graphs of one clip as they are cached, in the order of time. A clip has up to T graphs of up to M
    objects each, and there are R relations. Unused entries are padding.
    """

    times: np.ndarray  # seconds from the start of the clip, float64 [T]. NaN in padding.
    count: np.ndarray  # the number of objects of each graph, without the person, int16 [T]. -1 in padding.
    objects: np.ndarray  # the class numbers of the objects, int16 [T, M]. -1 in padding.
    linked: np.ndarray  # uint8 [T, M], which is 1 if an edge leads from the object to the person, else 0
    # Uint8 [T, M, R], which is 1 if the object has the relation to the person, else 0. An object without an edge has no
    # relation.
    relations: np.ndarray

    @classmethod
    def empty(cls, shape: tuple[int, int, int]) -> "ClipGraphs":
        """Returns a ClipGraphs without graphs, in which everything is padding. The caller writes graphs into its
        arrays. `shape` is (T, M, R): at most T graphs, at most M objects in a graph, and R kinds of relations.
        """
        return cls(
            times=np.full(shape[:1], np.nan),
            count=np.full(shape[:1], -1, np.int16),
            objects=np.full(shape[:2], -1, np.int16),
            linked=np.zeros(shape[:2], np.uint8),
            relations=np.zeros(shape, np.uint8),
        )


class GraphError(Exception):
    """Raised if a source cannot return the scene graphs of a clip. `reason` is the reason of the failure in the ledger,
    such as "missing" or "unreadable". `detail` says in words what is wrong.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class GraphSource(Protocol):
    """The interface of a source of scene graphs, such as the user's files. A scene graph describes one frame of a clip.
    It has one person and some objects, and says which relations each object has to the person.
    """

    def graphs(self, row: ClipRow, frame_times: np.ndarray) -> ClipGraphs:
        """Returns the scene graphs of the clip `row`. `frame_times` are the presentation times of the clip's frames in
        seconds, [frames]. Raises GraphError if the source cannot return them.
        """
