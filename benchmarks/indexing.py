"""`kinegraph index` of many videos: milliseconds of CPU per video, read and from kept headers.

Usage: python benchmarks/indexing.py [NUM_VIDEOS]

The videos are links to ten H.264 files of 2 to 20 s, 240 to 480 px high, in a temporary folder. There are 5,000 links
by default, and 100,000 are a large data set. `again` indexes a second time: all headers are kept, so no video is
opened. With clips by number, frames are counted. H.264 needs no decoding for that, and MPEG-4 part 2 does.
"""

import os
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from kinegraph.pipeline.caches import kept_probes
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config

NUM_VIDEOS = 5000
HEIGHTS = (240, 256, 320, 360, 480)
GOPS = (12, 250)  # frames from one key frame to the next
CLIPS = {
    "clips in seconds": {"num_frames": 32, "fps": 6},
    "clips by number": {"num_frames": 8, "sampling": "uniform", "fps": "native"},
}


def write(path: Path, height: int, seconds: int, gop: int) -> None:
    """Writes a video of `seconds` s with 30 frames a second and moving stripes."""
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
    """Makes `num_videos` links to ten files, in ten folders of classes."""
    files = [
        (folder / f"{height}_{gop}.mp4", height, 2 + 2 * place, gop)
        for place, (height, gop) in enumerate((height, gop) for gop in GOPS for height in HEIGHTS)
    ]
    for path, height, seconds, gop in files:
        write(path, height, seconds, gop)
    for number in range(num_videos):
        below = folder / "videos" / f"class_{number % 10}"
        below.mkdir(parents=True, exist_ok=True)
        os.link(files[number * 7 % len(files)][0], below / f"{number:06d}.mp4")


def main() -> None:
    num_videos = int(sys.argv[1]) if len(sys.argv) > 1 else NUM_VIDEOS
    kept_probes.EVERY_SECONDS = 1.0
    with tempfile.TemporaryDirectory() as temporary:
        link(Path(temporary), num_videos)
        print(f"{'':44}{'CPU ms a video':>16}{'wall ms a video':>16}")
        for name, clips in CLIPS.items():
            for words in ("read", "again, from kept headers"):
                dataset = {"kind": "folder", "root": f"{temporary}/videos"}
                document = {"cache": f"{temporary}/{name}", "dataset": dataset, "clips": clips}
                cpu, wall = time.process_time(), time.perf_counter()
                index(check_config(document, "benchmark"))
                spent = time.process_time() - cpu, time.perf_counter() - wall
                cells = "".join(f"{1000 * seconds / num_videos:>16.2f}" for seconds in spent)
                print(f"{name}, {words}"[:44].ljust(44) + cells, flush=True)


if __name__ == "__main__":
    main()
