"""Measures the start-up of commands. Prints how many start-ups there are in a second, and ratios.

`kinegraph --help` imports no torch. `train` and `evaluate` import torch, but not torchvision unless a head needs it.
Both are compared with an interpreter that only imports torch.

A small extraction should not take longer in start-up than in work. The work is the time in which the computing thread
has shards, as the ledger states it. The remaining time of the command is start-up, from the start of Python on.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.results import Case, arguments, report
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.machine.alternation import Way, alternate
from kinegraph.stages.clock import of_computing
from kinegraph.stages.generated.generating import encode

RUNS = 7
IMPORTS = "import kinegraph.pipeline.training.table"
PAIRS = {  # name -> options of Python that start ours, and the imports that ours is compared with
    "kinegraph --help": (["-m", "kinegraph", "--help"], "import torch"),
    "imports of train": (["-c", IMPORTS], "import torch, torchvision"),
}
CLIPS, FRAMES, EXTRACTIONS = 12, 32, 3
CONFIG = """
cache: {root}/cache{number}
dataset: {{kind: folder, root: {root}/videos}}
clips: {{num_frames: {frames}, sampling: uniform, crops: [center]}}
backbones: {{r50: {{model: resnet50, weights: {root}/r50.pth, taps: [res5], every: 2, precision: fp32}}}}
run: {{device: cpu, batch_size: 2}}
"""


def start(*options: str) -> None:
    subprocess.run([sys.executable, *options], check=True, capture_output=True)


def fill(root: Path) -> None:
    """Writes videos of random blocks, and a file with weights of a ResNet-50, to `root`."""
    start("-c", f"import torch, torchvision; torch.save(torchvision.models.resnet50().state_dict(), '{root}/r50.pth')")
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, 15, 20, 3), np.uint8)
    for number in range(CLIPS):
        video = root / "videos" / f"class_{number % 2}" / f"{number}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        video.write_bytes(encode(np.roll(frames, number, 0).repeat(16, 1).repeat(16, 2), 25))


def extracted(root: Path, number: int) -> tuple[float, float]:
    """Extracts 12 clips into a new cache below `root`, with `number` in its name. Returns (seconds of start-up, seconds
    of work).
    """
    file = root / f"config{number}.yaml"
    file.write_text(CONFIG.format(root=root, number=number, frames=FRAMES))
    cache = index(load_config(file)).cache
    begun = time.perf_counter()
    start("-m", "kinegraph", "extract", str(file))
    whole = time.perf_counter() - begun
    (record,) = cache.ledger.records("features/r50")
    work = sum(of_computing(record.seconds).values())
    return whole - work, work


def measured() -> Iterator[Case]:
    start("-c", "import torch, torchvision")  # warms the page cache
    for name, (ours, other) in PAIRS.items():
        ways = [Way(name=name, run=partial(start, *ours)), Way(name=other, run=partial(start, "-c", other))]
        yield Case(name="start", unit="starts", amount=1, seconds=alternate(ways, RUNS))
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        pairs = [extracted(Path(folder), number) for number in range(EXTRACTIONS)]
    seconds = {"start-up": [start_up for start_up, _ in pairs], "work": [work for _, work in pairs]}
    about = f"{CLIPS} clips of {FRAMES} frames, resnet50 on half of them"
    yield Case(name=f"extract of {CLIPS} clips", unit="runs", amount=1, seconds=seconds, about=about)


if __name__ == "__main__":
    report("startup", measured, arguments(__doc__).parse_args().json)
