"""Run an extraction in which decoding one video kills the process, spawned workers included: they import this too.

Usage: python deadly_video.py CONFIG VIDEO
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pipeline.feed
from pipeline.config import load_config
from pipeline.extraction import extract

really_decode = pipeline.feed.decode_clips


def decode(path: str, *arguments: Any) -> Any:
    if Path(path).name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return really_decode(path, *arguments)


pipeline.feed.decode_clips = decode
if __name__ == "__main__":
    extract(load_config(sys.argv[1]))
