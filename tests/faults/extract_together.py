"""Load everything, say so, wait for a line on stdin, extract, and print how many clips went through the networks.

Usage: python extract_together.py CONFIG
"""

import sys

import pipeline.executors.local  # noqa: F401  (loads torch before the start)
from pipeline.config import load_config
from pipeline.extraction import extract

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    print(extract(load_config(sys.argv[1])).clips_run)
