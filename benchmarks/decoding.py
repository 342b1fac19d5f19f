"""Our decoding against PyAV's `frame.to_ndarray(format="rgb24")`, which builds a converter per frame.

Same video, same frames, one thread each, in alternation: prints frames/s of both and the ratio.
"""

import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np

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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "video.mp4")
        write(path)
        rates: dict[str, list[float]] = {"ours": [], "plain": []}
        for run in range(RUNS + 1):
            for name, decode in (("ours", ours), ("plain", plain)):
                begun = time.perf_counter()
                frames = decode(path)
                if run:  # the first one warms up
                    rates[name].append(frames / (time.perf_counter() - begun))
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True))
    a, b = (statistics.median(rates[name]) for name in rates)
    print(f"decoding 320x240 h264, shared / per-frame converter: {a:.0f} / {b:.0f} frames/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
