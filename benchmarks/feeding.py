"""Measures how many cores must decode and resize to feed a GPU: `python -m benchmarks.feeding --clips-per-second 20`.

Generates H.264 videos of 480, 720 and 1080 lines. Decodes their clips as an extraction does, on one thread, with Pillow
and with libswscale (`resize: swscale`), in alternation. Seconds are CPU seconds of the thread, so other programs hardly
change them. For a network that takes `--clips-per-second` clips a second, the number of cores is this number divided by
the clips that one core decodes and resizes in a second.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from benchmarks.results import Case, arguments, report
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.crops import Resize, crop_rectangle
from kinegraph.pipeline.machine.alternation import Spread, Way, alternate
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.wanted import Square, Wanted

SIZES = ((854, 480), (1280, 720), (1920, 1080))
RATE, CLIPS, ROUNDS = 25, 2, 5
WAYS: tuple[Resize, ...] = ("swscale", "pillow")


def write(path: str, width: int, height: int, num_frames: int) -> None:
    """Writes a video of `num_frames` frames of `width` x `height` px to `path`. A camera pans over a picture with large
    and small things, with the noise of a sensor.
    """
    rng = np.random.default_rng(0)
    picture = np.zeros((height, 2 * width, 3))
    for step in (4, 16, 64, 256):
        coarse = rng.integers(0, 256, (height // step + 2, 2 * width // step + 2, 3), np.uint8)
        picture += np.asarray(Image.fromarray(coarse).resize((2 * width, height), Image.Resampling.BICUBIC)) / 4
    noise = rng.normal(0, 3, (height, width, 3))
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "fast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            x = round(number * width / num_frames)
            seen = picture[:, x : x + width] + np.roll(noise, 37 * number, (0, 1))
            pixels: np.ndarray = seen.clip(0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def rows_of(path: str, width: int, height: int, options: argparse.Namespace) -> list[ClipRow]:
    seconds = options.frames * options.step / RATE
    return [
        ClipRow(
            clip_id=f"v:{clip}:center", video_id="v", path=path, split="", start_seconds=clip * seconds,
            end_seconds=(clip + 1) * seconds, labels=(), frame_width=width, frame_height=height,
            target_times=tuple(clip * seconds + n * options.step / RATE for n in range(options.frames)),
            crop=crop_rectangle("center", width, height),
        )
        for clip in range(CLIPS)
    ]  # fmt: skip


def decode(rows: list[ClipRow], how: Resize, frames: int) -> None:
    square = Square(size=224, resize_short=256, resize=how, every=1)
    clips = decode_clips(rows[0].path, rows, Wanted(num_frames=frames, squares=frozenset({square})), math.inf)
    assert all(isinstance(clip, DecodedClip) for clip in clips), clips


def measured(options: argparse.Namespace) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        for width, height in SIZES:
            path = str(Path(folder) / f"{height}.mp4")
            write(path, width, height, CLIPS * options.frames * options.step)
            rows = rows_of(path, width, height, options)
            ways = [Way(name=how, run=partial(decode, rows, how, options.frames)) for how in WAYS]
            alternate(ways, 1)  # warms up
            seconds = alternate(ways, ROUNDS, clock=time.thread_time)
            megabits = Path(path).stat().st_size * 8 / 1e6 / (CLIPS * options.frames * options.step / RATE)
            amount = float(CLIPS * options.frames)
            about = f"{width}x{height}, {megabits:.1f} Mbit/s, every {options.step}. frame wanted"
            yield Case(name=f"{height} lines", unit="wanted frames", amount=amount, seconds=seconds, about=about)
            print(f"  {about}")
            for how in WAYS:
                a_second = CLIPS / Spread.of(seconds[how]).median
                cores = options.clips_per_second / a_second
                print(
                    f"  {how}: one core decodes and resizes {a_second * options.frames:.0f} wanted frames a second, "
                    f"{a_second:.2f} clips. {options.clips_per_second:g} clips a second need {cores:.1f} cores"
                )


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--clips-per-second", type=float, default=20.0, help="speed of the network")
    parser.add_argument("--frames", type=int, default=32, help="frames of a clip")
    parser.add_argument("--step", type=int, default=2, help="every which frame of the video is wanted")
    options = parser.parse_args()
    report("feeding", partial(measured, options), options.json)
