"""Compares compression by lz4 and zstd with no compression, on features of an extraction.

Prints the table of docs/compression.md. The features come from the demo's networks and videos, with 50 proposals a
frame. The size is printed as a part of the uncompressed size. Writing seals a shard object, with fsync. Reading reads
64 clips in random order with a warm page cache. Speeds are MB/s of values without compression, and ratios to this speed
with compression. They are medians over alternating runs.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.local_storage import LocalStorage
from kinegraph.cache_schemas.zarr_shards import ZarrStore
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract

DEMO = Path(__file__).parent.parent / "pipeline" / "demo.yaml"
CODECS, RUNS, CLIPS = ("none", "lz4", "zstd"), 9, 64
ARRAYS = {
    "regions/tiny/res4": "region features",
    "features/tiny/res4": "maps",
    "features/tiny/res4_pooled": "pooled features",
    "proposals/boxes": "boxes",
}
Samples = dict[tuple[str, str], list[float]]  # (codec, "write" | "read") -> seconds


def extracted(folder: str) -> Cache:
    """Extracts a cache of CLIPS + 2 clips in one shard into `folder` and returns it."""
    settings = [f"cache={folder}/cache", f"dataset.root={folder}/videos", f"dataset.train={CLIPS}", "dataset.val=1"]
    settings += [
        "dataset.test=1",
        "store.shard_clips=128",
        "proposals.top=50",
        "backbones.tiny.store=[maps, pooled]",
        "run.workers=1",
    ]
    config = load_config(DEMO, settings)
    index(config)
    extract(config)
    return Cache(config.cache)


def measured(spec: ArraySpec, rows: np.ndarray, folder: str) -> tuple[dict[str, int], Samples]:
    """Writes and reads the values `rows` of the array `spec` with each codec, in `folder`. Returns ({codec: bytes},
    {(codec, "write" or "read"): seconds of each run}).
    """
    stores = {codec: ZarrStore(LocalStorage(f"{folder}/{codec}"), CLIPS, codec) for codec in CODECS}
    sizes: dict[str, int] = {}
    samples: Samples = {(codec, what): [] for codec in CODECS for what in ("write", "read")}
    filled, order = np.empty_like(rows), np.random.default_rng(0).permutation(len(rows))
    for run in range(RUNS + 1):
        for codec, store in stores.items():
            begun = time.perf_counter()
            ((sizes[codec], _),) = store.write_shard(spec.stage, 0, [(spec, rows)]).values()
            middle = time.perf_counter()
            view = store.open_shard(spec, 0)
            for position, row in enumerate(order):
                filled[position] = view.row(int(row))
            if run:  # the first one warms up
                samples[codec, "write"].append(middle - begun)
                samples[codec, "read"].append(time.perf_counter() - middle)
    assert np.array_equal(filled, rows[order], equal_nan=True)
    return sizes, samples


def print_rows(about: str, spec: ArraySpec, num_bytes: int, sizes: dict[str, int], samples: Samples) -> None:
    for codec in CODECS:
        cells = [f"{sizes[codec] / num_bytes:.2f}"]
        for what in ("write", "read"):
            rate = num_bytes / 1e6 / statistics.median(samples["none", what])
            ratio = statistics.median(a / b for a, b in zip(samples["none", what], samples[codec, what], strict=True))
            cells.append(f"{rate:,.0f} MB/s" if codec == "none" else f"{ratio:.2f}")
        print(f"| {about}, {spec.dtype} {list(spec.shape)} | {codec} | {' | '.join(cells)} |")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # beside the code: /tmp is often memory
        cache = extracted(folder)
        print("| array, of one clip | codec | size | write | read |\n|---|---|---|---|---|")
        for name, about in ARRAYS.items():
            spec = cache.array(name)
            view = cache.store.open_shard(spec, 0)
            rows = np.stack([view.row(row) for row in range(CLIPS)])
            sizes, samples = measured(spec, rows, folder)
            print_rows(about, spec, rows.nbytes, sizes, samples)


if __name__ == "__main__":
    main()
