"""Start-up of commands against an interpreter that only imports torch: prints seconds of each, and the ratio.

`kinegraph --help` imports no torch. `train` and `evaluate` import torch, but not torchvision unless a head needs it.
"""

import statistics
import subprocess
import sys
import time

RUNS = 7


def seconds(arguments: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begun


def compare(name: str, ours: list[str], other: str) -> None:
    pairs = [(seconds(ours), seconds(["-c", other])) for _ in range(RUNS)]
    own, others = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{name} {own:.2f} s, `{other}` {others:.2f} s, ratio {ratio:.2f}")


def main() -> None:
    seconds(["-c", "import torch, torchvision"])  # warms the page cache
    compare("kinegraph --help", ["-m", "kinegraph", "--help"], "import torch")
    compare("imports of train", ["-c", "import kinegraph.pipeline.training.table"], "import torch, torchvision")


if __name__ == "__main__":
    main()
