"""Makes the rows of a cache of imported features. Torch-free.

A csv lists the videos, and each of them gets one row. Without a csv, the cache keeps its rows. If the cache has
no rows, each imported video gets one row.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from kinegraph.cache_schemas.cache import CLASSES, Cache
from kinegraph.cache_schemas.clips_table import TABLE, ClipRow, ClipsTable, row_order
from kinegraph.cache_schemas.fingerprint import Options
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.indexing import NAN, reopen_partial
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.stages.datasets.datasets import list_videos
from kinegraph.stages.datasets.folders import VIDEO_SUFFIXES
from kinegraph.stages.datasets.listing import Listing, Video
from kinegraph.stages.datasets.options import FolderOptions

IMPORTED_CLIPS: Options = {"provenance": "unknown", "rows": "one a video"}  # in place of options in cache.json


@dataclass(frozen=True, kw_only=True)
class RowsToFill:
    """The rows and classes of a cache of imported features. `rows` has all rows that the cache will have, and `classes`
    the names of all classes.
    """

    rows: tuple[ClipRow, ...]
    classes: tuple[str, ...]

    @property
    def video_ids(self) -> list[str]:
        return [row.video_id for row in self.rows]


def rows_to_fill(cache: Cache | None, videos: Sequence[str], root: Path, annotations: Path | None) -> RowsToFill:
    """Returns the RowsToFill of an import: all rows and classes that the cache will have.

    - `cache`: the cache, or None if it does not exist yet.
    - `videos`: the ids of the videos in the imported files.
    - `root`: the folder below which the paths of a csv lie.
    - `annotations`: a csv that lists the videos, or None.

    With a csv, each listed video has one row. Without a csv, the rows are those of `cache`, or one row for each of
    `videos`. Raises ExchangeError if the csv lacks a video of the cache, or if a csv does not fit a cache that
    `kinegraph index` made.
    """
    old: tuple[ClipRow, ...] = ()
    if cache is not None and cache.storage.exists(TABLE):
        old = tuple(cache.clips.rows())
        if cache.manifest["clips"] != IMPORTED_CLIPS:
            _check_indexed(cache, old, annotations)
    if annotations is not None:
        return _annotated(old, root, annotations)
    if cache is not None and old:
        return RowsToFill(rows=old, classes=tuple(cache.classes))
    listed = (
        Video(video_id=video, path=str(root / video), split="train", labels=(), list_index=place)
        for place, video in enumerate(sorted(videos))
    )
    return RowsToFill(rows=tuple(map(_row, listed)), classes=())


def _check_indexed(cache: Cache, rows: Sequence[ClipRow], annotations: Path | None) -> None:
    if annotations is not None:
        raise ExchangeError(f"--annotations: {cache.root} has the labels that `kinegraph index` gave it")
    video, count = Counter(row.video_id for row in rows).most_common(1)[0]
    if count > 1:
        raise ExchangeError(
            f"{cache.root} has {counted(count, 'row')} of {video} (clips and crops), but the files have only one row "
            "per video. Import into another folder."
        )


def _annotated(old: Sequence[ClipRow], root: Path, annotations: Path) -> RowsToFill:
    """Returns the RowsToFill of all videos in the csv `annotations`. The rows `old` come first, with their order and
    ids. Paths in the csv are relative to the folder `root`.

    Raises ExchangeError if the csv does not exist, or if it lacks a video of `old`.
    """
    if not annotations.exists():
        raise ExchangeError(f"--annotations: no file {annotations} (looked from {Path.cwd()})")
    listing = list_videos(FolderOptions(kind="folder", root=str(root), annotations=str(annotations)))
    listed = {video.video_id: video for video in listing.videos}
    listed_id = matched([row.video_id for row in old], listed)
    if absent := [row.video_id for row in old if row.video_id not in listed_id]:
        raise ExchangeError(
            f"{annotations} has no line for {absent[0]} ({counted(len(absent), 'video')}); rows are never removed"
        )
    kept = [(row, listed[listed_id[row.video_id]]) for row in old]
    rows = [replace(row, labels=video.labels, split=video.split, list_index=video.list_index) for row, video in kept]
    return RowsToFill(rows=(*rows, *_new_rows(listing, {*listed_id.values()})), classes=listing.classes)


def _new_rows(listing: Listing, matched_ids: set[str]) -> list[ClipRow]:
    return sorted((_row(video) for video in listing.videos if video.video_id not in matched_ids), key=row_order)


def _row(video: Video) -> ClipRow:
    """Returns the row of an imported video for clips.parquet. Times, crop and frame size are unknown, because only the
    features of the video are imported.
    """
    return ClipRow(
        clip_id=f"{video.video_id}:0:full", video_id=video.video_id, path=video.path, split=video.split,
        labels=video.labels, start_seconds=NAN, end_seconds=NAN, target_times=(), crop=(NAN,) * 4, frame_width=0,
        frame_height=0, list_index=video.list_index, interval=video.interval,
    )  # fmt: skip


def write_rows(cache: Cache, rows: RowsToFill) -> Cache:
    """Writes the rows and the classes in `rows` to a cache of imported features. Returns the cache, opened again. If
    the cache has rows already, `rows` must begin with them.
    """
    storage: Storage = cache.storage
    num_old = ClipsTable.count(storage) if storage.exists(TABLE) else 0
    if num_old < len(rows.rows) and num_old % cache.shard_clips:
        reopen_partial(cache, num_old // cache.shard_clips)
    storage.put(CLASSES, [json.dumps(rows.classes, ensure_ascii=False, indent=1).encode()])
    ClipsTable.from_rows(rows.rows).write(storage)
    return Cache(cache.root)


def matched(videos: Iterable[str], names: Iterable[str]) -> Mapping[str, str]:
    """Finds videos of a cache in imported files. Returns {video id in the cache: name in the files}. Videos without a
    name are left out.

    An id and a name belong together if they are equal, or equal without the ending of a video file (`a.mp4` and `a`).
    Raises ExchangeError if several ids fit one name, for example `a.mp4` and `a.avi` the name `a`.
    """
    videos, names = set(videos), set(names)
    name_of = {video: video for video in videos & names}
    wanted, offered = (_by_stem(ids - name_of.keys()) for ids in (videos, names))
    for stem in wanted.keys() & offered.keys():
        if len(wanted[stem]) > 1 or len(offered[stem]) > 1:
            both = " and ".join(", ".join(sorted(ids[stem])) for ids in (wanted, offered))
            raise ExchangeError(f"{both} differ in endings alone: which belongs to which? Name them in full.")
        name_of[wanted[stem][0]] = offered[stem][0]
    return name_of


def _by_stem(ids: Iterable[str]) -> dict[str, list[str]]:
    ids_of: dict[str, list[str]] = {}
    for name in ids:
        path = PurePosixPath(name)
        stem = str(path.with_suffix("")) if path.suffix.lower() in VIDEO_SUFFIXES else name
        ids_of.setdefault(stem, []).append(name)
    return ids_of
