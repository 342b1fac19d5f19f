"""Measures `kinegraph browse` on a simulated cache: seconds until the address is printed, and seconds of each page.

    python -m benchmarks.browsing [--clips N]   (100,000 clips)

The cache has rows, documents and ledger records of four stages and no arrays. One video in fifty has failed. The videos
do not exist, so no frame is decoded. The server runs in a process of its own, whose peak memory is printed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from benchmarks.results import arguments
from kinegraph.cache_schemas.arrays import clip_arrays, feature_arrays, proposal_arrays, region_arrays
from kinegraph.cache_schemas.cache import CLASSES, Cache
from kinegraph.cache_schemas.clips_columns import SCHEMA
from kinegraph.cache_schemas.clips_table import ClipsTable
from kinegraph.cache_schemas.ledger import Failure, Record, SealedObject, Source, encoded
from kinegraph.cache_schemas.stage import Stage
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.stages.clips.options import ClipOptions
from kinegraph.stages.clips.stage import clips_options

CLIPS, SHARD, FRAMES, NUM_CLASSES, FAILED_EACH, REPEATS = 100_000, 64, 32, 174, 50, 5
DIGEST = "0123456789abcdef" * 2
PAGES = {
    "first page": "/",
    "page 1,000": "/?page=1000",
    "class": "/?class=class+17",
    "name": "/?name=_0012",
    "failed": "/?status=failed&reason=unreadable",
    "failures": "/failures",
    "clip": "/clips/77777",
    "failed clip": "/clips/77750",
}
STAGES = (
    Stage(key="clips", options={}, arrays=clip_arrays(FRAMES)),
    Stage(
        key="features/net", options={}, arrays=feature_arrays("net", "last", (4, 2048, 0, 0), 8, ("pooled",), "float32")
    ),
    Stage(key="proposals", options={}, arrays=proposal_arrays(16, 50, 2)),
    Stage(key="regions/net", options={}, arrays=region_arrays("net", "last", (16, 50, 2048), 2, "float16")),
)


def simulated(root: Path, num_clips: int) -> Cache:
    """Writes a cache with `num_clips` clips to `root` and returns it. The ledger says that all shards are done, but the
    objects of the shards are missing.
    """
    Cache.create(root, clips_options(ClipOptions()), {"kind": "zarr", "shard_clips": SHARD, "compression": "none"})
    storage = open_storage(root)
    storage.put(CLASSES, [json.dumps([f"class {n}" for n in range(NUM_CLASSES)]).encode()])
    number = np.arange(num_clips)
    names = [f"class_{n % NUM_CLASSES}/video_{n:07d}.mp4" for n in range(num_clips)]
    offsets = np.arange(num_clips + 1, dtype=np.int32)
    columns = {
        "clip_id": pa.array([f"{name}:0:center" for name in names]),
        "video_id": pa.array(names),
        "path": pa.array([f"videos/{name}" for name in names]),
        "split": pa.array(np.array(["train", "val", "test"])[np.minimum(number % 10 // 4, 2)]),
        "start_seconds": pa.array(number * 0.0),
        "end_seconds": pa.array(number * 0.0 + 5),
        "labels": pa.ListArray.from_arrays(offsets, pa.array(number % NUM_CLASSES, pa.int32())),
        "target_times": pa.ListArray.from_arrays(offsets * FRAMES, np.random.default_rng(0).random(num_clips * FRAMES)),
        "crop": pa.FixedSizeListArray.from_arrays(np.tile([0.0, 0.0, 256.0, 256.0], num_clips), 4),
        "frame_width": pa.repeat(340, num_clips).cast(pa.int32()),
        "frame_height": pa.repeat(256, num_clips).cast(pa.int32()),
        "list_index": pa.array(number, pa.int32()),
    }
    ClipsTable(pa.table(columns, schema=SCHEMA)).write(storage)
    cache = Cache(root)
    for stage in STAGES:
        storage.create(cache.stage_name(stage.key), json.dumps(stage.document()).encode())
        Path(root, cache.ledger.name(stage.key, 0)).parent.mkdir(parents=True)
        for shard in range(cache.num_shards):
            rows = cache.shard_rows(shard)
            record = _record(stage, shard, [names[row] for row in rows], rows.start)
            Path(root, cache.ledger.name(stage.key, shard)).write_bytes(encoded(record))  # unsynced
    return cache


def _record(stage: Stage, shard: int, videos: list[str], first: int) -> Record:
    failed = [name for row, name in enumerate(videos, first) if row % FAILED_EACH == 0]
    return Record(
        key=stage.key,
        shard=shard,
        num_rows=len(videos),
        fingerprint=stage.fingerprint,
        objects={f"data.zarr/{spec.name}/c.{shard}": SealedObject(size=1, xxh3_128=DIGEST) for spec in stage.arrays},
        sources={name: Source(size=1_234_567, mtime_ns=1, digest=DIGEST) for name in videos},
        failures=[
            Failure(clip_id=f"{name}:0:center", reason="unreadable", detail="mov: moov atom not found")
            for name in failed
        ],
        versions=dict.fromkeys(("torch", "av", "kinegraph", "numpy"), "1.2.3"),
        seconds={"waiting for decode": 1.0},
        sealed_at="2026-01-01T00:00:00+00:00",
    )


def measured(cache: Cache) -> None:
    """Starts the server on `cache`, requests each page in PAGES and prints the seconds."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "kinegraph", "browse", cache.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        address = urlsplit(server.stdout.readline().strip())
        print(f"ready: {time.perf_counter() - begun:.2f} s, {cpu_seconds(server.pid):.2f} s of CPU", flush=True)
        connection = HTTPConnection("127.0.0.1", address.port or 0, timeout=120)
        connection.request("GET", f"/?{address.query}")
        cookie = _read(connection, 303)[1].partition(";")[0]
        for name, path in PAGES.items():
            seconds = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                connection.request("GET", path, headers={"Cookie": cookie})
                page, _ = _read(connection, 200)
                seconds.append(time.perf_counter() - start)
            clips = re.search(r"[\d,]+ (failed )?clips?\.", page)
            print(f"{name}: first {seconds[0]:.3f} s, then {min(seconds[1:]):.3f} s, {len(page):,} bytes"
                  f"{', ' + clips[0] if clips else ''}", flush=True)  # fmt: skip
        server.send_signal(signal.SIGINT)
        _, status, used = os.wait4(server.pid, 0)
        server.returncode = os.waitstatus_to_exitcode(status)
    assert server.returncode == 130
    print(f"peak memory of the server: {used.ru_maxrss / 1e6:.2f} GB")


def cpu_seconds(pid: int) -> float:
    """Returns the seconds of CPU time that the process `pid` has used so far, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read(connection: HTTPConnection, status: int) -> tuple[str, str]:
    answer = connection.getresponse()
    page = answer.read().decode()
    assert answer.status == status, page
    return page, answer.getheader("Set-Cookie") or ""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=CLIPS)
    num_clips = parser.parse_args().clips
    with tempfile.TemporaryDirectory() as folder:
        cache = simulated(Path(folder, "cache"), num_clips)
        print(f"{num_clips:,} clips, {cache.num_shards:,} shards, {len(STAGES) * cache.num_shards:,} records")
        measured(cache)


if __name__ == "__main__":
    main()
