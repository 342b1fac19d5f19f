"""Run an extraction in which decoding one video kills the process, worker processes included.

Workers are forked, not spawned: each of them would import torch and torchvision anew, which is most of what it does.
With DIED, a file that the first death makes, it kills no second one.

Usage: python deadly_video.py CONFIG VIDEO [DIED]
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction import feed
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.decode.clips import decode_clips


def decode(path: str, *arguments: Any) -> Any:
    if Path(path).name == sys.argv[2] and not any(Path(died).exists() for died in sys.argv[3:]):
        for died in sys.argv[3:]:
            Path(died).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_clips(path, *arguments)


patch.object(feed, "decode_clips", decode).start()
forking = multiprocessing.get_context("fork")
patch.object(multiprocessing, "get_context", lambda method: forking).start()
extract(load_config(sys.argv[1]))
