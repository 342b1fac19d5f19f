"""Finds videos whose files are gone, so that `kinegraph index` keeps their rows. Imports no torch."""

from dataclasses import replace
from pathlib import PurePosixPath

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import TABLE, name_of_video
from kinegraph.cache_schemas.words import counted, first_of
from kinegraph.stages.datasets.listing import Entry, Listing, listing_of


def with_absent(listing: Listing, cache: Cache | None) -> tuple[Listing, frozenset[str]]:
    """Returns (a copy of `listing` with added videos, the paths of the added videos). With the copy, `kinegraph index`
    keeps the rows of videos whose files are gone.

    A video is added if it has rows in `cache`, the label files list it, and its file is missing. It gets the labels and
    the split of the label files. `cache` is the cache before this `index`, or None. The field `notes` of the copy says
    how many videos were added.
    """
    if cache is None or not listing.absent or not cache.storage.exists(TABLE):
        return listing, frozenset()
    present = {name_of_video(video.video_id, video.interval) for video in listing.videos}
    rows = {name_of_video(row.video_id, row.interval): row for row in cache.clips.rows()}
    entries = list[Entry]()
    for name, row in rows.items():
        place = PurePosixPath(name)
        stem = place.stem if row.frame_rate is None else place.name
        if name not in present:
            entries += (
                replace(entry, name=name, path=row.path, frame_rate=row.frame_rate)
                for entry in listing.absent.get(stem, ())
            )
    if not entries:
        return listing, frozenset()
    again = listing_of(entries, {}, listing.classes, listing.multi_label)
    first = max(video.list_index for video in listing.videos) + 1
    videos = (*listing.videos, *(replace(video, list_index=first + video.list_index) for video in again.videos))
    names = [*dict.fromkeys(entry.name for entry in entries)]
    note = (
        f"{counted(len(names), 'missing video keeps its rows', 'missing videos keep their rows')}: {first_of(names)}. "
        "Features of sealed shards stay. In other shards these clips fail (missing)."
    )
    listing = replace(
        listing,
        videos=tuple(sorted(videos, key=lambda video: video.video_id)),
        notes=(*listing.notes, note),
    )
    return listing, frozenset(entry.path for entry in entries)
