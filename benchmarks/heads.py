"""One training step of every head at the size of its paper: seconds and peak memory, on a GPU where there is one.

`python benchmarks/heads.py [--clips N] [HEAD ...]`: a step is forward, backward and SGD on N clips that are in memory
already, each head in a process of its own. Peak memory is the GPU's, or what the process took beyond torch itself.
"""

import argparse
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.sizes import SIZES, PaperSize, clips_of

STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="in this process")
    parser.add_argument("heads", nargs="*", default=[size.head for size in SIZES])
    given = parser.parse_args()
    if not given.here:
        print(
            f"{'head':<18}{'s/step':>9}{'clips/s':>9}{'peak MB':>9}  on {_device()}, {given.clips} clips a step",
            flush=True,
        )
    for size in SIZES:
        if size.head in given.heads:
            if given.here:
                _measure(size, given.clips)
            else:
                command = [sys.executable, __file__, "--here", "--clips", str(given.clips), size.head]
                subprocess.run(command, check=True)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"


def _measure(size: PaperSize, num_clips: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = _peak_bytes(device)
    torch.manual_seed(0)
    head = build_head(size.head, size.spec, size.num_classes, **size.options).to(device).train()
    batch = {name: array.to(device) for name, array in clips_of(size, head.reads, num_clips).items()}
    labels = torch.arange(num_clips, device=device) % size.num_classes
    optimizer = torch.optim.SGD(head.parameters(), 1e-3, momentum=0.9)
    seconds = []
    for _ in range(STEPS + 1):
        begun = time.perf_counter()
        F.cross_entropy(head(batch), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    step = sum(seconds[1:]) / STEPS  # the first allocates
    taken = (_peak_bytes(device) - before) / 1e6
    print(f"{size.head:<18}{step:>9.4f}{num_clips / step:>9.1f}{taken:>9.0f}  {size.about}", flush=True)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
