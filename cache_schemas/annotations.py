"""Reads and writes annotations.json, which lists the labelled parts of each video. Only a cache whose rows are windows
has this file. Windows are equal spans of time that cover a whole video.

The document has the form of ActivityNet's annotations. Times are seconds from the first presented frame of the video,
as the data set lists them.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from kinegraph.cache_schemas.arrays import SCHEMA_VERSION
from kinegraph.cache_schemas.cache import INDEX_AGAIN, Cache
from kinegraph.cache_schemas.crops import crops_of
from kinegraph.cache_schemas.documents import Document, read_document
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.storage import Storage

ANNOTATIONS = "annotations.json"
WINDOWS = "windows"  # the value of `sampling` in the clip options of a cache whose rows are windows
NotNegative = Annotated[float, Field(ge=0)]


class Annotation(Document):
    """One labelled part of a video."""

    # (start, end) in seconds from the first frame of the video. `end` is not included.
    segment: tuple[NotNegative, NotNegative]
    label: str  # the name of the class
    label_id: int = Field(ge=0)  # the index of `label` in classes.json


class AnnotatedVideo(Document):
    """The entry of one video in annotations.json.

    If `kinegraph index` could not open the video, `duration`, `fps` and `frame` are None, and `num_windows` is 0.
    """

    subset: str  # the split of the video, such as "train"
    duration: NotNegative | None  # the length in seconds
    fps: Annotated[float, Field(gt=0)] | None  # the frame rate at which windows are cut, in frames per second
    frame: Annotated[int, Field(ge=0)] | None  # the number of frames of the whole video at the rate `fps`
    num_windows: int = Field(ge=0)  # the number of windows (equal spans of time) into which the video is cut
    annotations: tuple[Annotation, ...]  # the labelled parts of the video


class Annotations(Document):
    """The document annotations.json. `database` maps the id of each video to its AnnotatedVideo. A video that is too
    short for a window is in `database`, too.
    """

    schema_version: int = Field(ge=1)
    database: dict[str, AnnotatedVideo]


def has_windows(cache: Cache) -> bool:
    """Returns whether the rows of `cache` are windows, which means equal spans of time that cover a whole video. A
    cache of windows has the document annotations.json.
    """
    return bool(cache.manifest["clips"].get("sampling") == WINDOWS)


def why_no_sequences(cache: Cache) -> str:
    """Returns the reason why the rows of a video do not form one sequence in time, or "" if they do.

    The rows form one sequence if the cache was made with `clips.sampling: windows` and with one crop. Windows are equal
    spans of time, one after the other.
    """
    options = cache.manifest["clips"]
    if not has_windows(cache):
        given = options.get("sampling", "an import")
        return f"rows are from {given}; `clips.sampling: windows` is needed"
    crops = [crop for name in options["crops"] for crop in crops_of(name)]
    return f"each window has the crops {', '.join(crops)}; one crop is needed" if len(crops) > 1 else ""


def write_annotations(storage: Storage, videos: Mapping[str, AnnotatedVideo]) -> None:
    """Writes the document annotations.json, and replaces an existing one. `videos` maps the id of each video to its
    AnnotatedVideo.
    """
    document = Annotations(schema_version=SCHEMA_VERSION, database={**videos})
    storage.put(ANNOTATIONS, [document.model_dump_json(indent=1).encode()])


def read_annotations(cache: Cache) -> dict[str, AnnotatedVideo]:
    """Reads annotations.json and returns video id -> AnnotatedVideo, which has the length and the labelled parts of the
    video.

    Raises CacheError if the document is missing or damaged. The document is missing if the cache was made with another
    option than `clips.sampling: windows`.
    """
    try:
        return read_document(cache.storage, ANNOTATIONS, Annotations, INDEX_AGAIN).database
    except FileNotFoundError:
        words = "Only a cache with `clips.sampling: windows` has it."
        raise CacheError(f"{cache.root}/{ANNOTATIONS} does not exist. {words} {INDEX_AGAIN}") from None
