"""Run an extraction with class tokens, whose process is killed between the objects of its second shard.

Usage: python class_tokens_killed.py CONFIG PATTERN, where PATTERN names the object that is not renamed
"""

import fnmatch
import os
import signal
import sys
from typing import Any
from unittest.mock import patch

from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.backbones.catalogue import CATALOGUE
from kinegraph.stages.backbones.tiny_i3d import TinyI3D
from tests import class_tokens

really_replace = os.replace


def replace(source: Any, target: Any, **options: Any) -> None:
    if fnmatch.fnmatch(str(target), sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    really_replace(source, target, **options)


patch.object(os, "replace", replace).start()
patch.object(TinyI3D, "run", class_tokens.run).start()
patch.dict(CATALOGUE, tiny_i3d=class_tokens.ENTRY).start()
extract(load_config(sys.argv[1]))
