"""Lists a data set and writes the rows of a cache. This is the command `kinegraph index`. Imports no torch."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from kinegraph.cache_schemas.annotations import has_windows, write_annotations
from kinegraph.cache_schemas.cache import CLASSES, DATASET, LABELS, MANIFEST, Cache
from kinegraph.cache_schemas.clips_table import TABLE, ClipRow, ClipsTable, Interval, name_of_video
from kinegraph.cache_schemas.closure import stages_in_order
from kinegraph.cache_schemas.crops import crop_rectangle, is_mirrored
from kinegraph.cache_schemas.data_set_documents import write_attributes, write_missing
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.sealed_rows import require_rows
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.table_order import merged_tables, sorted_table
from kinegraph.pipeline.caches import windowed
from kinegraph.pipeline.caches.absent_videos import with_absent
from kinegraph.pipeline.caches.annotated_frames import WithClips, with_clips
from kinegraph.pipeline.caches.declared import auto_shard_clips
from kinegraph.pipeline.caches.index_summary import (
    SplitSummary,
    complaints_about,
    label_warnings,
    mirror_warnings,
    summaries,
    unreadable_videos,
)
from kinegraph.pipeline.caches.kept_probes import KeptProbes, stamp_of
from kinegraph.pipeline.caches.own_files import check_own_files
from kinegraph.pipeline.caches.probing import probe_all
from kinegraph.pipeline.caches.release_report import SplitFiles, differences, files_of_splits
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.sampling import SampledClip, clips_of
from kinegraph.stages.clips.stage import clips_options
from kinegraph.stages.datasets.datasets import list_videos
from kinegraph.stages.datasets.listing import Listing, MissingVideo, Video
from kinegraph.stages.datasets.options import DatasetOptions
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.numbered_images import probe_images
from kinegraph.stages.decode.probing import Probe
from kinegraph.stages.remote.staging import Staging
from kinegraph.stages.remote.urls import is_url

NAN = float("nan")
OnProgress = Callable[[str, int, int], None]  # name of the step, number done, number of all or 0 if unknown
REQUESTS_AT_ONCE = 16  # threads: each waits for the network more than it computes


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """The result of `kinegraph index`."""

    cache: Cache  # the cache with the new rows
    num_videos: int  # the number of videos in the data set
    num_intervals: int  # the number of intervals of videos in the data set
    num_new_rows: int  # the number of rows that were added to `cache`
    unreadable: dict[str, DecodeError]  # id of each video that could not be opened -> the error
    complaints: dict[str, str]  # path of each video with a faulty file that can be read -> a sentence about the fault
    beyond_end: list[str]  # ids of intervals that end after the end of their video, but begin before it
    after_end: list[str]  # ids of intervals that begin at or after the end of their video
    without_window: list[str]  # ids of videos that are shorter than a window. They have no row.
    # Ids of videos and intervals without an annotated frame, if clips consist of annotated frames. They have no row.
    without_frame: list[str]
    splits: dict[str, SplitSummary]  # name of each split -> its numbers of videos, clips, hours and classes
    left_out: dict[str, int]  # ending -> number of files with this ending that are no videos (`.txt` -> 3)
    warnings: list[str]  # sentences about labels that look like mistakes
    # Name of each split -> its numbers of listed, published, present, missing and unreadable videos. It is empty unless
    # the data set is in its owners' layout.
    files: dict[str, SplitFiles]
    # Name of each listed video without a file -> what was looked for. If `cache` has rows of the video, they stay.
    missing: dict[str, MissingVideo]
    classes_from: str  # the file or rule that decided the order of the classes, or ""
    notes: list[str]  # sentences about what the data set dropped or changed
    # Sentences about missing and unreadable videos, and about numbers that differ from the published ones
    differences: list[str]

    @property
    def has_windows(self) -> bool:
        """Returns whether the rows are windows (equal spans of time). The intervals of the data set are then labelled
        parts of videos, and no clips are made from them.
        """
        return has_windows(self.cache)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "cache": self.cache.root,
            "videos": self.num_videos,
            "intervals": self.num_intervals,
            "rows": len(self.cache.clips),
            "new_rows": self.num_new_rows,
            "shards": self.cache.num_shards,
            "shard_clips": self.cache.shard_clips,
            "classes": len(self.cache.classes),
            "splits": {split: summary.to_json() for split, summary in self.splits.items()},
            "left_out": self.left_out,
            "unreadable": {video: str(error) for video, error in self.unreadable.items()},
            "complaints": self.complaints,
            "beyond_end": self.beyond_end,
            "after_end": self.after_end,
            "without_window": self.without_window,
            "without_frame": self.without_frame,
            "warnings": self.warnings,
            "files": {split: asdict(files) for split, files in self.files.items()},
            "missing": {name: asdict(absent) for name, absent in self.missing.items()},
            "classes_from": self.classes_from,
            "notes": self.notes,
            "differences": self.differences,
        }


def _unheard(what: str, done: int, total: int) -> None:
    """Ignores the progress. This function is the default of `on_progress`."""


def index(config: Config, on_progress: OnProgress = _unheard, *, may_be_empty: bool = False) -> Indexed:
    """Lists the data set, reads the headers of the videos and writes clips.parquet. Returns an Indexed, which has the
    counts and the faults. Existing rows keep their row number.

    A video that cannot be opened gets rows without times, which extraction marks as failed. A later `index` fills in
    the times. `on_progress` is called with (name of the step, number done, number of all or 0 if unknown).

    Raises ConfigError if the config has no `dataset`, or if every video is shorter than a window and `may_be_empty` is
    false. Raises DatasetError if the data set cannot be listed. Raises CacheMismatch if the cache was made with other
    options. Raises VideosHangError if 64 videos hang at the same time.
    """
    storage = open_storage(config.cache)
    if config.dataset is None:
        raise ConfigError("dataset: missing; `kinegraph index` needs to know where the videos are")
    cache_before = _existing(config, storage)
    listing = list_videos(config.dataset, _counting(on_progress), tries=config.run.staging.tries)
    listing, absent = with_absent(listing, cache_before)
    check_own_files(config, (name_of_video(video.video_id, video.interval) for video in listing.videos))
    layout = config.store.model_dump() | {"shard_clips": auto_shard_clips(config, cache_before)}
    if not config.clips.has_windows:
        Cache.create(config.cache, clips_options(config.clips), layout)
    probes = _probe_all(listing, config, storage, on_progress)
    chosen = with_clips(listing, probes, config.clips, may_be_empty=may_be_empty)
    listing, probes = chosen.listing, chosen.probes
    cache = Cache.create(config.cache, clips_options(config.clips), layout)
    table, num_old = _table(cache, chosen, config.clips)
    if len(table) > num_old and num_old % cache.shard_clips:
        reopen_partial(cache, num_old // cache.shard_clips)
    _write(storage, listing, table)
    if config.clips.has_windows:
        write_annotations(storage, windowed.annotated(listing, probes, config.clips, cache))
    write_dataset(storage, _entered(config.dataset, listing))
    Cache(config.cache).declare_arrays(renew=True)
    unreadable = unreadable_videos(listing, probes, absent)
    files = files_of_splits(listing, probes, absent)
    intervals = [(name, *interval, _duration(probes[path])) for name, interval, path in _intervals(listing)]
    return Indexed(
        cache=Cache(config.cache),
        num_videos=len(probes),
        num_intervals=len(intervals),
        num_new_rows=len(table) - num_old,
        unreadable=unreadable,
        complaints=complaints_about(probes),
        beyond_end=[name for name, start, end, duration in intervals if start < duration < end],
        after_end=[name for name, start, _, duration in intervals if duration <= start],
        without_window=chosen.without_clip if config.clips.has_windows else [],
        without_frame=[] if config.clips.has_windows else chosen.without_clip,
        splits=summaries(listing, probes, table.counts("split"), absent),
        left_out=dict(listing.left_out),
        warnings=chosen.warnings + _warnings(listing, config),
        files=files,
        missing=dict(listing.missing),
        classes_from=listing.classes_from,
        notes=[*listing.notes],
        differences=differences(listing, files, len(unreadable)),
    )


def _counting(on_progress: OnProgress) -> Callable[[int], None]:
    """Returns a function that takes the number of newly generated videos and reports the total to `on_progress`."""
    made = 0

    def count(new: int) -> None:
        nonlocal made
        made += new
        on_progress("generating videos", made, 0)

    return count


def _warnings(listing: Listing, config: Config) -> list[str]:
    are_named = getattr(config.dataset, "classes", None) is not None
    return label_warnings(listing, are_named=are_named) + mirror_warnings(listing.classes, config.clips.crop_names)


def _existing(config: Config, storage: Storage) -> Cache | None:
    """Returns the cache that `config` names, or None if there is none yet.

    Raises CacheMismatch if the cache was made with other options, and CacheError if one of its documents is damaged.
    """
    if not storage.exists(MANIFEST):
        return None
    cache = Cache(config.cache)
    cache.check_clips(clips_options(config.clips))
    cache.check_layout(config.store.model_dump())
    require_begun(cache)
    return cache


def _intervals(listing: Listing) -> Iterator[tuple[str, Interval, str]]:
    """Yields (id, interval, path of the video) for each interval that the data set `listing` lists. If clips are
    windows, these intervals are the labelled parts of the videos. An interval is (start, end) in seconds.
    """
    for video in listing.videos:
        if video.interval is not None:
            yield video.video_id, video.interval, video.path
    yield from windowed.segments_of(listing)


def require_begun(cache: Cache) -> None:
    """Raises CacheError if a document of the cache is damaged, or if the cache has stages but no clips.parquet."""
    cache.arrays()
    if cache.storage.exists(TABLE):
        require_rows(cache)
    elif cache.stage_keys():
        where = f"{cache.root}/{TABLE}"
        raise CacheError(f"{where} is gone, and only it says which row is which clip. Restore it from a copy.")


def _table(cache: Cache, chosen: WithClips, options: ClipOptions) -> tuple[ClipsTable, int]:
    """Returns (table of all rows of the cache, number of rows that the cache had before). `chosen` has the videos and
    intervals from which clips are made.
    """
    rows: Iterator[ClipRow] = (
        row for video in chosen.listing.videos for row in video_rows(video, chosen.probes[video.path], options)
    )
    if not cache.storage.exists(TABLE):
        return sorted_table(rows), 0
    old = ClipsTable.read(cache.storage)
    if options.has_windows or chosen.without_clip:
        # before `rows`, because `rows` has a row without times of each video that cannot be opened now
        rows = chain(windowed.kept_rows(old.rows(), chosen.listed, chosen.probes, chosen.without_clip), rows)
    return merged_tables(old, rows), len(old)


def _write(storage: Storage, listing: Listing, table: ClipsTable) -> None:
    storage.put(CLASSES, [json.dumps(listing.classes, ensure_ascii=False, indent=1).encode()])
    source = {"classes_from": listing.classes_from} if listing.classes_from else {}
    storage.put(LABELS, [json.dumps({"multi_label": listing.multi_label} | source, ensure_ascii=False).encode()])
    write_missing(storage, {name: (absent.split, absent.words) for name, absent in listing.missing.items()})
    write_attributes(storage, listing.attributes)
    table.write(storage)


def write_dataset(storage: Storage, options: Mapping[str, Any]) -> None:
    """Writes dataset.json, which records the options of the data set in the cache.

    Call this function after the rows are written, so that the options never describe rows that do not exist.
    """
    storage.put(DATASET, [json.dumps({"options": options}, ensure_ascii=False, indent=1).encode()])


def _entered(options: DatasetOptions, listing: Listing) -> dict[str, Any]:
    """Returns the options of the data set as a dict, without options that had no effect. For example, `frame_rate` is
    left out if no video of `listing` is a folder of images.
    """
    entered = options.model_dump(mode="json")
    if entered["kind"] == "folder" and not listing.uses_shares:
        del entered["splits"]
    if entered.get("frame_rate") and not any(video.frame_rate for video in listing.videos):
        del entered["frame_rate"]
    return entered


def _duration(probe: Probe | DecodeError) -> float:
    """Returns the duration of a video in seconds, or NaN if `probe`, the result of opening the video, is an error."""
    return probe.duration if isinstance(probe, Probe) else NAN


def reopen_partial(cache: Cache, shard: int) -> None:
    """Marks the shard number `shard` as not done in all stages, so that it is computed again. Call this before rows are
    appended to this shard, which is the last one.
    """
    for key in reversed(stages_in_order(cache)):
        cache.ledger.unseal(key, shard)


def _probe_all(
    listing: Listing, config: Config, storage: Storage, on_progress: Callable[[str, int, int], None]
) -> dict[str, Probe | DecodeError]:
    """Reads the header of each video in `listing`. Returns path -> facts such as the duration, or path -> error if the
    video cannot be opened. Facts that an earlier `index` has stored in `storage` are used if the file has not changed.

    `on_progress` is called with ("reading headers", videos done, number of videos). Each video on a disk has a time
    limit of `run.video_timeout_seconds`. Requests to URLs have their own time limits.
    """
    run = config.run
    probe_of: dict[str, Probe | DecodeError] = {}
    videos = {video.path: video for video in listing.videos}
    threads = REQUESTS_AT_ONCE if any(map(is_url, videos)) else os.cpu_count() or 1
    by_number = config.clips.by_number
    kept = KeptProbes(storage, f"clips {clips_options(config.clips)['version']}{', by number' if by_number else ''}")
    num_kept = sum(path in kept for path in videos)

    def limit_seconds(path: str) -> float:
        return math.inf if is_url(path) else run.video_timeout_seconds

    def look(path: str) -> Probe:
        if videos[path].frame_rate is not None:  # its images are listed already
            return probed(videos[path], staging, by_number)
        stamp = stamp_of(path)
        if (probe := kept.find(path, stamp)) is None:
            probe = probed(videos[path], staging, by_number)
            kept.add(path, stamp, probe)
        return probe

    try:
        with Staging(run.staging) as staging:
            paths = sorted(videos, key=lambda path: path not in kept)
            for done, (path, result) in enumerate(probe_all(paths, look, threads, limit_seconds), 1):
                probe_of[path] = result
                kept.write_if_due()
                if done >= num_kept:  # the speed of reading says how much time is left
                    on_progress("reading headers", done, len(videos))
    except BaseException:
        kept.write()
        raise
    kept.close(videos)
    return probe_of


def probed(video: Video, staging: Staging, by_number: bool) -> Probe:
    """Reads the facts about `video` that indexing needs, such as its duration and frame size. `staging` reads videos at
    URLs. If `by_number` is true, the facts about a file include the times of all frames, in seconds.

    Raises DecodeError if the video cannot be opened.
    """
    if video.frame_rate is not None:
        return probe_images(video.path, video.frame_rate, video.images)
    return staging.probe(video.path, by_number)


def video_rows(video: Video, probe: Probe | DecodeError, options: ClipOptions) -> Iterator[ClipRow]:
    """Yields the rows of `video`, a whole video or one interval: a ClipRow for each clip with each crop, as `options`
    say.

    `probe` has the facts that were read from the video, or the error if it could not be opened. With an error, the rows
    have no times and no crop rectangles, and the sampling `windows` makes only one clip.
    """
    if isinstance(probe, DecodeError):
        clips: Iterable[SampledClip | None] = [None] * options.per_video
    else:
        clips = clips_of(options, probe.duration, video.interval, probe.frames, video.annotated_frames)
    for clip, taken in enumerate(clips):
        for crop in options.crop_names:
            shared: dict[str, Any] = {
                "clip_id": f"{video.video_id}:{clip}:{crop}",
                "video_id": video.video_id,
                "path": video.path,
                "split": video.split,
                "labels": video.labels,
                "list_index": video.list_index,
                "interval": video.interval,
                "mirrored": is_mirrored(crop),
                "frame_rate": video.frame_rate,
            }
            if isinstance(probe, DecodeError) or taken is None:
                yield ClipRow(
                    **shared, start_seconds=NAN, end_seconds=NAN,
                    target_times=(), crop=(NAN,) * 4, frame_width=0, frame_height=0,
                )  # fmt: skip
                continue
            start, end = taken.interval
            yield ClipRow(
                **shared, start_seconds=start, end_seconds=end, target_times=taken.times, target_frames=taken.frames,
                crop=crop_rectangle(crop, probe.frame_width, probe.frame_height),
                frame_width=probe.frame_width, frame_height=probe.frame_height,
            )  # fmt: skip
