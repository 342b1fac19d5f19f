"""Compares reading numbered images ahead by a few threads with reading one after another.

Both alternate. Prints the images per second of both and the ratio. A pause before each file, on any thread, imitates a
slow disk.

    python -m benchmarks.images [--images 300] [--size 340 256] [--pause-ms 0 5]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

import numpy as np
from PIL import Image

from kinegraph.cache_schemas.regular import open_regular
from kinegraph.stages.decode import numbered_images
from kinegraph.stages.decode.numbered_images import open_images

RATE, RUNS = 12.0, 5


def write(folder: Path, count: int, size: tuple[int, int]) -> None:
    blocks = np.random.default_rng(0).integers(0, 255, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    picture = blocks.repeat(8, 0).repeat(8, 1)[: size[1], : size[0]]
    for number in range(1, count + 1):
        Image.fromarray(np.roll(picture, number, 1)).save(folder / f"{number:05d}.jpg", quality=90)


def seconds(folder: Path, count: int, *, ahead: bool) -> float:
    begun = time.perf_counter()
    with open_images(str(folder), RATE) as video:
        if ahead:
            video.read_ahead(range(count))
        for place in range(count):
            video.rgb(place)
    return time.perf_counter() - begun


def slow_disk(pause_seconds: float) -> None:
    def opened(path: str) -> BinaryIO:
        time.sleep(pause_seconds)
        return open_regular(path)

    patch.object(numbered_images, "open_regular", opened).start()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--size", type=int, nargs=2, default=(340, 256), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--pause-ms", type=float, nargs="+", default=(0.0, 5.0))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), options.images
        write(folder, count, (options.size[0], options.size[1]))
        for pause_ms in options.pause_ms:
            slow_disk(pause_ms / 1000)
            took: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(RUNS):
                for ahead in took:
                    took[ahead].append(seconds(folder, count, ahead=ahead))
            ratio = statistics.median(one / pool for one, pool in zip(took[False], took[True], strict=True))
            alone, pooled = (count / statistics.median(took[ahead]) for ahead in (False, True))
            print(f"a pause of {pause_ms:g} ms: {alone:.0f} / {pooled:.0f} images/s, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
