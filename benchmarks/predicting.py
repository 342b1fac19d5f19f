"""`kinegraph predict` of one video of 10 s: CPU seconds of the command, and what of them is start-up.

The command is a process of its own. Decoding, network and head are measured in this process, by a second call of
`predict` with the same networks. The rest is start-up: Python, imports, the record of the run, weights.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.predicting.predictor import Predictor
from kinegraph.pipeline.training.table import train_runs
from kinegraph.stages.generated.generating import encode

RUNS, SECONDS, FPS = 5, 10, 25


def command_seconds(video: Path, run: Path) -> float:
    """CPU seconds of the command and of all its threads."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "kinegraph", "predict", str(video), "--run", str(run)], check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def work_seconds(predictor: Predictor, video: Path) -> float:
    begun = time.process_time()
    [*predictor.predict([video])]
    return time.process_time() - begun


def document(root: Path) -> dict[str, Any]:
    net = {"model": "tiny_i3d", "weights": "shipped", "taps": ["res4"], "precision": "fp32"}
    return {
        "cache": str(root / "cache"),
        "dataset": {"kind": "interactions", "root": str(root / "videos"), "train": 16, "val": 8, "test": 1},
        "clips": {"num_frames": 16, "sampling": "uniform", "crops": ["full"]},
        "backbones": {"tiny": net},
        "proposals": {"source": "grid", "every": 2, "cells": [2, 2]},
        "regions": {"backbones": ["tiny"]},
        "run": {"device": "cpu"},
        "train": {"head": "strg", "options": {"dim": 64}, "epochs": 1, "run": str(root / "run")},
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = check_config(document(root), "benchmark")
        index(config)
        extract(config)
        train_runs(config)
        video, predictor = root / "video.mp4", Predictor(root / "run")
        frames = np.random.default_rng(0).integers(0, 256, (SECONDS * FPS, 15, 20, 3), np.uint8)
        video.write_bytes(encode(frames.repeat(16, 1).repeat(16, 2), FPS))
        work_seconds(predictor, video)  # loads the networks
        pairs = [(command_seconds(video, root / "run"), work_seconds(predictor, video)) for _ in range(RUNS)]
    whole, work = (statistics.median(times) for times in zip(*pairs, strict=True))
    start = statistics.median(whole - work for whole, work in pairs)
    print(f"predict of one video of {SECONDS} s: {whole:.1f} CPU s, of them {work:.1f} s decoding and networks")
    print(f"start-up: {start:.1f} CPU s")


if __name__ == "__main__":
    main()
