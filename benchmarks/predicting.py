"""Measures `kinegraph predict` of one video of 10 s: CPU seconds of the command, and the share of start-up.

The head `avg_pool` reads pooled features. The head `strg` reads regions, whose RoIAlign needs torchvision. The CPU
seconds of importing torch and torchvision alone are printed too, because no command is faster than that.

The command runs in a process of its own. Decoding, network and head are measured in this process, by a second call of
`predict` with the same networks. The remaining seconds are start-up: Python, imports, the record of the run, weights.
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
HEADS = ("avg_pool", "strg")


def cpu_seconds(*arguments: str) -> float:
    """Runs Python with these arguments in a process of its own. Returns the CPU seconds of all its threads."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
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
        "train": {"head": "strg", "options": {"dim": 64}, "epochs": 1, "run": str(root / "runs")},
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = check_config(document(root), "benchmark")
        index(config)
        extract(config)
        runs = {run.results.name: run.folder for run in train_runs(config, HEADS)}
        video = root / "video.mp4"
        frames = np.random.default_rng(0).integers(0, 256, (SECONDS * FPS, 15, 20, 3), np.uint8)
        video.write_bytes(encode(frames.repeat(16, 1).repeat(16, 2), FPS))
        for head, run in runs.items():
            measure(head, run, video)
    for code in ("import torch", "import torch, torchvision"):
        print(f"{code}: {statistics.median(cpu_seconds('-c', code) for _ in range(RUNS)):.1f} CPU s")


def measure(head: str, run: Path, video: Path) -> None:
    predictor, asked = Predictor(run), ("-m", "kinegraph", "predict", str(video), "--run", str(run))
    work_seconds(predictor, video)  # loads the networks
    pairs = [(cpu_seconds(*asked), work_seconds(predictor, video)) for _ in range(RUNS)]
    whole, work = (statistics.median(times) for times in zip(*pairs, strict=True))
    start = statistics.median(whole - work for whole, work in pairs)
    print(
        f"{head}: predict of one video of {SECONDS} s: {whole:.1f} CPU s, of them {work:.1f} s decoding and networks, "
        f"and {start:.1f} s start-up"
    )


if __name__ == "__main__":
    main()
