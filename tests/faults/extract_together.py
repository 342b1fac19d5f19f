"""Extract in several processes at the same moment; each prints how many clips went through its networks.

Usage: python extract_together.py CONFIG PROCESSES
"""

import os
import sys

import kinegraph.pipeline.extraction.executors.local  # noqa: F401  (loads torch once, before the start)
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract

if __name__ == "__main__":
    children = []
    for _ in range(int(sys.argv[2])):
        if (child := os.fork()) == 0:
            line = f"{extract(load_config(sys.argv[1])).clips_run}\n"
            os.write(1, line.encode())  # whole, where PYTHONUNBUFFERED would have print write twice
            os._exit(0)
        children.append(child)
    sys.exit(max(os.waitpid(child, 0)[1] for child in children) != 0)
