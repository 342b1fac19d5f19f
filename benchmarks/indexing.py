"""Measures `kinegraph index` of many videos: milliseconds of CPU and bytes of memory per video.

    python benchmarks/indexing.py [NUM_VIDEOS] [seconds | number] [kept]

The videos are links to ten H.264 files of 2 to 20 s, 240 to 480 px high, in a temporary folder. There are 5,000 links
by default. 100,000 links are a large data set. The run `again` indexes a second time. All headers and rows are there,
so no video is opened. For clips by number, frames are counted. H.264 needs no decoding for that, and MPEG-4 part 2
does. `seconds` or `number` measures only these clips. With `kept`, the script itself writes the headers that an
interrupted `index` would have kept, so that a million videos take minutes. Each `index` runs in a process of its own.
Its memory is its peak, less what it had before the call.
"""

import functools
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np

from kinegraph.pipeline.caches import kept_probes
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config

NUM_VIDEOS = 5000
HEIGHTS = (240, 256, 320, 360, 480)
GOPS = (12, 250)  # frames from one key frame to the next
MAX_LINKS = 60_000  # to one file; ext4 allows 65,000
CLIPS = {
    "clips in seconds": {"num_frames": 32, "fps": 6},
    "clips by number": {"num_frames": 8, "sampling": "uniform", "fps": "native"},
}


def write(path: Path, height: int, seconds: int, gop: int) -> None:
    """Writes a video to `path`: `seconds` s of moving stripes, `height` px high, with 30 frames a second and a key
    frame every `gop` frames.
    """
    width = height * 4 // 3 // 2 * 2
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=Fraction(30), options={"g": str(gop), "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(30 * seconds):
            image = np.zeros((height, width, 3), np.uint8)
            image[:, number % width :: 16] = 200
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())


def link(folder: Path, num_videos: int) -> None:
    """Makes `num_videos` links to ten files, in ten folders of classes below `folder`."""
    files = [
        (folder / "files" / f"{height}_{gop}.mp4", height, 2 + 2 * place, gop)
        for place, (height, gop) in enumerate((height, gop) for gop in GOPS for height in HEIGHTS)
    ]
    (folder / "files").mkdir()
    for path, height, seconds, gop in files:
        write(path, height, seconds, gop)
    for label in range(10):
        (folder / "videos" / f"class_{label}").mkdir(parents=True)
    for number in range(num_videos):
        source = copy_of(files[number * 7 % len(files)][0], number // (MAX_LINKS * len(files)))
        os.link(source, f"{folder}/videos/class_{number % 10}/{number:07d}.mp4")


@functools.cache
def copy_of(path: Path, copy: int) -> Path:
    """Returns the path of copy number `copy` of the file `path`, because a file system allows only a limited number of
    links to one file.
    """
    return path if copy == 0 else Path(shutil.copy2(path, path.parents[1] / f"{copy}_{path.name}"))


def keep_headers(document: dict[str, Any], root: Path) -> None:
    """Writes the headers of all videos below `root` into the cache of the config `document`, as an interrupted `index`
    keeps them. Reads only the ten files to which the videos are links.
    """
    few = document | {"cache": f"{document['cache']}, few", "dataset": {"kind": "folder", "root": str(root / "files")}}
    with mock.patch.object(kept_probes, "EVERY_SECONDS", 0.0):
        index(check_config(few, "benchmark"))
    parts = Path(few["cache"], kept_probes.FOLDER).iterdir()
    read = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    line_of = {header["size"]: header for header in read}
    (kept := Path(document["cache"], kept_probes.FOLDER)).mkdir(parents=True)
    with (kept / "all.jsonl").open("w") as file:
        for path in sorted((root / "videos").rglob("*.mp4")):
            file.write(json.dumps(line_of[path.stat().st_size] | {"path": str(path)}) + "\n")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measured(document: dict[str, Any]) -> tuple[float, float, int]:
    """Runs `index` with the config `document`. Returns (CPU seconds, wall seconds, bytes of memory). The memory is the
    peak of this process, less its memory before the call.
    """
    config = check_config(document, "benchmark")
    kept_probes.EVERY_SECONDS = 1.0
    cpu, wall, before = time.process_time(), time.perf_counter(), resident_bytes()
    index(config)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return time.process_time() - cpu, time.perf_counter() - wall, peak - before


def main() -> None:
    num_videos = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_VIDEOS
    chosen = {name: clips for name, clips in CLIPS.items() if name.endswith(tuple(sys.argv[2:3]) or ("",))}
    with tempfile.TemporaryDirectory() as temporary:
        link(Path(temporary), num_videos)
        print(f"{'':44}{'CPU ms a video':>16}{'wall ms a video':>16}{'bytes a video':>16}", flush=True)
        for name, clips in chosen.items():
            first = "from kept headers" if "kept" in sys.argv else "read"
            for words in (first, "again"):
                dataset = {"kind": "folder", "root": f"{temporary}/videos"}
                document = {"cache": f"{temporary}/{name}", "dataset": dataset, "clips": clips}
                if words == "from kept headers":
                    keep_headers(document, Path(temporary))
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    cpu, wall, memory = pool.apply(measured, (document,))
                cells = f"{1000 * cpu / num_videos:>16.2f}{1000 * wall / num_videos:>16.2f}"
                print(f"{name}, {words}".ljust(44) + f"{cells}{memory / num_videos:>16,.0f}", flush=True)


if __name__ == "__main__":
    main()
