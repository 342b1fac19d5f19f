"""Finds videos that changed since the cache was made, and makes `extract` compute their shards again. Finds changed
files of boxes or scene graphs, too. Imports no torch.
"""

import logging
from collections.abc import Container, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import CLIPS
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable, merged, video_of
from kinegraph.cache_schemas.closure import stages_in_order, with_readers
from kinegraph.cache_schemas.ledger import Record, Source
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.pipeline.caches.indexing import REQUESTS_AT_ONCE, probed, video_rows
from kinegraph.pipeline.caches.own_files import files_of
from kinegraph.pipeline.caches.videos_at_hand import has_changed
from kinegraph.pipeline.config import Config
from kinegraph.stages.datasets.listing import Video
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.remote.faults import CredentialsError, NetworkError
from kinegraph.stages.remote.staging import Staging
from kinegraph.stages.remote.urls import is_url

if TYPE_CHECKING:
    from kinegraph.stages.remote.remote import Remote

Changed = dict[int, list[str]]  # shard -> videos
log = logging.getLogger("kinegraph")


def changed_videos(cache: Cache, shards: Container[int], retry_failed: bool = False) -> Changed:
    """Returns {shard number: ids of the videos whose file has changed since it was decoded}, for the shards in
    `shards`.

    A missing video counts as unchanged. A video with a failed clip counts as unchanged, too. If `retry_failed` is true,
    this holds only if all its clips in the shard failed. If the network or the credentials fail, all videos at URLs
    count as unchanged, and a warning is logged.
    """
    path_of = dict(ClipsTable.count_values(cache.storage, ["video_id", "path"]).keys())
    was_changed: dict[tuple[str, int, int, str], bool] = {}  # a video may lie in two shards, or have intervals
    changed: Changed = {}
    elsewhere: list[tuple[int, str, str, Source]] = []
    for record in stopping.checked(sealed_records(cache, CLIPS, shards)):
        failed = _videos_to_retry(cache, record) if retry_failed else _failed_videos(record)
        for video, source in record.sources.items():
            if video in failed or video not in path_of:
                continue
            if is_url(path_of[video]):
                elsewhere.append((record.shard, video, path_of[video], source))
            else:
                identity = (path_of[video], source.size, source.mtime_ns, source.digest)
                if identity not in was_changed:
                    was_changed[identity] = has_changed(path_of[video], source)
                if was_changed[identity]:
                    changed.setdefault(record.shard, []).append(video)
    asked = list(dict.fromkeys((url, source) for *_, url, source in elsewhere))
    now_other = dict(zip(asked, _have_changed(asked), strict=True))
    for shard, video, url, source in elsewhere:
        if now_other[url, source]:
            changed.setdefault(shard, []).append(video)
    return changed


def _failed_videos(record: Record) -> set[str]:
    return {video_of(failure.clip_id) for failure in record.failures}


def _videos_to_retry(cache: Cache, record: Record) -> set[str]:
    """Returns the ids of the videos whose clips have all failed in the shard of the ledger record `record`."""
    failed = {failure.clip_id for failure in record.failures}
    return _failed_videos(record) - {video_of(clip) for clip in cache.clip_ids(record.shard) if clip not in failed}


def changed_files(recipe: Recipe, cache: Cache, shards: Container[int]) -> dict[str, Changed]:
    """Returns stage key -> shard number -> ids of the videos whose file of boxes or scene graphs has changed since the
    shard was extracted. Only the shards in `shards` are checked. `recipe` says where the files lie.

    A missing file counts as unchanged.
    """
    changed: dict[str, Changed] = {}
    for key, file_of in files_of(recipe).items():
        name_of = ClipsTable.read_video_names(cache.storage)
        for record in stopping.checked(sealed_records(cache, key, shards)):
            for video, source in record.files.items():
                if has_changed(file_of(name_of.get(video, video)), source):
                    changed.setdefault(key, {}).setdefault(record.shard, []).append(video)
    return changed


def _have_changed(videos: Sequence[tuple[str, Source]]) -> list[bool]:
    """Returns a bool for each (URL, identity of the video when it was read) in `videos`. It is true if the video at the
    URL has changed since.

    If the network or the credentials fail, logs a warning and returns False for every video.
    """
    if not videos:
        return []
    from kinegraph.stages.remote.remote import Remote  # slow to import, and folders do not need it

    remote = Remote(tries=2)
    with stopping.threads(REQUESTS_AT_ONCE) as pool:
        try:
            return [*stopping.mapped(pool, lambda video: _has_changed_at(remote, *video), videos)]
        except (NetworkError, CredentialsError) as error:
            pool.shutdown(wait=False, cancel_futures=True)
            log.warning("Videos at URLs are not checked for changes since they were cached: %s", error)
            return [False for _ in videos]


def _has_changed_at(remote: "Remote", url: str, source: Source) -> bool:
    try:
        now = remote.info(url)
        if now.size is None or now.size != source.size:
            return now.size is not None
        return not now.is_version(source) and remote.digest(url, now.size) != source.digest
    except DecodeError:
        return False


def reopen_files(cache: Cache, changed: dict[str, Changed]) -> None:
    """Marks the shards that read changed files of boxes or scene graphs as not done, so that `extract` computes them
    again.

    `changed` is the result of `changed_files`: stage key -> shard number -> video ids. Stages that are made from a
    stage in `changed` are computed again, too.
    """
    stages = stages_in_order(cache) if changed else {}
    for key, shards in changed.items():
        for shard in shards:
            for reader in reversed(with_readers(stages, [key])):
                cache.ledger.unseal(reader, shard)


def reopen_changed(config: Config, cache: Cache, changed: Changed) -> None:
    """Marks the shards of changed videos as not done in all stages, so that `extract` computes them again. `changed`
    maps the number of a shard to the ids of its changed videos.

    Raises CacheMismatch, and changes nothing, if a changed video has other times or another frame size than its rows in
    clips.parquet.
    """
    videos = {video for of_shard in changed.values() for video in of_shard}
    with Staging(config.run.staging) as staging:
        for shard in changed:
            rows = [row for row in cache.rows(shard) if row.video_id in videos]
            for _, of_video in groupby(rows, key=lambda row: (row.video_id, row.path)):
                _check_fits([*of_video], config, staging)
    readers_first = [*reversed(stages_in_order(cache))] if changed else []
    for shard in changed:
        for key in readers_first:
            cache.ledger.unseal(key, shard)


def _check_fits(rows: list[ClipRow], config: Config, staging: Staging) -> None:
    """Raises CacheMismatch if the video of `rows` has other times or another frame size now. `rows` are the rows of one
    video in the cache. Does nothing if the video cannot be read. `staging` reads videos at URLs.
    """
    row = rows[0]
    video = Video(
        video_id=row.video_id, path=row.path, split=row.split, labels=row.labels, list_index=row.list_index,
        interval=row.interval, frame_rate=row.frame_rate, annotated_frames=(*dict.fromkeys(row.target_frames or ()),),
    )  # fmt: skip
    try:
        probe = probed(video, staging, config.clips.by_number)
    except DecodeError:
        return  # extraction says what is wrong with it
    here = {row.clip_id for row in rows}
    merged(rows, [new for new in video_rows(video, probe, config.clips) if new.clip_id in here])
