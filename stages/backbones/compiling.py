"""Checks that the machine can run torch.compile."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from kinegraph.stages.errors import UsageError


def require_compiler(device: torch.device) -> None:
    """Raises UsageError if `device` is a CPU and the machine lacks what torch.compile needs for a CPU: a C++ compiler
    and Python's headers. For a GPU nothing is checked.
    """
    if device.type != "cpu":
        return  # for a GPU torch.compile uses Triton, which itself reports what is missing
    compiler = os.environ.get("CXX", "g++")
    header = Path(sysconfig.get_path("include"), "Python.h")
    missing = [
        *([] if shutil.which(compiler) else [f"{compiler} is not on the PATH (Debian's package g++)"]),
        *([] if header.is_file() else [f"{header} is missing (Debian's package python3-dev)"]),
    ]
    if missing:
        raise UsageError(
            f"run.compile needs a C++ compiler and Python's headers: {', '.join(missing)}. Install them, or set "
            "run.compile to false."
        )
