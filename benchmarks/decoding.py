"""Compares kinegraph's decoding with PyAV's `frame.to_ndarray(format="rgb24")`, which builds a converter per frame.

Both decode the same frames of the same video, on one thread, in alternation. Prints the frames per second of both and
the ratio.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from benchmarks.results import Case, arguments, report
from kinegraph.pipeline.machine.alternation import Way, alternate
from kinegraph.stages.decode.stream import open_video

RUNS = 7
SHAPE = (64, 240, 320, 3)


def write(path: str) -> None:
    rng = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = SHAPE[1:3]
        stream.pix_fmt = "yuv420p"
        small = rng.integers(0, 255, (SHAPE[0], 15, 20, 3), np.uint8)
        for pixels in small.repeat(16, 1).repeat(16, 2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def ours(path: str) -> int:
    with open_video(path) as video:
        return sum(1 for shown in video.frames() if video.rgb(shown.frame).size)


def plain(path: str) -> int:
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for frame in container.decode(video=0) if frame.to_ndarray(format="rgb24").size)


def measured() -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "video.mp4")
        write(path)
        ways = [
            Way(name="shared converter", run=lambda: ours(path)),
            Way(name="a converter a frame", run=lambda: plain(path)),
        ]
        alternate(ways, 1)  # warms up
        yield Case(name="decoding 320x240 h264", unit="frames", amount=ours(path), seconds=alternate(ways, RUNS))


if __name__ == "__main__":
    report("decoding", measured, arguments(__doc__).parse_args().json)
