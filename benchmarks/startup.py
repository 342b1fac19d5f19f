"""Start-up of commands against an interpreter that only imports torch: prints starts a second of each, and the ratio.

`kinegraph --help` imports no torch. `train` and `evaluate` import torch, but not torchvision unless a head needs it.
"""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from benchmarks.results import Case, arguments, report
from kinegraph.pipeline.machine.alternation import Way, alternate

RUNS = 7
IMPORTS = "import kinegraph.pipeline.training.table"
PAIRS = {  # name -> options of Python that start ours, and the imports that ours is compared with
    "kinegraph --help": (["-m", "kinegraph", "--help"], "import torch"),
    "imports of train": (["-c", IMPORTS], "import torch, torchvision"),
}


def start(*options: str) -> None:
    subprocess.run([sys.executable, *options], check=True, capture_output=True)


def measured() -> Iterator[Case]:
    start("-c", "import torch, torchvision")  # warms the page cache
    for name, (ours, other) in PAIRS.items():
        ways = [Way(name=name, run=partial(start, *ours)), Way(name=other, run=partial(start, "-c", other))]
        yield Case(name="start", unit="starts", amount=1, seconds=alternate(ways, RUNS))


if __name__ == "__main__":
    report("startup", measured, arguments(__doc__).parse_args().json)
