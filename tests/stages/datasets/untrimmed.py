"""Parts of the tests of untrimmed videos with labelled segments."""

from pathlib import Path
from typing import Any

from kinegraph.stages.datasets.listing import Listing, listing_of_whole_videos


def entry(subset: str, *segments: tuple[float, float, str], **facts: Any) -> dict[str, Any]:
    return {
        "subset": subset,
        **facts,
        "annotations": [{"segment": [start, end], "label": label} for start, end, label in segments],
    }


def segments(listing: Listing) -> dict[str, list[tuple[float, float, list[str]]]]:
    """Stem of each video -> its segments."""
    return {
        Path(video.path).stem: [
            (*interval, [listing.classes[label] for label in labels]) for interval, labels in video.segments
        ]
        for video in listing_of_whole_videos(listing).videos
    }
