"""Reads files of scene graphs, one json file per video. Imports no torch. An example of a file:

    {"frames": [{"seconds": 1.5, "objects": [{"class": "chair", "relations": ["sitting_on", "beneath"]}, ...]}, ...]}

`objects` has the objects of a frame without the person. If only the person is there, the list is empty. `"relations":
null` means that no edge leads from the object to the person. All other keys in a file are ignored.
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
    """Raised if the content of a file of scene graphs is wrong. The message says what is wrong."""


@dataclass(frozen=True, kw_only=True)
class GraphObject:
    """An object of a scene graph. `class_number` is the number of its class. `relations` are the numbers of its
    relations to the person, or None if no edge leads from the object to the person. All numbers are positions in the
    lists of the vocabulary, counted from 0.
    """

    class_number: int
    relations: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class FrameGraph:
    """The scene graph of one frame. `seconds` is the time of the frame in seconds, counted from the first frame that a
    player shows. `objects` are the objects of the graph, without the person.
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
    """Reads the scene graphs in the file `path` and returns one FrameGraph for each frame of the file, in the order of
    time.

    Raises FileNotFoundError if the file does not exist. Raises OSError if the file cannot be read. Raises
    GraphFileError if its content is wrong.
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
    """The numbers of the names in a vocabulary.

    - `classes`: {name of a class: its number}. All names are in the form that `plain` returns.
    - `relations`: {name of a relation: its number}. The number is None for a relation that the vocabulary ignores.
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
