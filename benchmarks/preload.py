"""Compares `CachedClips(preload=True)` with reading from the shards: batches of 64 clips in random order.

The arrays are region features [16, 50, 512] and counts [16], uncompressed and with zstd. The page cache is warm. Prints
ratios of batches per second, measured in alternation.
"""

import math
import statistics
import tempfile
import time

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec, proposal_arrays, region_arrays
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.stage import Stage

RUNS, CLIPS, BATCH = 7, 256, 64
COUNTS = next(spec for spec in proposal_arrays(16, 50, 1) if spec.name == "proposals/count")
REGIONS = region_arrays("b", "t", (16, 50, 512), 1, "float16")[0]


def row(number: int) -> ClipRow:
    video = f"{number:06d}.mp4"
    return ClipRow(
        clip_id=f"{video}:0:full", video_id=video, path=video, split="train", start_seconds=0.0, end_seconds=1.0,
        labels=(0,), target_times=(0.0,), crop=(0.0, 0.0, 8.0, 8.0), frame_width=8, frame_height=8,
    )  # fmt: skip


def cache_of(spec: ArraySpec, folder: str, compression: str) -> Cache:
    """Writes a cache with the array `spec` into `folder` and returns it. `compression` is the codec. Two thirds of the
    values are zero, as after ReLU and pooling.
    """
    cache = Cache.create(folder, {}, {"kind": "zarr", "shard_clips": 64, "compression": compression})
    ClipsTable.from_rows([row(number) for number in range(CLIPS)]).write(cache.storage)
    cache.storage.put("classes.json", [b'["one"]'])
    stage = Stage(key=spec.stage, options={}, arrays=(spec,))
    cache.declare(stage)
    random = np.random.default_rng(0)
    for shard in range(cache.num_shards):
        values = np.maximum(random.normal(-0.5, 1, (64, *spec.shape)), 0).astype(spec.dtype)
        cache.store.write_shard(stage.key, shard, [(spec, values)])
        cache.ledger.seal(Record(key=stage.key, shard=shard, num_rows=64, fingerprint=stage.fingerprint, objects={}))
    return cache


def seconds(clips: CachedClips, order: np.ndarray) -> float:
    begun = time.perf_counter()
    for batch in order.reshape(-1, BATCH):
        clips.batch(batch)
    return time.perf_counter() - begun


def compare(spec: ArraySpec, compression: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = cache_of(spec, folder, compression)
        mapped, preloaded = (CachedClips(cache, [spec.name], preload=preload) for preload in (False, True))
        order = np.random.default_rng(1).permutation(CLIPS)
        pairs = [(seconds(mapped, order), seconds(preloaded, order)) for _ in range(RUNS + 1)][1:]  # first: warm-up
    ratio = statistics.median(a / b for a, b in pairs)
    rate = CLIPS / BATCH / statistics.median(b for _, b in pairs)
    size = math.prod((BATCH, spec.row_bytes)) / 1e6
    print(f"{spec.name} ({size:.3g} MB a batch), {compression}: preloaded {rate:.0f} batches/s, {ratio:.2f} of mapped")


def main() -> None:
    for spec in (REGIONS, COUNTS):
        for compression in ("none", "zstd"):
            compare(spec, compression)


if __name__ == "__main__":
    main()
