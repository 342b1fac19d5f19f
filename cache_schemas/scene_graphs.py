"""Turns the arrays of the stage `graphs` into scene graphs with names. A scene graph lists the objects around one
person at one time, and how each object is related to the person.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

GRAPHS = "graphs"


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object of a scene graph."""

    name: str  # the name of its class
    is_linked: bool  # whether an edge leads from the object to the person
    relations: tuple[str, ...]  # the names of the relations of the object to the person


@dataclass(frozen=True, kw_only=True)
class SceneGraph:
    """The objects around a person at one time. `seconds` is the time since the start of the clip."""

    seconds: float
    objects: tuple[SceneObject, ...]


def scene_graphs(graphs: Mapping[str, np.ndarray], vocabulary: Mapping[str, Any]) -> list[SceneGraph]:
    """Returns the scene graphs of one clip in the order of time.

    `graphs` maps the name of each array of the stage `graphs`, such as `graphs/times`, to the row of the clip.
    `vocabulary` has two lists, `classes` and `relations`. Item i of a list is the name of class i or relation i. A
    number without a name becomes a text such as `classes 5`.
    """
    times, count, objects, linked, relations = (
        graphs[f"{GRAPHS}/{name}"] for name in ("times", "count", "objects", "linked", "relations")
    )

    def name(kind: str, index: int) -> str:
        names = vocabulary.get(kind, ())
        return str(names[index]) if 0 <= index < len(names) else f"{kind} {index}"

    def one(index: int, place: int) -> SceneObject:
        found = np.flatnonzero(relations[index, place]).tolist()
        return SceneObject(
            name=name("classes", int(objects[index, place])),
            is_linked=bool(linked[index, place]),
            relations=tuple(name("relations", relation) for relation in found),
        )

    return [
        SceneGraph(seconds=float(times[index]), objects=tuple(one(index, place) for place in range(num_objects)))
        for index, num_objects in enumerate(count.tolist())
        if num_objects >= 0
    ]
