"""Plan and status of a cache of 1,000,000 rows, simulated: seconds and peak memory of each command.

No data: clips.parquet, the stages' files and a ledger record per shard and key, in a temporary folder. Ten clips per
video, all sealed but the last shard. Made in a process of its own: the peak of a child counts its parent's memory.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from cache_schemas.cache import CLASSES, Cache
from cache_schemas.clips_table import SCHEMA, ClipsTable
from cache_schemas.ledger import Record, SealedObject, Source, encoded
from cache_schemas.storage import open_storage
from pipeline.config import check_config
from pipeline.declare import clips_options, declare

ROWS, SHARD_CLIPS, CLIPS_PER_VIDEO, FRAMES = 1_000_000, 64, 10, 32
DIGEST = "0123456789abcdef" * 2
DOCUMENT = {
    "dataset": {"kind": "folder", "root": "videos"},
    "clips": {"num_frames": FRAMES, "per_video": CLIPS_PER_VIDEO},
    "backbones": {"i3d": {"model": "i3d_r50", "weights": "random:0", "taps": ["res5"], "store": ["pooled"]}},
    "proposals": {"source": "tiny", "weights": "shipped", "every": 2, "top": 50},
    "regions": {"backbones": ["i3d"]},
    "store": {"shard_clips": SHARD_CLIPS},
}


def clips_table() -> ClipsTable:
    number = np.arange(ROWS)
    videos = pa.array([f"class_{n % 100}/video_{n:07d}.mp4" for n in range(ROWS // CLIPS_PER_VIDEO)])
    video = videos.take(pa.array(number // CLIPS_PER_VIDEO))
    of = {
        "clip_id": pa.array([f"{name}:{n % CLIPS_PER_VIDEO}:center" for n, name in enumerate(video.to_pylist())]),
        "video_id": video,
        "path": pa.array([f"videos/{name}" for name in video.to_pylist()]),
        "split": pa.repeat("train", ROWS),
        "start_seconds": pa.array(number % 10 * 1.0),
        "end_seconds": pa.array(number % 10 * 1.0 + 5),
        "labels": pa.ListArray.from_arrays(np.arange(ROWS + 1, dtype=np.int32), pa.array(number % 100, pa.int32())),
        "target_times": pa.ListArray.from_arrays(
            np.arange(ROWS + 1, dtype=np.int32) * FRAMES, np.random.default_rng(0).random(ROWS * FRAMES)
        ),
        "crop": pa.FixedSizeListArray.from_arrays(np.tile([0.0, 0.0, 256.0, 256.0], ROWS), 4),
        "frame_width": pa.repeat(340, ROWS).cast(pa.int32()),
        "frame_height": pa.repeat(256, ROWS).cast(pa.int32()),
    }
    return ClipsTable(pa.table(of, schema=SCHEMA))


def simulate(document: dict[str, Any]) -> None:
    """A cache whose ledger says that all shards but the last are done."""
    config = check_config(document, "benchmark")
    cache = Cache.create(config.cache, clips_options(config.clips), SHARD_CLIPS)
    storage = open_storage(config.cache)
    storage.put(CLASSES, [json.dumps([f"class_{n}" for n in range(100)]).encode()])
    clips_table().write(storage)
    stages = declare(config, {"features/i3d": DIGEST, "proposals": DIGEST}).stages
    videos = cache.clips.table.column("video_id").to_pylist()
    for stage in stages.values():
        cache.declare(stage)
        folder = Path(config.cache, cache.ledger.name(stage.key, 0)).parent
        folder.mkdir(parents=True)
        for shard in range(cache.num_shards - 1):
            record = _record(
                stage.key, stage.fingerprint, shard, videos[shard * SHARD_CLIPS : (shard + 1) * SHARD_CLIPS]
            )
            (folder / f"{shard:06d}.json").write_bytes(encoded(record))  # unsynced: 62,000 fsyncs take long
    print(f"{ROWS:,} rows, {cache.num_shards:,} shards, {4 * (cache.num_shards - 1):,} ledger records", flush=True)


def _record(key: str, fingerprint: str, shard: int, videos: list[str]) -> Record:
    source = Source(size=1_234_567, mtime_ns=1_700_000_000_000_000_000, digest=DIGEST)
    entry = SealedObject(size=1_000_000, xxh3_128=DIGEST)
    return Record(
        key=key,
        shard=shard,
        num_rows=len(videos),
        fingerprint=fingerprint,
        objects={f"data.zarr/{key}/{name}/c.{shard}.0.0": entry for name in ("a", "b", "c")},
        sources=dict.fromkeys(videos, source),
        versions=dict.fromkeys(("torch", "torchvision", "av", "ffmpeg", "kinegraph", "numpy"), "1.2.3"),
        seconds={"waiting for decode": 1.0, "network": 2.0},
        host="host",
        sealed_at=f"2026-01-{1 + shard // 1000:02d}T00:{shard // 60 % 60:02d}:{shard % 60:02d}.000+00:00",
    )


def measure(command: list[str]) -> None:
    begun = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "cli", *command, "--json"], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        found = json.loads(running.stdout.read())
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0
    assert {stage.get("shards", stage)["missing"] for stage in found["stages"].values()} == {1}, (
        "one shard is left in every stage"
    )
    print(f"{command[0]}: {time.perf_counter() - begun:.1f} s, peak {used.ru_maxrss / 1e6:.2f} GB")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        document = DOCUMENT | {"cache": f"{folder}/cache"}
        path = Path(folder, "config.yaml")
        path.write_text(yaml.safe_dump(document))
        making = multiprocessing.get_context("spawn").Process(target=simulate, args=(document,))
        making.start()
        making.join()
        measure(["plan", str(path)])
        measure(["status", str(document["cache"])])


if __name__ == "__main__":
    main()
