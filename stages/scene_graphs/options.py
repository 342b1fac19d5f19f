"""Defines the section `graphs` of a config, with one class of options for each source of scene graphs. Imports no
torch.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kinegraph.stages.options import StageOptions
from kinegraph.stages.scene_graphs.vocabulary import NAMED, Vocabulary, resolve_vocabulary
from kinegraph.stages.video_files import check_pattern, path_for

INTERACTION_RELATIONS = (
    "near", "touching", "left_of", "right_of", "above", "below", "approaching", "leaving", "moving_together",
)  # fmt: skip
INTERACTIONS = Vocabulary(
    classes=("person", *(f"digit_{value}" for value in range(10))), relations=INTERACTION_RELATIONS
)
INTERACTION_OBJECTS = 3  # objects besides the person


class GraphFileOptions(StageOptions):
    """The options of scene graphs from the user's files, one json file per video. `files` is the pattern of their
    paths, such as "graphs/{stem}.json". `{stem}` stands for the id of the video without its ending.

    A clip gets the graphs with start <= time < end, where the clip lasts from start to end. A clip has at most
    `max_frames` graphs. A graph has at most `max_objects` objects. `vocabulary` has the names of the classes of objects
    and of the relations.
    """

    source: Literal["file"]
    files: str = Field(description="path with {stem} (video_id without its ending) or {video_id}, ending in .json")
    vocabulary: Vocabulary = Field(
        description="`action_genome` (36 classes, 25 relations), `action_genome_26` (with "
        "otherrelationship), a json file with the lists `classes`, `relations` and (optional) "
        "`ignored_relations`, or these lists themselves",
        json_schema_extra=lambda schema: schema.update(anyOf=[{"$ref": schema.pop("$ref")}, {"type": "string"}]),
    )
    max_frames: int = Field(
        64,
        ge=1,
        le=10_000,
        description="most graphs of a clip; where a clip has more, this many evenly spaced graphs are taken",
    )
    max_objects: int = Field(
        16,
        ge=1,
        le=10_000,
        description="most objects of a graph; a file with more objects fails its clips",
    )

    @property
    def frame_step(self) -> int | None:
        """Always returns None, because graphs from files may have any times. For other sources of graphs, the result is
        the number of frames from one graph of a clip to the next graph.
        """
        return None

    def shape(self, clip_frames: int) -> tuple[int, int, int]:
        """Returns (T, M, R), the sizes of the axes of the cached arrays: the options `max_frames` (graphs of a clip)
        and `max_objects` (objects of a graph), and the number of relations in the vocabulary. `clip_frames` is not
        used.
        """
        return self.max_frames, self.max_objects, len(self.vocabulary.relations)

    def file_of(self, video_id: str) -> str:
        """Returns the path of the file with the graphs of the video with the id `video_id`."""
        return path_for(self.files, video_id)

    def recorded(self) -> dict[str, Any]:
        """Returns {name of the option: value} with the options that are part of the fingerprint of the stage `graphs`.
        The paths of the files are not part of the fingerprint.
        """
        return self.model_dump(mode="json", exclude={"files"})

    @model_validator(mode="before")
    @classmethod
    def _vocabulary_is_read(cls, given: Any) -> Any:
        if isinstance(given, dict) and "vocabulary" in given:
            return given | {"vocabulary": resolve_vocabulary(given["vocabulary"])}
        return given

    @model_validator(mode="after")
    def _files_can_be_found(self) -> "GraphFileOptions":
        check_pattern("files", self.files, (".json",))
        return self


class InteractionGraphOptions(StageOptions):
    """The options of scene graphs of the generated data set (`dataset.kind: interactions`). The graphs are computed
    from the true positions of the shapes in its videos. Every `every`-th frame of a clip has a graph.

    The shape that acts is the person. All other shapes are objects. The class of an object is the digit on the shape.
    """

    source: Literal["interactions"]
    every: int = Field(1, ge=1, le=10_000, description="a graph for every k-th frame of the clip")

    @property
    def vocabulary(self) -> Vocabulary:
        return INTERACTIONS

    @property
    def frame_step(self) -> int | None:
        return self.every

    def shape(self, clip_frames: int) -> tuple[int, int, int]:
        return clip_frames // self.every, INTERACTION_OBJECTS, len(self.vocabulary.relations)

    def file_of(self, video_id: str) -> str | None:
        return None

    def recorded(self) -> dict[str, Any]:
        return self.model_dump(mode="json") | {"vocabulary": self.vocabulary.model_dump(mode="json")}


class ActionGenomeGraphOptions(StageOptions):
    """The options of scene graphs from the annotations of Action Genome (`dataset.kind: action_genome`). Each frame of
    a clip has a graph, so `clips.sampling` must be `annotated`, which takes only annotated frames.

    A graph has the visible objects of a frame, in the order of the annotations. If a short clip repeats its last frame,
    the repeated frames have no graph.
    """

    source: Literal["action_genome"]
    num_relations: Literal[25, 26] = Field(25, description="26: with otherrelationship, which papers do not count")
    max_objects: int = Field(
        16, ge=1, le=10_000, description="most objects of a graph; a frame with more fails its clips"
    )

    @property
    def vocabulary(self) -> Vocabulary:
        return NAMED["action_genome_26" if self.num_relations == 26 else "action_genome"]

    @property
    def frame_step(self) -> int | None:
        return 1

    def shape(self, clip_frames: int) -> tuple[int, int, int]:
        return clip_frames, self.max_objects, self.num_relations

    def file_of(self, video_id: str) -> str | None:
        return None

    def recorded(self) -> dict[str, Any]:
        return self.model_dump(mode="json") | {"vocabulary": self.vocabulary.model_dump(mode="json")}


GraphOptions = Annotated[
    GraphFileOptions | InteractionGraphOptions | ActionGenomeGraphOptions, Field(discriminator="source")
]
