"""Measures the start-up of commands. Prints how many start-ups there are in a second, and ratios.

`kinegraph --help` imports no torch. `train` and `evaluate` import torch, but not torchvision unless a head needs it.
Both are compared with an interpreter that only imports torch.

A small extraction should not take longer in start-up than in work. The work is the time in which the computing thread
has shards, as the ledger states it. The remaining time of the command is start-up, from the start of Python on.

Networks load while the first videos are decoded. This is compared with loading first, as a run with a time limit does.
`--videos FOLDER` takes videos from a folder in place of generated ones.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.results import Case, arguments, report
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.machine.alternation import Way, alternate
from kinegraph.stages.clock import FIRST_BATCH, START_UP, of_computing
from kinegraph.stages.generated.generating import encode

RUNS = 7
IMPORTS = "import kinegraph.pipeline.training.table"
PAIRS = {  # name -> options of Python that start ours, and the imports that ours is compared with
    "kinegraph --help": (["-m", "kinegraph", "--help"], "import torch"),
    "imports of train": (["-c", IMPORTS], "import torch, torchvision"),
}
CLIPS, FRAMES, EXTRACTIONS = 12, 32, 3
CLIPS_PER_VIDEO = 1, 4
LOADING = {  # name -> options of the command
    "networks load beside decoding": [],
    "networks load first": ["--set", "run.walltime_seconds=86400"],
}
CONFIG = """
cache: {root}/{name}
dataset: {{kind: folder, root: {videos}}}
clips: {{num_frames: {frames}, sampling: uniform, crops: [center], per_video: {per_video}, short: loop}}
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


def configured(root: Path, videos: Path, name: str, per_video: int = 1) -> tuple[Path, Cache]:
    """Writes a config of a new cache `name` below `root` and indexes `videos`. Returns (path of the config, cache)."""
    file = root / f"{name}.yaml"
    file.write_text(CONFIG.format(root=root, videos=videos, name=name, frames=FRAMES, per_video=per_video))
    return file, index(load_config(file)).cache


def extracted(root: Path, videos: Path, number: int) -> tuple[float, float]:
    """Extracts a clip of each video into a new cache below `root`, with `number` in its name. Returns (seconds of
    start-up, seconds of work).
    """
    file, cache = configured(root, videos, f"cache{number}")
    begun = time.perf_counter()
    start("-m", "kinegraph", "extract", str(file))
    whole = time.perf_counter() - begun
    work = sum(sum(of_computing(record.seconds).values()) for record in cache.ledger.records("features/r50"))
    return whole - work, work


def loading(root: Path, videos: Path, per_video: int) -> Iterator[Case]:
    """Compares extractions whose networks load while the first videos are decoded with extractions whose networks load
    first. Yields a case for whole commands, and a case for the time until the network has its first batch.
    """
    file, indexed = configured(root, videos, f"indexed{per_video}", per_video)
    made = root / "made"
    first_batch: dict[str, list[float]] = {name: [] for name in LOADING}

    def prepare() -> None:
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(indexed.root, made)

    def extract(name: str) -> None:
        start("-m", "kinegraph", "extract", str(file), "--set", f"cache={made}", *LOADING[name])
        (record,) = Cache(str(made)).ledger.records("features/r50")
        first_batch[name].append(record.seconds[START_UP] + record.seconds.get(FIRST_BATCH, 0.0))

    ways = [Way(name=name, run=partial(extract, name), prepare=prepare) for name in LOADING]
    name = f"extract of {indexed.num_rows} clips"
    about = f"{FRAMES} frames a clip, resnet50 on half of them"
    yield Case(name=name, unit="runs", amount=1, seconds=alternate(ways, EXTRACTIONS), about=about)
    yield Case(name=f"first batch in {name}", unit="runs", amount=1, seconds=first_batch, about=about)


def measured(given: Path | None) -> Iterator[Case]:
    start("-c", "import torch, torchvision")  # warms the page cache
    for name, (ours, other) in PAIRS.items():
        ways = [Way(name=name, run=partial(start, *ours)), Way(name=other, run=partial(start, "-c", other))]
        yield Case(name="start", unit="starts", amount=1, seconds=alternate(ways, RUNS))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fill(root)
        videos = given or root / "videos"
        pairs = [extracted(root, videos, number) for number in range(EXTRACTIONS)]
        seconds = {"start-up": [start_up for start_up, _ in pairs], "work": [work for _, work in pairs]}
        yield Case(name="extract of a clip a video", unit="runs", amount=1, seconds=seconds, about=f"{CLIPS} videos")
        for per_video in CLIPS_PER_VIDEO:
            yield from loading(root, videos, per_video)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="decode these, not generated videos")
    options = parser.parse_args()
    report("startup", partial(measured, options.videos), options.json)
