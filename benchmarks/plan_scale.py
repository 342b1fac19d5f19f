"""Measures plan, status and extract of a simulated cache of 1,000,000 rows: seconds, CPU time and peak memory.

The cache lies in a temporary folder. It has clips.parquet, the documents of the stages, a ledger record per shard and
key, and empty objects (hard links) in place of data. A video has ten clips. All shards except the last are sealed.
`extract` does the last shard, although its videos are gone. A second `extract` finds nothing to do. `status` runs
twice, because it keeps what it has read. The cache is made in a process of its own, because the peak of a child process
includes the memory of its parent.
"""

import functools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from kinegraph.cache_schemas.arrays import status_array
from kinegraph.cache_schemas.cache import CLASSES, Cache
from kinegraph.cache_schemas.clips_columns import SCHEMA
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.ledger import Record, SealedObject, Source, encoded
from kinegraph.cache_schemas.local_storage import SETTLED_SECONDS
from kinegraph.cache_schemas.stage import Stage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cache_schemas.zarr_shards import object_name
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.config import check_config
from kinegraph.stages.clips.stage import clips_options

ROWS, SHARD_CLIPS, CLIPS_PER_VIDEO, FRAMES = 1_000_000, 64, 10, 32
DIGEST, SHARD, SEALED_AT = "0123456789abcdef" * 2, 987_654_321, "2000-01-01T00:00:00+00:00"
DOCUMENT = {
    "dataset": {"kind": "folder", "root": "videos"},
    "clips": {"num_frames": FRAMES, "per_video": CLIPS_PER_VIDEO},
    "backbones": {"tiny": {"model": "tiny_i3d", "weights": "shipped", "taps": ["res4"], "store": ["pooled"]}},
    "proposals": {"source": "tiny", "weights": "shipped", "every": 2, "top": 50},
    "regions": {"backbones": ["tiny"]},
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
        "list_index": pa.array(number // CLIPS_PER_VIDEO, pa.int32()),
    }
    return ClipsTable(pa.table(of, schema=SCHEMA))


def simulate(document: dict[str, Any]) -> None:
    """Writes a cache whose ledger says that all shards except the last are done. `document` is its config."""
    from kinegraph.pipeline.extraction.worker import Worker  # torch would count in the peak of each command

    config = check_config(document, "benchmark")
    cache = Cache.create(config.cache, clips_options(config.clips), config.store.model_dump())
    storage = open_storage(config.cache)
    storage.put(CLASSES, [json.dumps([f"class_{n}" for n in range(100)]).encode()])
    clips_table().write(storage)
    stages = Worker(config, cache, declare(config, {}).stages, report=print).loaded.declared.stages  # begins them all
    videos = cache.clips.column("video_id")
    for stage in stages.values():
        Path(config.cache, cache.ledger.name(stage.key, 0)).parent.mkdir(parents=True)
        for shard in range(cache.num_shards - 1):
            rows = cache.shard_rows(shard)
            write_record(cache, stage, shard, sorted({str(video) for video in videos[rows.start : rows.stop]}))
        link_objects(Path(config.cache), stage, cache.num_shards - 1)
    print(f"{ROWS:,} rows, {cache.num_shards:,} shards, {len(stages) * (cache.num_shards - 1):,} ledger records")


def objects_of(stage: Stage, shard: int) -> list[str]:
    arrays = (*stage.arrays, status_array(stage.key))
    return [object_name(spec.name, shard, len(spec.shape) + 1) for spec in arrays]


def link_objects(root: Path, stage: Stage, num_shards: int) -> None:
    firsts = objects_of(stage, 0)  # a file system allows some 65,000 links to one file
    for name in firsts:
        (root / name).touch()
    for shard in range(1, num_shards):
        for first, name in zip(firsts, objects_of(stage, shard), strict=True):
            os.link(f"{root}/{first}", f"{root}/{name}")


def write_record(cache: Cache, stage: Stage, shard: int, videos: Sequence[str]) -> None:
    """Writes the ledger record of a sealed shard of `stage`, which has the videos `videos`, into `cache`. The record is
    made from a template and written without fsync, because encoding and syncing 62,000 records would take long.
    """
    text = template(stage.key, len(videos), stage=stage.fingerprint, objects=tuple(objects_of(stage, SHARD)))
    for number, video in enumerate(videos):
        text = text.replace(f"video {number}", video)
    minute, second = divmod(shard, 60)
    sealed_at = f"2026-01-{1 + minute // 1440:02d}T{minute // 60 % 24:02d}:{minute % 60:02d}:{second:02d}.000+00:00"
    text = text.replace(SEALED_AT, sealed_at).replace(str(SHARD), str(shard))
    Path(cache.root, cache.ledger.name(stage.key, shard)).write_text(text)


@functools.cache
def template(key: str, num_videos: int, *, stage: str, objects: tuple[str, ...]) -> str:
    """Returns the text of a ledger record with placeholders: `video 0`, `video 1`, ..., SHARD and SEALED_AT.
    `num_videos` is the number of videos of the shard.

    `key` is the stage key, `stage` the fingerprint of the stage, and `objects` the names of the objects of the shard.
    """
    source = Source(size=1_234_567, mtime_ns=1_700_000_000_000_000_000, digest=DIGEST)
    record = Record(
        key=key,
        shard=SHARD,
        num_rows=SHARD_CLIPS,
        fingerprint=stage,
        objects=dict.fromkeys(objects, SealedObject(size=1_000_000, xxh3_128=DIGEST)),
        sources={f"video {number}": source for number in range(num_videos)},
        versions=dict.fromkeys(("torch", "torchvision", "av", "ffmpeg", "kinegraph", "numpy"), "1.2.3"),
        seconds={"waiting for decode": 1.0, "network": 2.0},
        host="host",
        sealed_at=SEALED_AT,
    )
    return encoded(record).decode()


def measure(what: str, arguments: list[str], exit_code: int = 0) -> str:
    """Runs a kinegraph command with these `arguments`. Prints `what`, its seconds and its peak memory. Returns what the
    command printed.

    The command must end with `exit_code`.
    """
    begun = time.perf_counter()
    command = [sys.executable, "-m", "kinegraph", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        said = running.stdout.read()
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == exit_code, said
    cpu = used.ru_utime + used.ru_stime
    seconds = time.perf_counter() - begun
    print(f"{what}: {seconds:.1f} s, CPU {cpu:.1f} s, peak {used.ru_maxrss / 1e6:.2f} GB", flush=True)
    return said


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        document = DOCUMENT | {"cache": f"{folder}/cache"}
        config = f"{folder}/config.yaml"
        Path(config).write_text(yaml.safe_dump(document))
        making = multiprocessing.get_context("spawn").Process(target=simulate, args=(document,))
        making.start()
        making.join()
        planned = json.loads(measure("plan", ["plan", config, "--json"]))
        os.environ["XDG_CACHE_HOME"] = f"{folder}/home"
        time.sleep(SETTLED_SECONDS)  # status keeps nothing of younger records
        known = json.loads(measure("status", ["status", f"{folder}/cache", "--json"]))
        again = json.loads(measure("status, nothing new", ["status", f"{folder}/cache", "--json"]))
        assert again == known
        assert {stage["missing"] for stage in planned["stages"].values()} == {1}
        assert {stage["shards"]["missing"] for stage in known["stages"].values()} == {1}
        said = measure("extract, one shard left", ["extract", config], exit_code=3)  # its videos are not there
        assert f": {ROWS % SHARD_CLIPS or SHARD_CLIPS} clips in" in said
        said = measure("extract, nothing left", ["extract", config], exit_code=3)
        assert "nothing to do" in said


if __name__ == "__main__":
    main()
