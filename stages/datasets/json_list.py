"""Lists videos and their labelled segments from a JSON file in ActivityNet's form. Torch-free."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from kinegraph.stages.datasets.csv_list import text_of
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.folder import class_names
from kinegraph.stages.datasets.folders import SPLIT_OF
from kinegraph.stages.datasets.json_text import parse_json
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.owners import listing_of_release
from kinegraph.stages.datasets.owners_options import JsonOptions
from kinegraph.stages.datasets.segments import Segment, UntrimmedVideo, release_of
from kinegraph.stages.remote.urls import FILE

FORM = '{"database": {<id>: {"subset": ..., "annotations": [{"segment": [start, end], "label": ...}]}}}'
DURATIONS = ("duration", "duration_second")  # the second is mmaction2's


def list_json(options: JsonOptions, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos and labelled segments in the JSON file `options.annotations`, in ActivityNet's
    form.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    the file cannot be read or has another form, and if no listed video is below `options.root`.
    """
    path = options.annotations.removeprefix(FILE)
    database = database_of(path, json_document(path, text_of("dataset.annotations", path, tries)))
    videos = list(untrimmed_videos(path, database, options.subsets, (options.prefix,)))
    given = class_names(options.classes, tries)
    release = release_of(
        videos,
        options.leave_out,
        title=path,
        classes=given or sorted_labels(videos),
        classes_from="dataset.classes" if given else f"the labels in {path}, sorted",
        published={},
    )
    return listing_of_release(release, options.root, tries=tries)


def sorted_labels(videos: list[UntrimmedVideo]) -> tuple[str, ...]:
    """Returns the names of all labels of the segments of `videos`, sorted, each once."""
    return tuple(sorted({segment.label for video in videos for segment in video.segments}))


def json_document(path: str, text: str) -> dict[str, Any]:
    """Returns the JSON object `text`, the content of the file `path`.

    Raises DatasetError if the text is not JSON, is JSON but no object, or has an object with a key twice.
    """
    document = parse_json(path, text)
    if not isinstance(document, dict):
        raise DatasetError(f"{path}: it holds a {type(document).__name__}; expected {FORM}")
    return document


def database_of(path: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {id of the video: entry}, from the JSON object `document` of the file `path`. In ActivityNet's form, the
    videos are below the key `database`. In the files of mmaction2, they are at the top.

    Raises DatasetError for a document of another form, such as a submission with scores.
    """
    if "results" in document:
        raise DatasetError(f"{path}: it has `results`, so it is a submission with scores. Expected {FORM}")
    database = document.get("database", document)
    is_form = isinstance(database, dict) and all(isinstance(entry, dict) for entry in database.values())
    if not is_form or ("database" not in document and not any("annotations" in entry for entry in database.values())):
        raise DatasetError(f"{path}: it has the keys {', '.join(map(repr, [*document][:5]))}; expected {FORM}")
    if not database:
        raise DatasetError(f"{path}: no video; expected {FORM}")
    return dict(database)


def untrimmed_videos(
    path: str, database: Mapping[str, Mapping[str, Any]], subsets: Mapping[str, str], prefixes: tuple[str, ...]
) -> Iterator[UntrimmedVideo]:
    """Yields an UntrimmedVideo (a video with its labelled segments) for each entry of `database`, the result of
    `database_of` for the file `path`.

    `subsets`: {name of a subset in the file: split}, for names other than training, validation and testing.
    `prefixes`: what may stand before the id in the name of a video file, such as "v_" or "".

    Raises DatasetError for an entry of another form.
    """
    for video, entry in database.items():
        where = f"{path}: {video}"
        listed = entry.get("annotations", [])
        if not isinstance(listed, list):
            raise DatasetError(f"{where}: annotations is {listed!r:.80}; expected a list of segments.")
        yield UntrimmedVideo(
            name=video,
            split=_split(where, entry.get("subset"), subsets),
            where=where,
            duration=next((_seconds(where, entry[key]) for key in DURATIONS if entry.get(key) is not None), None),
            segments=[_segment(f"{where}, segment {place}", segment) for place, segment in enumerate(listed, 1)],
            stems=tuple(f"{prefix}{video}" for prefix in prefixes),
        )


def _split(where: str, subset: object, subsets: Mapping[str, str]) -> str:
    if subset is None:
        raise DatasetError(
            f"{where}: no `subset`; expected training, validation or testing. Files of mmaction2 for one subset do not "
            "state it. Use the file of the owners."
        )
    split = subsets.get(str(subset)) or SPLIT_OF.get(str(subset).lower())
    if split is None:
        raise DatasetError(
            f"{where}: subset {subset!r}; expected training, validation or testing, or a name in dataset.subsets."
        )
    return split


def _segment(where: str, entry: object) -> Segment:
    if not isinstance(entry, dict):
        raise DatasetError(f'{where}: {entry!r:.80}; expected {{"segment": [start, end], "label": ...}}')
    bounds, label = entry.get("segment"), entry.get("label")
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise DatasetError(f"{where}: segment is {bounds!r:.80}; expected [start, end] in seconds.")
    if not isinstance(label, str) or not label.strip():
        raise DatasetError(f"{where}: label is {label!r:.80}; expected the name of a class.")
    start, end = (_seconds(where, bound) for bound in bounds)
    return Segment(start=start, end=end, label=label.strip(), where=where)


def _seconds(where: str, given: object) -> float:
    """Returns `given` as a number of seconds. Some files have it as text (`"18.6"`). Raises DatasetError if `given` is
    no number. The message begins with `where`.
    """
    try:
        seconds = float(given) if isinstance(given, int | float | str) and not isinstance(given, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise DatasetError(f"{where}: {given!r:.80}; expected a number of seconds.")
    return seconds
