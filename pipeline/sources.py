"""Videos, and files read beside them, that changed since they were cached. Torch-free."""

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
from stages.scene_graphs.options import GraphFileOptions

Changed = dict[int, list[str]]  # shard -> videos


def changed_videos(cache: Cache, shards: Container[int], retry_failed: bool = False) -> Changed:
    """Shard -> videos that are not what the shard's frames were decoded from: one stat per video.

    The content is read only where the size is the same and the time is not. A video that is gone, or one with a
    failed clip, has not changed; `retry_failed` tries the latter again, and looks at those of which clips were kept.
    """
    paths = ClipsTable.read_columns(cache.storage, ["video_id", "path"]).group_by(["video_id", "path"]).aggregate([])
    path_of = dict(zip(*(paths.column(name).to_pylist() for name in ("video_id", "path")), strict=True))
    known: dict[tuple[str, int, int, str], bool] = {}  # a video may lie in two shards
    found: Changed = {}
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


def changed_files(config: Config, cache: Cache, shards: Container[int]) -> dict[str, Changed]:
    """By key: videos whose file is not what the key was made from; files that are gone have not changed."""
    found: dict[str, Changed] = {}
    for key, options in (("proposals", config.proposals), ("graphs", config.graphs)):
        if not isinstance(options, FileOptions | GraphFileOptions):
            continue
        for record in cache.ledger.records(key, shards):
            for video, source in record.files.items():
                if _has_changed(options.file_of(video), source):
                    found.setdefault(key, {}).setdefault(record.shard, []).append(video)
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


def is_made_from(key: str, files_of: str) -> bool:
    """Whether a stage key is made from the files that the key `files_of` is read from."""
    return key == files_of or (files_of == "proposals" and key.startswith("regions/"))


def reopen_files(cache: Cache, changed: dict[str, Changed]) -> None:
    """Unseal what `changed_files` gave, and the regions made from changed boxes."""
    for files_of, shards in changed.items():
        keys = [key for key in reversed(cache.stage_keys()) if is_made_from(key, files_of)]
        for shard in shards:
            for key in keys:
                cache.ledger.unseal(key, shard)


def reopen_changed(config: Config, cache: Cache, changed: Changed) -> None:
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
