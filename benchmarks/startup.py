"""`kinegraph --help` against an interpreter that only imports torch: prints seconds of each, and the ratio."""

import statistics
import subprocess
import sys
import time

RUNS = 7


def seconds(arguments: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - begun


def main() -> None:
    seconds(["-c", "import torch"])  # warms the page cache
    pairs = [(seconds(["-m", "kinegraph", "--help"]), seconds(["-c", "import torch"])) for _ in range(RUNS)]
    ours, torch_alone = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"kinegraph --help {ours:.2f} s, `import torch` alone {torch_alone:.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
