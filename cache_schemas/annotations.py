"""Reads and writes annotations.json: the labelled parts of the videos of a cache whose rows are windows.

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
    """The facts of one video. `subset` is its split. `annotations` are its labelled parts. Windows count frames at
    `fps` frames per second, and `frame` is the number of these frames. `num_windows` is the number of windows.

    `duration` (in seconds), `fps` and `frame` are None, and `num_windows` is 0, if `index` could not open the video.
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
    """Returns the reason why the rows of a video in `cache` are not one sequence of windows, or "" if they are. They
    are if the rows are windows with one crop.
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
    """Returns id of the video -> AnnotatedVideo, its facts and labelled parts. They come from the document that
    `kinegraph index` writes for `clips.sampling: windows`.

    Raises CacheError where the document is damaged. Raises it also where it is missing, because the cache has another
    sampling.
    """
    try:
        return read_document(cache.storage, ANNOTATIONS, Annotations, INDEX_AGAIN).database
    except FileNotFoundError:
        words = "Only a cache with `clips.sampling: windows` has it."
        raise CacheError(f"{cache.root}/{ANNOTATIONS} does not exist. {words} {INDEX_AGAIN}") from None
