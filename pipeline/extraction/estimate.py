"""What a plan will cost: files, bytes, memory and time, and whether the disk has room. Torch-free."""

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
from kinegraph.pipeline.extraction.feed import BATCHES_AHEAD
from kinegraph.pipeline.shards.pace import RECENT_RECORDS, Sealed, clips_per_second
from kinegraph.stages.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """`worker_bytes`: see `worker_bytes`. `hours` at the pace of earlier shards of this cache, None where a planned
    stage has none; `free_bytes` None where the cache lies on no file system, `free_inodes` also where that counts none.
    Both heed what the file system itself limits (quota of a project, what is kept for root); a user's own quota shows
    only at writing."""

    units: int
    files: int
    bytes: int
    free_bytes: int | None
    free_inodes: int | None
    worker_bytes: int
    hours: float | None

    def to_json(self) -> dict[str, Any]:
        """`inodes` are as many as files; an array begun anew takes up to five more, a group 16 for coordinates."""
        return asdict(self) | {"inodes": self.files}

    def check_fits(self, where: str) -> None:
        """Raise UsageError where the file system has not the room for what is to be written."""
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
    """The most memory that pixels and outputs take in one worker: the queues full, every frame as large as the largest.

    Python and torch (some 400 MB) and the networks with their activations come on top.
    """
    keys = {key for unit in plan.units for key in unit.keys}
    row_bytes = sum(spec.row_bytes for key in keys for spec in plan.declared.stages[key].arrays)
    shards = 2 * cache.shard_clips * row_bytes  # one being filled, one being written
    threads = 0 if config.run.executor == "inline" else config.run.worker_threads
    # decoded ahead, and the video that overshoots; being assembled; queued, waiting for a place, in the network
    batches = 2 + 1 + BATCHES_AHEAD + 2
    clips = batches * config.run.batch_size + threads + _most_rows_of_a_video(cache)
    return shards + clips * _clip_bytes(plan.declared, cache, keys)


def _most_rows_of_a_video(cache: Cache) -> int:
    """Rows that are decoded together: those of one video, its intervals too, in one shard."""
    counted = ClipsTable.read_columns(cache.storage, ["path"]).group_by("path").aggregate([([], "count_all")])
    return min(cache.shard_clips, max(counted.column("count_all").to_pylist(), default=0))


def _clip_bytes(declared: Declared, cache: Cache, keys: set[str]) -> int:
    """Bytes of one clip's pixels in a unit of these keys whose maps are not in the cache: squares, and whole frames."""
    wanted = declared.wanted(declared.running(keys, lambda key: False))
    if wanted is None:
        return 0
    found = sum(-(-wanted.num_frames // square.every) * square.size**2 * 3 for square in wanted.squares)
    if (whole := wanted.whole) is not None:
        largest = max((h * w for h, w in (whole.network_size(*frame) for frame in _frame_sizes(cache))), default=0)
        found += -(-wanted.num_frames // whole.every) * largest * 3
    return found


def _frame_sizes(cache: Cache) -> list[tuple[int, int]]:
    """All (height, width) of frames that the cache's rows have."""
    sizes = ClipsTable.read_columns(cache.storage, ["frame_height", "frame_width"])
    different = sizes.group_by(["frame_height", "frame_width"]).aggregate([]).to_pylist()
    return [(row["frame_height"], row["frame_width"]) for row in different if row["frame_height"] > 0]


def hours(cache: Cache, plan: Plan) -> float | None:
    """Stages of one unit run together: the slowest decides."""
    seconds = 0.0
    for key in plan.keys:
        missing = sum(len(cache.shard_rows(unit.shard)) for unit in plan.units if key in unit.keys)
        rate = _recent_rate(cache, key) if missing else None
        if missing and rate is None:
            return None
        seconds = max(seconds, missing / rate if rate else 0.0)
    return seconds / 3600


def _recent_rate(cache: Cache, key: str) -> float | None:
    """Clips a second over the last shards by number: reading every record would take as long as `status`."""
    records = (cache.ledger.read(key, shard) for shard in cache.ledger.shards(key)[-RECENT_RECORDS:])
    return clips_per_second(Sealed.of(record) for record in records if record)
