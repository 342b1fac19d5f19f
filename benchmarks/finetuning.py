"""Measures fine-tuning: how long a step waits for pixels, decoding by threads and by processes, memory of a step.

    python benchmarks/finetuning.py [CLIPS]   (96 clips of the demo's generated videos)

The memory is what the forward pass saves for the backward pass. It is computed from shapes alone, for one clip of 32
frames of 224 x 224 px through I3D-ResNet-50. Decoding by threads and by processes alternate.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.decoded_clips import DecodedClips, decoding
from kinegraph.pipeline.training.finetuning import finetune
from kinegraph.pipeline.training.table import train_runs
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.build import untrained
from kinegraph.stages.decode.clips import decode_clips
from kinegraph.stages.decode.wanted import Wanted

BATCH, MIB = 16, 2**20


def document(root: Path, clips: int) -> dict[str, Any]:
    net = {"model": "tiny_i3d", "weights": "shipped", "taps": ["res4"], "precision": "fp32"}
    return {
        "cache": str(root / "cache"),
        "dataset": {"kind": "interactions", "root": str(root / "videos"), "train": clips, "val": BATCH, "test": 1},
        "clips": {"num_frames": 16, "sampling": "uniform", "crops": ["full"]},
        "backbones": {"tiny": net},
        "proposals": {"source": "grid", "every": 2, "cells": [2, 2]},
        "regions": {"backbones": ["tiny"]},
        "run": {"device": "cpu", "batch_size": BATCH},
        "train": {"head": "strg", "options": {"dim": 64}, "epochs": 1, "batch_size": BATCH, "run": str(root / "run")},
    }


def waited(config: Config, root: Path, threads: int) -> float:
    """Fine-tunes the run in `root` for two epochs, as `config` says, with `threads` decoder threads. Returns the share
    of the time of the second epoch in which the network waits for pixels, from 0 to 1.
    """
    options = {"start": str(root / "run"), "run": str(root / f"tuned{threads}"), "decode_threads": threads}
    section = config.finetune.model_copy(update=options | {"epochs": 2, "batch_size": BATCH, "val_split": None})
    tuned = finetune(config.model_copy(update={"finetune": section}))
    return float(tuned.results.history[1]["waited"])


def decode(rows: list[ClipRow], wanted: Wanted) -> int:
    return sum(len(decode_clips(row.path, [row], wanted, 60.0)) for row in rows)


def by_threads(config: Config, workers: int) -> float:
    """Returns the seconds in which `workers` threads decode all training clips of the cache of `config` in batches, as
    fine-tuning does.
    """
    section = config.finetune.model_copy(update={"decode_threads": workers})
    squares, cache = {"tiny": config.square_of("tiny")}, Cache(config.cache)
    with decoding(config.model_copy(update={"finetune": section}), torch.device("cpu")) as decoder:
        clips = DecodedClips(cache, [], "train", names=[], squares=squares, wanted=config.wanted(), decoding=decoder)
        begun = time.perf_counter()
        for at in range(0, len(clips), BATCH):
            clips.batch(range(at, min(at + BATCH, len(clips))))
        return time.perf_counter() - begun


def by_processes(config: Config, rows: list[ClipRow], workers: int) -> float:
    """Returns the seconds in which `workers` processes decode the clips `rows` for the backbone of `config`. The pixels
    are not copied back to this process, which a real run would also need.
    """
    wanted = config.wanted(squares=frozenset({config.square_of("tiny")}))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        begun = time.perf_counter()
        [*pool.map(decode, [rows[at::workers] for at in range(workers)], [wanted] * workers)]
        return time.perf_counter() - begun


def saved_mib(network: Backbone, dtype: torch.dtype) -> float:
    """Returns the MiB that the forward pass of `network` saves for the backward pass, for one clip of the type `dtype`.
    The parameters do not count.
    """
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    clip = torch.empty(1, 3, 32, 224, 224, dtype=dtype, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        maps = network(clip)
    del maps  # alive until here, so that no two tensors had one address
    return sum(saved.values()) / MIB


def memory() -> None:
    network = untrained("i3d_r50").to("meta").eval()
    network.cut(["res5"])
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        saved = []
        for parts in (network.levels, ("res5",)):
            network.to(dtype).requires_grad_(False)
            for path in (path for part in parts for path in network.stages[part]):
                network.get_submodule(path).requires_grad_(True)
            for norm in norms:
                norm.requires_grad_(False)
            saved.append(saved_mib(network, dtype))
        print(f"I3D-R50, 32 x 224 px, {name}: {saved[0]:,.0f} MiB a clip, {saved[1]:,.0f} with res5 alone free")


def main() -> None:
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else 96
    memory()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        config = check_config(document(root, clips), "benchmark")
        index(config)
        extract(config)
        train_runs(config)
        rows = [row for row in Cache(config.cache).clips.rows() if row.split == "train"]
        workers = os.cpu_count() or 1
        times = [(by_threads(config, workers), by_processes(config, rows, workers)) for _ in range(3)]
        threads, processes = (min(each) for each in zip(*times, strict=True))
        print(f"decoding {clips} clips: {workers} threads {threads:.2f} s, processes {processes / threads:.2f} x")
        for count in sorted({1, workers}):
            share = waited(config, root, count)
            print(
                f"a step of tiny_i3d and strg with {BATCH} clips waits {share:.1%} of its time, decode_threads {count}"
            )


if __name__ == "__main__":
    main()
