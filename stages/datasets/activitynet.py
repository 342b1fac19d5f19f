"""Lists the videos and labelled segments of the data set ActivityNet 1.3, from the owners' JSON file. Torch-free."""

from collections.abc import Mapping
from typing import Any

from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.datasets.json_list import database_of, json_document, sorted_labels, untrimmed_videos
from kinegraph.stages.datasets.listing import Listing, OnVideosMade
from kinegraph.stages.datasets.owners import label_text, listing_of_release
from kinegraph.stages.datasets.owners_options import ActivityNetOptions
from kinegraph.stages.datasets.segments import UntrimmedVideo, release_of

VERSION = "1.3"
PREFIX, ID_LENGTH = "v_", 11  # an id of YouTube may begin with v_ itself
PUBLISHED = {"train": 10024, "val": 4926, "test": 5044}


def list_activitynet(options: ActivityNetOptions, progress: OnVideosMade | None = None, tries: int = 1) -> Listing:
    """Returns the Listing of the videos and labelled segments of ActivityNet 1.3, with the splits train, val and test.
    The videos of test have no labels.

    No video is generated, so `progress` is not called. A URL is requested at most `tries` times. Raises DatasetError if
    the label file is missing or is not of ActivityNet, and if no listed video is below `options.root`.
    """
    document = json_document(options.file, label_text(options, options.file))
    version = str(document.get("version", VERSION))
    if VERSION not in version:
        raise DatasetError(f"{options.file}: version {version!r}; expected {VERSION}. Is it of another release?")
    database = {_bare(video): entry for video, entry in database_of(options.file, document).items()}
    videos = list(untrimmed_videos(options.file, database, {}, (PREFIX, "")))
    _check_labels(options.file, document, videos)
    release = release_of(
        videos,
        options.leave_out,
        title=f"ActivityNet {VERSION}",
        classes=sorted_labels(videos),
        classes_from=f"the labels in {options.file}, sorted",
        num_classes=200,
        published=PUBLISHED,
    )
    return listing_of_release(release, options.root, tries=tries)


def _bare(video: str) -> str:
    """Returns the id of a video without the `v_` that file names have before the id."""
    return video.removeprefix(PREFIX) if len(video) == len(PREFIX) + ID_LENGTH else video


def _check_labels(name: str, document: Mapping[str, Any], videos: list[UntrimmedVideo]) -> None:
    """Raises DatasetError if a segment of `videos` has a label that is not in the taxonomy of the label file `name`.
    `document` is the content of this file. Does nothing if the file has no taxonomy.
    """
    taxonomy = document.get("taxonomy")
    if not isinstance(taxonomy, list):
        return
    nodes = {node.get("nodeName") for node in taxonomy if isinstance(node, dict)}
    for video in videos:
        for segment in video.segments:
            if segment.label not in nodes:
                raise DatasetError(f"{segment.where}: {segment.label!r} is no class of the taxonomy in {name}.")
