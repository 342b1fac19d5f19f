"""Measures what skipping saves in a long film, on one thread, in alternation. Prints medians and ratios.

The case `intervals` reads late intervals of 4 s. It is compared with a film of only these seconds, and with a pass from
the start. The case `windows` reads windows over the whole film in units: as one worker (the video stays open), and as
several workers (each unit opens the video). It is compared with one pass for all windows.

    python -m benchmarks.seeking [--hours 0.5] [--intervals 50] [--units 20] [--size 320 240] [--key-seconds 10]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.decode.clips import DecodedClip, decode_clips
from kinegraph.stages.decode.open_videos import OpenVideos
from kinegraph.stages.decode.wanted import LATEST_RULES, Square, Wanted

RATE, INTERVAL_SECONDS, FRAMES, NO_LIMIT = 25, 4.0, 32, float("inf")
WANTED = Wanted(num_frames=FRAMES, squares=frozenset([Square(size=224, every=1)]))


def write(path: Path, seconds: float, size: tuple[int, int], key_seconds: float) -> Path:
    """Writes a video of `seconds` seconds of moving noise to `path` and returns the path. `size` is (width, height) in
    px. A key frame comes every `key_seconds` seconds.

    Blocks of 16 px move by one pixel per frame.
    """
    blocks = np.random.default_rng(0).integers(0, 255, (size[1] // 16 + 1, size[0] // 16 + 1, 3), np.uint8)
    picture = blocks.repeat(16, 0).repeat(16, 1)[: size[1], : size[0]]
    options = {"preset": "ultrafast", "g": str(round(key_seconds * RATE)), "bf": "2"}
    with av.open(str(path), "w") as film:
        stream: Any = film.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(round(seconds * RATE)):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, index, 1), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return path


def rows(path: Path, starts: list[float], size: tuple[int, int]) -> list[ClipRow]:
    """Returns one ClipRow of the video `path` for each start in `starts`: a clip of 32 frames over 4 s. `size` is
    (width, height) of the video in px.
    """
    return [
        ClipRow(
            clip_id=f"film:{number}:full",
            video_id="film",
            path=str(path),
            split="",
            start_seconds=start,
            end_seconds=start + INTERVAL_SECONDS,
            labels=(),
            target_times=tuple(start + INTERVAL_SECONDS * (n + 0.5) / FRAMES for n in range(FRAMES)),
            crop=(0.0, 0.0, float(size[0]), float(size[1])),
            frame_width=size[0],
            frame_height=size[1],
        )
        for number, start in enumerate(starts)
    ]


def decoded(units: list[list[ClipRow]], lenders: Callable[[], OpenVideos | None]) -> None:
    for unit in units:
        lender = lenders()
        for clip in decode_clips(unit[0].path, unit, WANTED, NO_LIMIT, LATEST_RULES, lender):
            assert isinstance(clip, DecodedClip), clip


def compared(name: str, ways: dict[str, Callable[[], None]], runs: int) -> None:
    """Runs all `ways` by turns, `runs` times, and prints their times after the text `name`. Ratios are to the first
    way.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, run in ways.items():
            begun = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - begun)
    first = next(iter(seconds))
    for way, took in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(took, seconds[first], strict=True))
        print(f"{name}: {way}: {statistics.median(took):.2f} s, {ratio:.2f} x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=0.5)
    parser.add_argument("--intervals", type=int, default=50)
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 240), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--key-seconds", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    size = (options.size[0], options.size[1])
    length = options.hours * 3600
    with tempfile.TemporaryDirectory() as folder:
        film = write(Path(folder) / "film.mp4", length, size, options.key_seconds)
        alone = write(Path(folder) / "alone.mp4", options.intervals * INTERVAL_SECONDS, size, options.key_seconds)
        starts = np.sort(np.random.default_rng(1).uniform(length / 10, length - 5, options.intervals))
        late = [rows(film, [float(start) for start in starts], size)]
        packed = [rows(alone, [INTERVAL_SECONDS * n for n in range(options.intervals)], size)]
        compared(
            f"{options.intervals} intervals of {length:.0f} s",
            {
                "a film of just those": lambda: decoded(packed, lambda: None),
                "skipping": lambda: decoded(late, OpenVideos),
                "from the start": lambda: decoded(late, lambda: None),
            },
            options.runs,
        )
        windows = rows(film, [INTERVAL_SECONDS * n for n in range(int(length / INTERVAL_SECONDS))], size)
        per_unit = -(-len(windows) // options.units)
        units = [windows[n : n + per_unit] for n in range(0, len(windows), per_unit)]
        one_worker = OpenVideos(2)
        compared(
            f"windows over {length:.0f} s in {len(units)} units",
            {
                "one pass": lambda: decoded([windows], lambda: None),
                "one worker": lambda: decoded(units, lambda: one_worker),
                "a worker a unit": lambda: decoded(units, OpenVideos),
            },
            options.runs,
        )
        one_worker.close()


if __name__ == "__main__":
    main()
