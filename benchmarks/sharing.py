"""Measures two runs at once on one cache with many tiny units: the share of the units that both runs computed.

    python sharing.py [UNITS] [RUNS]   (200 units, 2 runs)

The cache is first in a folder, then on an S3 server of this machine, if moto is installed. A unit is one clip of a
small video, with the features of a tiny network. Torch is loaded before the runs begin together. Also prints how many
units each run computed, and the seconds of all.
"""

import functools
import importlib.util
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import av
import numpy as np

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract

LOOPBACK = "127.0.0.1"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


def videos(folder: Path, number: int) -> Path:
    """Makes `number` links to one video of one second in `folder` and returns the folder."""
    first = folder / "0000.mp4"
    folder.mkdir()
    with av.open(str(first), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 64
        for level in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 30 * level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for other in range(1, number):
        (folder / f"{other:04d}.mp4").hardlink_to(first)
    return folder


def document(cache: str, root: Path) -> dict[str, Any]:
    tiny = {"model": "tiny_i3d", "weights": "random:0", "taps": ["res4"], "size": 64, "store": ["pooled"]}
    return {
        "cache": cache,
        "dataset": {"kind": "folder", "root": str(root)},
        "clips": {"num_frames": 8},
        "backbones": {"tiny": tiny | {"precision": "fp32"}},
        "store": {"shard_clips": 1},
        "run": {"executor": "local", "threads": 1},
    }


def run(config: dict[str, Any], together: Barrier, done: Any) -> None:
    """Runs an extraction with the config `config`, in a process of its own, when all runs have reached the barrier
    `together`. Puts into `done` how many clips went through its network. A clip is a unit.
    """
    import kinegraph.pipeline.extraction.executors.local  # noqa: F401  (torch)

    together.wait()
    done.put(extract(check_config(config, "sharing")).clips_run)


def measure(name: str, config: dict[str, Any], runs: int) -> None:
    checked = check_config(config, "sharing")
    index(checked)
    context = multiprocessing.get_context("spawn")
    together, done = context.Barrier(runs + 1), context.Queue()
    processes = [context.Process(target=run, args=(config, together, done)) for _ in range(runs)]
    for process in processes:
        process.start()
    together.wait()
    begun = time.perf_counter()
    units = sorted(done.get() for _ in processes)
    seconds = time.perf_counter() - begun
    for process in processes:
        process.join()
    cache = Cache(checked.cache)
    assert len(cache.ledger.shards("features/tiny")) == cache.num_shards, "not all is sealed"
    twice = sum(units) - cache.num_shards
    print(
        f"{name}: {cache.num_shards} units in {seconds:.0f} s by {runs} runs ({' + '.join(map(str, units))}), "
        f"{twice} done twice ({twice / cache.num_shards:.1%})",
        flush=True,
    )


@contextmanager
def s3_server() -> Iterator[str]:
    """Starts moto's S3 server and yields the URL of a bucket. Processes that this process starts can use the URL,
    too.
    """
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    os.environ |= ENVIRONMENT | {"FSSPEC_S3_ENDPOINT_URL": f"http://{LOOPBACK}:{port}"}
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(300):
                with suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
                    break
                time.sleep(0.1)
            import fsspec  # which reads its variables now

            fsspec.filesystem("s3", endpoint_url=f"http://{LOOPBACK}:{port}").mkdir("sharing")
            yield "s3://sharing/cache"
        finally:
            process.kill()


def main() -> None:
    units, runs = (int(given) for given in (*sys.argv[1:3], *("200", "2")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # beside the code: /tmp is often memory
        described = functools.partial(document, root=videos(Path(folder, "videos"), units))
        measure("folder", described(f"{folder}/cache"), runs)
        if importlib.util.find_spec("moto") and importlib.util.find_spec("s3fs"):
            with s3_server() as url:
                measure("S3", described(url), runs)


if __name__ == "__main__":
    main()
