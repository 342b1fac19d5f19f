"""Measures a training step of every head at the size of its paper: seconds, peak memory, ratio to its matrix products.

    python benchmarks/heads.py [--clips N] [--threads N] [HEAD ...]

A step is forward, backward and SGD on N clips that are in memory already. Each head runs in a process of its own.
`strg@demo` is STRG at the size of the demo, on 64 clips.

The column `/products` is the time of a step, divided by the time of its matrix products and convolutions alone. The
products have the same shapes, layouts and types, but random numbers and no autograd. Both take turns, and the median of
the rounds is printed. The time is CPU time of all threads on a CPU, and wall time on a GPU. An LSTM does not count as a
matrix product. Peak memory is that of the GPU, or what the process took beyond torch itself.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from kinegraph.pipeline.machine.memory import keep_freed_memory
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.sizes import SIZES, PaperSize, clips_of

ROUNDS = 5
DEMO, DEMO_CLIPS = "strg@demo", 64
aten = torch.ops.aten
PRODUCTS = {
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default,
    aten.convolution_backward.default,
}  # fmt: skip


class Products(TorchDispatchMode):
    """A context that records each matrix product and convolution that runs in it, with random numbers of the same
    layouts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], Any]] = []
        self._alike: dict[Any, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            made = tree_map_only(Tensor, self._random, args)
            self.calls.append(lambda: func(*made, **kwargs or {}))
        return func(*args, **kwargs or {})

    def _random(self, x: Tensor) -> Tensor:
        key = (x.shape, x.stride(), x.dtype)
        if key not in self._alike:
            self._alike[key] = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).normal_()
        return self._alike[key]

    def run(self) -> None:
        for call in self.calls:
            call()


def sizes() -> dict[str, PaperSize]:
    strg = next(size for size in SIZES if size.head == "strg")
    spec = {
        "features/tiny/res4_pooled": (8, 96), "regions/tiny/res4": (8, 5, 96), "proposals/boxes": (8, 5, 4),
        "proposals/count": (8,),
    }  # fmt: skip
    about = f"the demo: dim 64, 5 boxes, {DEMO_CLIPS} clips a step"
    options = {"dim": 64, "scale_similarity": True}
    demo = replace(strg, about=about, spec=spec, num_classes=10, options=options)
    return {size.head: size for size in SIZES} | {DEMO: demo}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--here", action="store_true", help="in this process")
    parser.add_argument("heads", nargs="*", default=[*sizes()])
    given = parser.parse_args()
    keep_freed_memory()  # as the commands do
    torch.set_num_threads(given.threads)
    if not given.here:
        print(
            f"{'head':<18}{'s/step':>9}{'clips/s':>9}{'peak MB':>9}{'/products':>11}  on {_device()}, "
            f"{given.clips} clips a step",
            flush=True,
        )
    for name, size in sizes().items():
        if name in given.heads and given.here:
            _measure(name, size, DEMO_CLIPS if name == DEMO else given.clips)
        elif name in given.heads:
            numbers = ["--clips", str(given.clips), "--threads", str(given.threads)]
            subprocess.run([sys.executable, __file__, "--here", *numbers, name], check=True)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"


def _measure(name: str, size: PaperSize, num_clips: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = _peak_bytes(device)
    torch.manual_seed(0)
    head = build_head(size.head, size.spec, size.num_classes, **size.options).to(device).train()
    batch = {name: array.to(device) for name, array in clips_of(size, head.reads, num_clips).items()}
    labels = torch.arange(num_clips, device=device) % size.num_classes
    optimizer = torch.optim.SGD(head.parameters(), 1e-3, momentum=0.9, fused=True)

    def step() -> None:
        F.cross_entropy(head(batch), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # the first allocates
    taken = (_peak_bytes(device) - before) / 1e6
    with Products() as products:
        step()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    products.run()
    rounds = list[tuple[float, float, float]]()
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        in_step = _seconds(step, clock)
        rounds.append((time.perf_counter() - begun, in_step, _seconds(products.run, clock)))
    seconds = statistics.median(elapsed for elapsed, _, _ in rounds)
    ratio = statistics.median(in_step / alone for _, in_step, alone in rounds)
    print(f"{name:<18}{seconds:>9.4f}{num_clips / seconds:>9.1f}{taken:>9.0f}{ratio:>11.2f}  {size.about}", flush=True)


def _seconds(call: Callable[[], None], clock: Callable[[], float]) -> float:
    begun = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - begun


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
