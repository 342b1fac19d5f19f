"""The options of scene graphs, with one class per source. Imports no torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kinegraph.stages.options import StageOptions
from kinegraph.stages.scene_graphs.vocabulary import NAMED, Vocabulary, resolved
from kinegraph.stages.video_files import check_pattern, path_for

INTERACTION_RELATIONS = (
    "near", "touching", "left_of", "right_of", "above", "below", "approaching", "leaving", "moving_together",
)  # fmt: skip
INTERACTIONS = Vocabulary(
    classes=("person", *(f"digit_{value}" for value in range(10))), relations=INTERACTION_RELATIONS
)
INTERACTION_OBJECTS = 3  # objects besides the person


class GraphFileOptions(StageOptions):
    """Options for scene graphs that you already have, in one json file per video. `files` is the pattern of the paths,
    such as `graphs/{stem}.json`, where `{stem}` is the video's id without its ending.

    A clip takes the graphs whose time lies in the interval of the clip. The interval includes its start and excludes
    its end. A clip has at most `max_frames` graphs with `max_objects` objects each. `vocabulary` names the classes of
    the objects and the relations.
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
        """Returns None. Other graph options return the number of frames from one graph to the next, but graphs from
        files have times of their own.
        """
        return None

    def shape(self, clip_frames: int) -> tuple[int, int, int]:
        """Returns the shape (T, M, R) of the arrays of graphs. T is the largest number of graphs of a clip, the option
        `max_frames`. M is the largest number of objects of a graph, and R the number of kinds of relations.

        `clip_frames`, the number of frames of a clip, makes no difference for graphs from files.
        """
        return self.max_frames, self.max_objects, len(self.vocabulary.relations)

    def file_of(self, video_id: str) -> str:
        """Returns the path of the file with the graphs of the video `video_id`."""
        return path_for(self.files, video_id)

    def recorded(self) -> dict[str, Any]:
        """Returns the options that the fingerprint of the stage covers, as a dictionary."""
        return self.model_dump(mode="json", exclude={"files"})

    @model_validator(mode="before")
    @classmethod
    def _vocabulary_is_read(cls, given: Any) -> Any:
        if isinstance(given, dict) and "vocabulary" in given:
            return given | {"vocabulary": resolved(given["vocabulary"])}
        return given

    @model_validator(mode="after")
    def _files_can_be_found(self) -> "GraphFileOptions":
        check_pattern("files", self.files, (".json",))
        return self


class InteractionGraphOptions(StageOptions):
    """Scene graphs of the generated data set (`dataset.kind: interactions`), from the true positions of its shapes.
    There is one graph for every `every`-th frame of a clip.

    The person is the shape that acts. Every other shape is an object. The class of an object is the digit that it
    shows.
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
    """The scene graphs of Action Genome, from the annotations of the data set (`dataset.kind: action_genome`). They
    belong to the frames of a clip, so `clips.sampling` must be `annotated`.

    The objects of a graph are those that the frame shows, in the order of the file. Objects that the file lists as not
    visible are left out. A frame that a clip repeats has one graph.
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
