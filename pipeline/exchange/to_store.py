"""Copies a cache to another kind of store, or with another compression: `kinegraph export --to zarr|hdf5`.
Torch-free.
"""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kinegraph.cache_schemas.annotations import ANNOTATIONS
from kinegraph.cache_schemas.arrays import status_array
from kinegraph.cache_schemas.cache import CLASSES, DATASET, LABELS, Cache
from kinegraph.cache_schemas.clips_table import TABLE, ClipsTable
from kinegraph.cache_schemas.compression import NONE
from kinegraph.cache_schemas.data_set_documents import OF_DATA_SET
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.ledger import Exported, Record
from kinegraph.cache_schemas.sealed_rows import require_rows, sealed_shards
from kinegraph.cache_schemas.stage import Stage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.indexing import reopen_partial
from kinegraph.pipeline.caches.verification import whole_contents
from kinegraph.pipeline.errors import ExchangeError
from kinegraph.pipeline.shards.sealing import ShardRows
from kinegraph.pipeline.shards.taking_over import OnProgress, fill, unheard

NEW_IN_A_COPY: dict[str, Any] = {"objects": {}, "exported": None}


@dataclass(frozen=True, kw_only=True)
class ExportedCache:
    """The result of an export to another cache. A shard counts once for each stage."""

    cache: Cache  # the copy
    # `num_sealed`, `num_unsealed`: the numbers of sealed and of other shards in the source
    num_sealed: int
    num_copied: int  # the number of shards that this export copied
    num_unsealed: int
    damaged: tuple[str, ...]  # a sentence for each damaged shard. Damaged shards are not copied.


def export_cache(
    source: Cache, out: Path | str, *, kind: str, compression: str | None = None, on_progress: OnProgress = unheard
) -> ExportedCache:
    """Copies every sealed shard of `source` to a cache at `out`. Returns an ExportedCache.

    - `kind`: the store of the copy, "zarr" or "hdf5".
    - `compression`: the codec of a zarr copy. None means the codec of `source`.
    - `on_progress`: is called with (text, number of shards done, number of all shards).

    Values, rows, stages and ledger entries are copied unchanged, after their checksums were checked. A shard that `out`
    has already is copied again only if `source` has computed it again. Raises ExchangeError or CacheMismatch if `out`
    is a cache that is not a copy of `source`.
    """
    if Path(source.root).resolve() == Path(out).resolve():
        raise ExchangeError(f"{out} is the cache to be exported; name another folder")
    stages = {key: source.stage(key) for key in source.stage_keys()}
    require_rows(source)
    copy = _begin(source, out, kind, compression)
    for stage in stages.values():
        copy.check_stage(stage)
    copy.declare(*stages.values(), renew=True)
    _reopen_outdated(source, copy)
    missing = _missing(source, copy)
    damaged: set[str] = set()

    def prepare(shard: int, keys: Sequence[str]) -> Iterator[tuple[Record, ShardRows]]:
        for key in keys:
            try:
                yield _read(source, stages[key], shard)
            except CacheError as error:
                damaged.add(str(error))

    fill(copy, missing, prepare, on_progress)
    num_missing, num_sealed = (sum(map(len, counted)) for counted in (missing.values(), _sealed(source).values()))
    return ExportedCache(
        cache=copy,
        num_sealed=num_sealed,
        num_copied=num_missing - len(damaged),
        num_unsealed=len(stages) * source.num_shards - num_sealed,
        damaged=tuple(sorted(damaged)),
    )


def _begin(source: Cache, out: Path | str, kind: str, compression: str | None) -> Cache:
    """Returns the cache at `out` with all rows of `source`. Creates the cache if there is none. Stages that it has
    already stay unchanged.

    `kind` is the store, "zarr" or "hdf5". `compression` is the codec, or None for the codec of `source`. Raises
    ExchangeError if the cache at `out` has other rows or other shard sizes than `source`.
    """
    given = source.manifest["store"]["compression"] if compression is None else compression
    layout = source.manifest["store"] | {"kind": kind, "compression": NONE if kind == "hdf5" else given}
    open_storage(out).sweep()
    copy = Cache.create(out, source.manifest["clips"], layout)
    if copy.shard_clips != source.shard_clips:
        raise ExchangeError(
            f"{out} has shards of {counted(copy.shard_clips, 'row')}, {source.root} of {source.shard_clips}."
        )
    clip_ids = source.clips.column("clip_id")
    there = ClipsTable.read(copy.storage).column("clip_id") if copy.storage.exists(TABLE) else []
    if there != clip_ids[: len(there)]:
        raise ExchangeError(f"{out} holds other rows than {source.root}: not a copy of it. Choose another folder.")
    if len(there) < len(clip_ids) and len(there) % copy.shard_clips:
        reopen_partial(copy, len(there) // copy.shard_clips)
    for name in filter(source.storage.exists, (CLASSES, LABELS, TABLE, ANNOTATIONS, *OF_DATA_SET, DATASET)):
        copy.storage.put(name, [source.storage.get(name)])
    return copy


def _reopen_outdated(source: Cache, copy: Cache) -> None:
    """Removes the ledger record of each shard of `copy` that `source` has computed again since it was copied. So these
    shards are copied again.
    """
    for key in copy.stage_keys():
        for there in copy.ledger.records(key):
            now = source.ledger.read(key, there.shard) if there.exported else None
            if now and now.model_copy(update=NEW_IN_A_COPY) != there.model_copy(update=NEW_IN_A_COPY):
                copy.ledger.unseal(key, there.shard)


def _sealed(cache: Cache) -> dict[str, set[int]]:
    return {key: set(sealed_shards(cache, key)) for key in cache.stage_keys()}


def _missing(source: Cache, copy: Cache) -> dict[int, list[str]]:
    """Returns {shard: stage keys} of the shards that are sealed in `source` and not in `copy`."""
    missing: dict[int, list[str]] = {}
    there = _sealed(copy)
    for key, shards in _sealed(source).items():
        for shard in shards - there[key]:
            missing.setdefault(shard, []).append(key)
    return dict(sorted(missing.items()))


def _read(source: Cache, stage: Stage, shard: int) -> tuple[Record, ShardRows]:
    """Reads one sealed shard of `stage` for a copy. Returns (ledger record, rows). The rows are (spec, values) for each
    array of the stage. `exported` in the record says from which kind of store the shard was copied, and when.

    Raises CacheError if the shard is damaged or is not sealed any more.
    """
    record = source.ledger.read(stage.key, shard)
    if record is None:
        raise CacheError(f"{stage.key} shard {shard} of {source.root} was unsealed while it was exported.")
    contents = whole_contents(source, stage, record)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    exported = Exported(kind=source.manifest["store"]["kind"], kinegraph=version("kinegraph"), at=now)
    rows = [(spec, contents.rows[spec.name]) for spec in (*stage.arrays, status_array(stage.key))]
    return record.model_copy(update={"exported": exported}), rows
