"""Videos, and files of boxes, that changed since they were cached. Torch-free."""

import os
from collections.abc import Container

from cache_schemas.cache import Cache
from cache_schemas.clips_table import ClipsTable, merged, video_of
from cache_schemas.ledger import Record, Source
from pipeline.config import Config
from pipeline.indexing import video_rows
from stages.clips.datasets import Video
from stages.decode.errors import DecodeError
from stages.decode.source import source_identity
from stages.decode.stream import probe
from stages.proposals.options import FileOptions


def changed_videos(cache: Cache, shards: Container[int], retry_failed: bool = False) -> dict[int, list[str]]:
    """Shard -> videos that are not what the shard's frames were decoded from: one stat per video.

    The content is read only where the size is the same and the time is not. A video that is gone, or one with a
    failed clip, has not changed; `retry_failed` tries the latter again, and looks at those of which clips were kept.
    """
    paths = ClipsTable.read_columns(cache.storage, ["video_id", "path"]).group_by(["video_id", "path"]).aggregate([])
    path_of = dict(zip(*(paths.column(name).to_pylist() for name in ("video_id", "path")), strict=True))
    known: dict[tuple[str, int, int, str], bool] = {}  # a video may lie in two shards
    found: dict[int, list[str]] = {}
    for record in cache.ledger.records("clips", shards):
        failed = _videos_to_retry(cache, record) if retry_failed else _failed_videos(record)
        for video, source in record.sources.items():
            if video not in failed and video in path_of:
                identity = (video, source.size, source.mtime_ns, source.digest)
                if identity not in known:
                    known[identity] = _has_changed(path_of[video], source)
                if known[identity]:
                    found.setdefault(record.shard, []).append(video)
    return found


def _failed_videos(record: Record) -> set[str]:
    return {video_of(failure.clip_id) for failure in record.failures}


def _videos_to_retry(cache: Cache, record: Record) -> set[str]:
    """Videos of which no clip of the shard is to be kept."""
    failed = {failure.clip_id for failure in record.failures}
    return _failed_videos(record) - {video_of(clip) for clip in cache.clip_ids(record.shard) if clip not in failed}


def changed_boxes(config: Config, cache: Cache, shards: Container[int]) -> dict[int, list[str]]:
    """Shard -> videos whose file of boxes is not what their proposals were read from; gone ones have not changed."""
    found: dict[int, list[str]] = {}
    if not isinstance(config.proposals, FileOptions):
        return found
    for record in cache.ledger.records("proposals", shards):
        for video, source in record.box_files.items():
            if _has_changed(config.proposals.file_of(video), source):
                found.setdefault(record.shard, []).append(video)
    return found


def _has_changed(path: str, source: Source) -> bool:
    try:
        now = os.stat(path)  # noqa: PTH116 -- a million Path objects take seconds
    except OSError:
        return False
    if now.st_size != source.size or now.st_mtime_ns == source.mtime_ns:
        return now.st_size != source.size
    identity = source_identity(path)
    return identity is not None and identity.digest != source.digest


def reads_boxes(key: str) -> bool:
    """Whether a stage key is made from boxes."""
    return key == "proposals" or key.startswith("regions/")


def reopen_boxes(cache: Cache, changed: dict[int, list[str]]) -> None:
    """Unseal the proposals of the shards with changed files of boxes, and the regions made from them."""
    for shard in changed:
        for key in filter(reads_boxes, reversed(cache.stage_keys())):
            cache.ledger.unseal(key, shard)


def reopen_changed(config: Config, cache: Cache, changed: dict[int, list[str]]) -> None:
    """Unseal every key of the shards with changed videos.

    Raises CacheMismatch, with nothing changed, where a video's times or frame size are no longer those of its rows.
    """
    videos = {video for of_shard in changed.values() for video in of_shard}
    for shard in changed:
        rows = [row for row in cache.rows(shard) if row.video_id in videos]
        for row in rows:
            video = Video(video_id=row.video_id, path=row.path, split=row.split, labels=row.labels)
            try:
                now = [new for new in video_rows(video, probe(row.path), config.clips) if new.clip_id == row.clip_id]
            except DecodeError:
                continue  # extraction says what is wrong with it
            merged([row], now)
    for shard in changed:
        for key in reversed(cache.stage_keys()):
            cache.ledger.unseal(key, shard)
