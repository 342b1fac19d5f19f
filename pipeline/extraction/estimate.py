"""Estimates the files, bytes, memory and time of a plan, and checks that the disk has room. Torch-free."""

import shutil
from dataclasses import asdict, dataclass
from typing import Any

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.files import free_inodes
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.declared import Declared
from kinegraph.pipeline.caches.plan import Plan
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.feed import BATCHES_AHEAD, MOST_BYTES_AHEAD
from kinegraph.pipeline.shards.pace import RECENT_RECORDS, Sealed, clips_per_second
from kinegraph.stages.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The estimated cost of a plan."""

    units: int  # the number of work units to compute. A work unit is one shard with the stage keys to compute for it.
    # `files`, `bytes`: the numbers of files and bytes to write
    files: int
    bytes: int
    # `free_bytes`, `free_inodes`: the bytes and files for which the file system has room. A user's quota is not known.
    # None if the cache is not on a file system. `free_inodes` is also None if the file system has no limit of files.
    free_bytes: int | None
    free_inodes: int | None
    worker_bytes: int  # the memory for pixels and outputs in one worker
    # The time at the speed at which this cache was filled so far. None if a planned stage has no shard yet.
    hours: float | None

    def to_json(self) -> dict[str, Any]:
        """Returns the estimate as a dict for `--json`. The key `inodes` of the dict has the value of `files`."""
        return asdict(self) | {"inodes": self.files}

    def check_fits(self, where: str) -> None:
        """Raises UsageError if the file system has too few free bytes or inodes for the plan. The message
        begins with `where`, the path of the cache.
        """
        if self.free_bytes is not None and self.bytes > self.free_bytes:
            raise UsageError(
                f"{where}: {self.bytes:,} bytes to write, {self.free_bytes:,} bytes free. Make room, store less "
                "(`store`, `storage_dtype`, fewer taps), or extract a part (--limit, --shards)."
            )
        if self.free_inodes is not None and self.files > self.free_inodes:
            raise UsageError(
                f"{where}: {counted(self.files, 'file')} to write, {counted(self.free_inodes, 'inode')} free, one "
                "for each file. Remove files, take larger shards (`store.shard_clips`, in a new cache), "
                "`store.kind: hdf5` (one file for all arrays of a stage), or extract a part (--limit, --shards)."
            )


def estimate(config: Config, cache: Cache, plan: Plan) -> Estimate:
    """Returns the Estimate of `plan`: the files, bytes, memory and time that it takes to fill `cache`. Computes and
    writes nothing.
    """
    folder = cache.storage.local_path(".")
    return Estimate(
        units=len(plan.units),
        files=plan.num_objects(cache),
        bytes=plan.num_bytes(cache),
        free_bytes=None if folder is None else shutil.disk_usage(folder).free,
        free_inodes=None if folder is None else free_inodes(folder),
        worker_bytes=worker_bytes(config, cache, plan) if plan.units else 0,
        hours=hours(cache, plan),
    )


def worker_bytes(config: Config, cache: Cache, plan: Plan) -> int:
    """Returns the largest memory in bytes that one worker needs for pixels and outputs, to compute the shards of
    `plan`.

    The result is an upper bound: all queues are full, and every frame is as large as the largest frame. Python, torch
    (together about 400 MB) and the networks need memory in addition.
    """
    keys = {key for unit in plan.units for key in unit.keys}
    row_bytes = sum(spec.row_bytes for key in keys for spec in plan.declared.stages[key].arrays)
    shards = 2 * cache.shard_clips * row_bytes  # one being filled, one being written
    clip_bytes, rows = _clip_bytes(plan.declared, cache, keys), _most_rows_of_a_video(cache)
    decoders, batch = config.run.decoders, config.run.most_clips_of_a_batch
    of_threads = min(decoders * rows, MOST_BYTES_AHEAD // max(1, clip_bytes))
    ahead = max(2 * batch + decoders, of_threads) + rows  # and the video that exceeds that
    # 1: being assembled; 2: waiting for the queue, in the network
    return shards + ((1 + BATCHES_AHEAD + 2) * batch + ahead) * clip_bytes


def _most_rows_of_a_video(cache: Cache) -> int:
    """Returns the largest number of rows of one video in one shard. These rows are decoded together."""
    return min(cache.shard_clips, max(ClipsTable.count_values(cache.storage, ["path"]).values(), default=0))


def _clip_bytes(declared: Declared, cache: Cache, keys: set[str]) -> int:
    """Returns the estimated bytes of the decoded pixels of one clip, in a work unit that writes the stages `keys`.

    The pixels are square crops for backbones and whole frames for detectors. The estimate is high, because it counts
    every backbone, also a backbone whose maps the cache already has.
    """
    wanted = declared.wanted(declared.running(keys, lambda key: False))
    return 0 if wanted is None else max((wanted.num_bytes(*frame) for frame in _frame_sizes(cache)), default=0)


def _frame_sizes(cache: Cache) -> list[tuple[int, int]]:
    """Returns the frame sizes (height, width) in pixels that occur in the videos of the cache. Each size occurs once in
    the list.
    """
    sizes = ClipsTable.count_values(cache.storage, ["frame_height", "frame_width"])
    return [(height, width) for height, width in sizes if height > 0]


def hours(cache: Cache, plan: Plan) -> float | None:
    """Returns the estimated hours for `plan`, at the speed that the latest ledger records of `cache` show. Returns None
    if a stage to compute has no record.

    The stages of a shard are computed together, so the slowest stage decides.
    """
    seconds = 0.0
    for key in plan.keys:
        missing = sum(len(cache.shard_rows(unit.shard)) for unit in plan.units if key in unit.keys)
        rate = _recent_rate(cache, key) if missing else None
        if missing and rate is None:
            return None
        seconds = max(seconds, missing / rate if rate else 0.0)
    return seconds / 3600


def _recent_rate(cache: Cache, key: str) -> float | None:
    """Returns the speed of the stage `key` in clips per second, from its last RECENT_RECORDS ledger records. Returns
    None if the stage has no record.
    """
    records = (cache.ledger.read(key, shard) for shard in cache.ledger.shards(key)[-RECENT_RECORDS:])
    return clips_per_second(Sealed.of(record) for record in records if record)
