"""Compares windows of a 2D network that share frames with windows as whole clips.

    python -m benchmarks.shared_frames [MODEL] [RUNS]   (resnet18 3)

Each shared frame goes through the network once. One video of generated frames has windows of 16 frames every 4 frames,
in batches of 8 windows. Both ways read the same pixels in alternation. Prints the CPU seconds of both, their ratio, and
the largest difference of a feature, relative to its standard deviation.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.backbones.options import BackboneOptions
from kinegraph.stages.backbones.sharing import SharedFrames
from kinegraph.stages.decode.wanted import Square

FRAMES, HOP, BATCH, WINDOWS, SIZE = 16, 4, 8, 64, 112
SQUARE = Square(size=SIZE, resize_short=None, resize="torch", every=1)
FIRST = ClipRow(
    clip_id="v:0:center", video_id="v", path="v", split="", start_seconds=0.0, end_seconds=0.0, labels=(),
    target_times=(), crop=(0, 0, SIZE, SIZE), frame_width=SIZE, frame_height=SIZE,
)  # fmt: skip


@dataclass(frozen=True)
class PixelsOfWindows:
    """A batch of windows. It has the parts of a StageBatch (stages/stage.py) that `SharedFrames` reads."""

    shard_rows: Sequence[ClipRow]
    offset: int
    video: np.ndarray

    @property
    def rows(self) -> Sequence[ClipRow]:
        return self.shard_rows[self.offset : self.offset + BATCH]

    @property
    def slots(self) -> list[int]:
        return [*range(BATCH)]

    def pixels(self, square: Square) -> np.ndarray:
        starts = HOP * np.arange(self.offset, self.offset + BATCH)
        return np.stack([self.video[start : start + FRAMES] for start in starts])

    def upload(self, values: np.ndarray | Tensor) -> Tensor:
        return torch.as_tensor(values)


def batches(video: np.ndarray) -> Iterator[PixelsOfWindows]:
    times = [tuple(float(HOP * window + frame) for frame in range(FRAMES)) for window in range(WINDOWS)]
    rows = [replace(FIRST, target_times=of_window) for of_window in times]
    yield from (PixelsOfWindows(rows, offset, video) for offset in range(0, WINDOWS, BATCH))


def timed(way: Callable[[PixelsOfWindows], dict[str, Tensor]], video: np.ndarray) -> tuple[float, Tensor]:
    begun = time.process_time()
    maps = [way(batch)["res5"].mean((3, 4)) for batch in batches(video)]
    return time.process_time() - begun, torch.cat(maps)


def main() -> None:
    model, runs = [*sys.argv[1:], *["resnet18", "3"][len(sys.argv) - 1 :]][:2]
    options = BackboneOptions(model=model, weights="random:0", taps=("res5",), precision="fp32")
    extractor = FeatureExtractor(options, torch.device("cpu"))
    shape = (HOP * (WINDOWS - 1) + FRAMES, SIZE, SIZE, 3)
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    shared = SharedFrames(extractor.maps, SQUARE, HOP)
    seconds: dict[str, list[float]] = {"shared": [], "whole clips": []}
    for run in range(int(runs) + 1):
        of_shared, once = timed(shared.of, video)  # type: ignore[arg-type]
        of_whole, plain = timed(lambda batch: extractor.maps(batch.upload(batch.pixels(SQUARE))), video)
        if run:  # the first run warms up
            seconds["shared"].append(of_shared)
            seconds["whole clips"].append(of_whole)
    ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    error = float((once - plain).abs().max() / plain.std())
    each = ", ".join(f"{way} {statistics.median(values):.1f}" for way, values in seconds.items())
    print(f"{model}, {WINDOWS} windows of {FRAMES} frames every {HOP}, {SIZE} px: CPU seconds {each}")
    print(f"ratio {ratio:.2f} of {FRAMES / HOP:.0f}, largest difference {error:.1e} standard deviations")


if __name__ == "__main__":
    main()
