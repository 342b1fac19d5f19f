"""Measures `kinegraph report` of caches of 3,900 and 99,840 clips.

Prints seconds, CPU seconds, bytes of the page and peak memory. The caches are simulated in a temporary folder: rows,
ledger and random values, without videos. The ratio of the two is expected to be small, because a report reads a sample
of the values.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.results import Case, arguments, report
from kinegraph.cache_schemas.arrays import STATUS_OK, ArraySpec, status_array
from kinegraph.cache_schemas.cache import CLASSES, Cache
from kinegraph.cache_schemas.clips_columns import SCHEMA
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable
from kinegraph.cache_schemas.ledger import Record, SealedObject
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.config import Config, check_config
from kinegraph.stages.clips.stage import clips_options
from kinegraph.stages.decode.source import source_identity

SIZES, ROUNDS, SHARD_CLIPS, FRAMES, NUM_CLASSES = (3_900, 99_840), 2, 64, 16, 100
DOCUMENT = {
    "dataset": {"kind": "folder", "root": "videos"},
    "clips": {"num_frames": FRAMES, "sampling": "uniform", "crops": ["full"]},
    "backbones": {"tiny": {"model": "tiny_i3d", "weights": "shipped", "taps": ["res4"], "store": ["pooled"]}},
    "proposals": {"source": "tiny", "weights": "shipped", "every": 2, "top": 5},
    "regions": {"backbones": ["tiny"]},
    "store": {"shard_clips": SHARD_CLIPS},
}
PEAK = (
    "import os, resource, sys; from kinegraph.cli.app import app; import atexit; atexit.register(lambda: print('cpu', "
)
PEAK += "sum(os.times()[:2]), 'peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)); app()"


def values(spec: ArraySpec, rows: Sequence[ClipRow], random: np.random.Generator) -> np.ndarray:
    """Returns plausible values of the array `spec` for some rows: sorted scores, boxes inside the frame, and normal
    random numbers for all other arrays.
    """
    shape = (len(rows), *spec.shape)
    if spec.name == "clips/frame_times":
        return np.array([row.target_times for row in rows])
    if spec.name == "proposals/count":
        return np.full(shape, 4, spec.dtype)
    if spec.name == "proposals/scores":
        return -np.sort(-random.standard_normal(shape)).astype(spec.dtype)
    if spec.name == "proposals/boxes":
        size = np.array([[row.frame_width, row.frame_height] for row in rows], float)[:, None, None]
        corner = random.random((*shape[:-1], 2)) * size * 0.7
        return np.concatenate([corner, corner + size * 0.3], -1).astype(spec.dtype)
    return random.standard_normal(shape).astype(spec.dtype)


def fill(config: Config, sources: bool = False) -> Cache:
    """Seals all shards of an indexed cache with made-up values, as an extraction would, and returns the cache.

    `config` is the config of the cache. If `sources` is true, the ledger records also name the video files.
    """
    cache, random = Cache(config.cache), np.random.default_rng(0)
    stages = declare(config, {}).stages
    cache.declare(*stages.values())
    for key, stage in stages.items():
        for shard in range(cache.num_shards):
            rows = cache.rows(shard)
            arrays = [(spec, values(spec, rows, random)) for spec in stage.arrays]
            arrays.append((status_array(key), np.full(len(rows), STATUS_OK, np.uint8)))
            objects = cache.store.write_shard(key, shard, arrays)
            found = {row.video_id: source_identity(row.path) for row in rows} if sources else {}
            record = Record(
                key=key, shard=shard, num_rows=len(rows), fingerprint=stage.fingerprint,
                objects={name: SealedObject(size=size, xxh3_128=digest) for name, (size, digest) in objects.items()},
                sources={video: source for video, source in found.items() if source is not None},
                versions={"kinegraph": "0.1.0"}, device="cpu", host="vm", threads=1, batch_size=16,
                seconds={key: 1.0, "rest": 0.5, "threads: write": 0.25}, sealed_at=f"2026-01-01T00:{shard % 60:02d}:00",
            )  # fmt: skip
            cache.ledger.seal(record)
    return cache


def simulate(root: Path, num_rows: int) -> str:
    """Writes a cache of `num_rows` clips of as many videos, all sealed, below `root`. Returns its path."""
    config = check_config(DOCUMENT | {"cache": str(root / str(num_rows))}, "benchmark")
    cache = Cache.create(config.cache, clips_options(config.clips), config.store.model_dump())
    cache.storage.put(CLASSES, [json.dumps([f"class {number}" for number in range(NUM_CLASSES)]).encode()])
    number = np.arange(num_rows)
    videos = [f"class_{n % NUM_CLASSES}/video_{n:07d}.mp4" for n in number]
    of = {
        "clip_id": [f"{video}:0:full" for video in videos],
        "video_id": videos,
        "path": [f"videos/{video}" for video in videos],
        "split": np.where(number % 10 < 8, "train", "test"),
        "start_seconds": np.zeros(num_rows),
        "end_seconds": 2 + number % 5 * 0.5,
        "labels": [[int(n) % NUM_CLASSES] for n in number],
        "target_times": [list(np.linspace(0, 2, FRAMES))] * num_rows,
        "crop": [[0.0, 0.0, 340.0, 256.0]] * num_rows,
        "frame_width": np.full(num_rows, 340, np.int32),
        "frame_height": np.full(num_rows, 256, np.int32),
        "list_index": number.astype(np.int32),
    }
    ClipsTable(pa.table(of, schema=SCHEMA)).write(cache.storage)
    fill(config)
    return config.cache


def reported(cache: str, out: Path) -> tuple[float, float, int, int]:
    """Writes a report about `cache` to `out` in a process of its own. Returns (seconds, CPU seconds, bytes of the page,
    peak bytes of memory).
    """
    begun = time.monotonic()
    command = [sys.executable, "-c", PEAK, "report", cache, "--out", str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    ((cpu, peak),) = re.findall(r"cpu ([\d.]+) peak (\d+)", done.stdout)
    return time.monotonic() - begun, float(cpu), out.stat().st_size, int(peak) * 1024


def measured() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        caches: dict[int, Any] = {size: simulate(Path(folder), size) for size in SIZES}
        seconds: dict[str, list[float]] = {f"{size:,} clips": [] for size in SIZES}
        for _ in range(ROUNDS):
            for size, cache in caches.items():
                taken, cpu, num_bytes, peak = reported(cache, Path(folder) / "report.html")
                seconds[f"{size:,} clips"].append(taken)
                told = f"{size:,} clips: {taken:.1f} s, {cpu:.1f} s of CPU, {num_bytes / 1e6:.2f} MB"
                print(f"{told}, peak {peak / 1e9:.2f} GB")
        yield Case(name="report", unit="reports", amount=1, seconds=seconds)


if __name__ == "__main__":
    report("reporting", measured, arguments(__doc__).parse_args().json)
