"""Reads files of scene graphs, one file per video. Imports no torch.

    {"frames": [{"seconds": 1.5, "objects": [{"class": "chair", "relations": ["sitting_on", "beneath"]}, ...]}, ...]}

`objects` are the objects besides the person. `"relations": null` means that no edge leads from the object to the
person. A frame that shows only the person has an empty list of objects. Keys that are not in this example are ignored.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from kinegraph.cache_schemas.documents import said
from kinegraph.cache_schemas.regular import read_regular
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.scene_graphs.options import GraphFileOptions
from kinegraph.stages.scene_graphs.vocabulary import Vocabulary, plain


class GraphFileError(ValueError):
    """Raised if a file of scene graphs cannot be read, or if its content is wrong. The message says why."""


@dataclass(frozen=True, kw_only=True)
class GraphObject:
    """An object of a graph, with the number of its class and the numbers of its relations to the person.

    `relations` is None if the object has no edge to the person.
    """

    class_number: int
    relations: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class FrameGraph:
    """The graph of one frame. `objects` are its objects, without the person. `seconds` is the time of the frame,
    counted from the first shown frame of the video.
    """

    seconds: float
    objects: tuple[GraphObject, ...]


class _Object(BaseModel):
    class_name: str = Field(alias="class")
    relations: list[str] | None


class _Frame(BaseModel):
    seconds: FiniteFloat
    objects: list[_Object]


class _Document(BaseModel):
    frames: list[_Frame]


def read_graphs(path: Path, options: GraphFileOptions) -> tuple[FrameGraph, ...]:
    """Returns the FrameGraphs in the file `path`, one for each frame that the file lists, in order of time.

    Raises FileNotFoundError if there is no such file, OSError if it cannot be read, and GraphFileError if its content
    is wrong.
    """
    try:
        frames = _Document.model_validate_json(read_regular(path)).frames
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise GraphFileError(f"{where}: {said(first)}" if where else said(first)) from error
    for before, after in pairwise(frames):
        if after.seconds <= before.seconds:
            raise GraphFileError(f"lists {after.seconds:g} s after {before.seconds:g} s; expected ascending times")
    names = _Numbers(options.vocabulary)
    return tuple(_frame_graph(frame, names, options.max_objects) for frame in frames)


class _Numbers:
    """The numbers of the names in a vocabulary. `classes` maps the name of a class to its number, and `relations` the
    name of a relation. The names have the form that `plain` returns. A relation that the vocabulary ignores has None in
    place of a number.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.classes = {plain(name): place for place, name in enumerate(vocabulary.classes)}
        self.relations: dict[str, int | None] = dict.fromkeys(map(plain, vocabulary.ignored_relations))
        self.relations |= {plain(name): place for place, name in enumerate(vocabulary.relations)}


def _frame_graph(frame: _Frame, names: _Numbers, max_objects: int) -> FrameGraph:
    if len(frame.objects) > max_objects:
        raise GraphFileError(
            f"has {counted(len(frame.objects), 'object')} at {frame.seconds:g} s, graphs.max_objects is "
            f"{max_objects}: raise it"
        )
    objects = []
    for listed in frame.objects:
        unknown = [name for name in listed.relations or () if plain(name) not in names.relations]
        if plain(listed.class_name) not in names.classes:
            raise GraphFileError(f"class {listed.class_name!r} at {frame.seconds:g} s is not in graphs.vocabulary")
        if unknown:
            raise GraphFileError(f"relation {unknown[0]!r} at {frame.seconds:g} s is not in graphs.vocabulary")
        relations = None
        if listed.relations is not None:
            all_relations = (names.relations[plain(name)] for name in listed.relations)
            relations = tuple(relation for relation in all_relations if relation is not None)
        objects.append(GraphObject(class_number=names.classes[plain(listed.class_name)], relations=relations))
    return FrameGraph(seconds=frame.seconds, objects=tuple(objects))
