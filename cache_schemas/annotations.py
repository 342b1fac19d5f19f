"""Reads and writes annotations.json, which lists the labelled parts of each video. A cache has this file only if its
rows are windows, which means equal spans of time that cover the whole video.

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
    """One labelled part of a video. `segment` is (start, end) in seconds from the first frame, and `end` is not
    included. `label_id` is the index of `label` in classes.json.
    """

    segment: tuple[NotNegative, NotNegative]
    label: str
    label_id: int = Field(ge=0)


class AnnotatedVideo(Document):
    """The facts of one video. `subset` is its split, and `annotations` are its labelled parts. `num_windows` is the
    number of windows into which the video is cut.

    `duration` is in seconds. `fps` is the frame rate that windows use, in frames per second. `frame` is the number of
    frames of the whole video at this rate. If `index` could not open the video, these three are None and `num_windows`
    is 0.
    """

    subset: str
    duration: NotNegative | None
    fps: Annotated[float, Field(gt=0)] | None
    frame: Annotated[int, Field(ge=0)] | None
    num_windows: int = Field(ge=0)
    annotations: tuple[Annotation, ...]


class Annotations(Document):
    """The document annotations.json. `database` maps the id of each video to its facts. Videos without a window are in
    it, too.
    """

    schema_version: int = Field(ge=1)
    database: dict[str, AnnotatedVideo]


def has_windows(cache: Cache) -> bool:
    """Returns whether the rows of `cache` are windows. Such a cache has annotations.json."""
    return bool(cache.manifest["clips"].get("sampling") == WINDOWS)


def why_no_sequences(cache: Cache) -> str:
    """Returns "" if the rows of each video form one sequence of windows (equal spans of time, one after the other).
    This is the case if the cache was made with `clips.sampling: windows` and one crop.

    Otherwise returns the reason as text.
    """
    options = cache.manifest["clips"]
    if not has_windows(cache):
        given = options.get("sampling", "an import")
        return f"rows are from {given}; `clips.sampling: windows` is needed"
    crops = [crop for name in options["crops"] for crop in crops_of(name)]
    return f"each window has the crops {', '.join(crops)}; one crop is needed" if len(crops) > 1 else ""


def write_annotations(storage: Storage, videos: Mapping[str, AnnotatedVideo]) -> None:
    """Writes annotations.json. `videos` maps the id of each video to its facts. An existing document is replaced."""
    document = Annotations(schema_version=SCHEMA_VERSION, database={**videos})
    storage.put(ANNOTATIONS, [document.model_dump_json(indent=1).encode()])


def read_annotations(cache: Cache) -> dict[str, AnnotatedVideo]:
    """Returns video id -> AnnotatedVideo (facts and labelled parts), read from annotations.json. `kinegraph index`
    writes this document if `clips.sampling` is `windows`.

    Raises CacheError if the document is damaged, or if it is missing because the cache has another sampling.
    """
    try:
        return read_document(cache.storage, ANNOTATIONS, Annotations, INDEX_AGAIN).database
    except FileNotFoundError:
        words = "Only a cache with `clips.sampling: windows` has it."
        raise CacheError(f"{cache.root}/{ANNOTATIONS} does not exist. {words} {INDEX_AGAIN}") from None
