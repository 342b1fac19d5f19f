"""Writes the text of the batch script for a SLURM job array. Torch-free."""

import math
import shlex
from pathlib import Path

from kinegraph.pipeline.clusters.walltime import SHORT_SECONDS, SIGNAL_SECONDS
from kinegraph.pipeline.config import RunOptions

LOG = "log-{index}.txt"


def array_script(run: RunOptions, *, folder: Path, working_folder: Path, num_tasks: int, python: str) -> str:
    """Returns the text of the batch script for a SLURM job array with the tasks 0 to `num_tasks` - 1.

    - `run`: the section `run` of the config, with the options of SLURM.
    - `folder`: the folder with the files for the tasks, and for their logs.
    - `working_folder`: the folder in which the tasks start.
    - `python`: the path of the Python interpreter.
    """
    options = {
        "job-name": "kinegraph",
        "array": f"0-{num_tasks - 1}" + (f"%{run.slurm.max_running}" if run.slurm.max_running else ""),
        "chdir": _quoted(working_folder),
        "output": _quoted(folder / LOG.format(index="%a")),
        "open-mode": "append",
        "requeue": True,
        "cpus-per-task": run.slurm.cpus or run.worker_threads,
        **_limits(run),
        **run.slurm.options,
    }
    # -P: do not import a folder `kinegraph` of the working folder
    command = [python, "-P", "-m", "kinegraph", "slurm-task", str(folder)]
    return "\n".join(
        [
            "#!/bin/bash",
            *(
                f"#SBATCH --{key}" + ("" if value is True else f"={value}")
                for key, value in options.items()
                if value is not False
            ),
            *(("set -e", *run.slurm.setup) if run.slurm.setup else ()),
            # exec, so that signals reach the command
            f'exec {shlex.join(command)} "$SLURM_ARRAY_TASK_ID"',
            "",
        ]
    )


def _limits(run: RunOptions) -> dict[str, str | int]:
    """Returns the options of sbatch for memory, GPUs, time and the warning signal, as a dict {option: value}. An option
    that the config does not set is left out.
    """
    limits: dict[str, str | int] = {}
    if run.slurm.memory_gb is not None:
        limits["mem"] = f"{run.slurm.memory_gb}G"
    if run.slurm.gpus:
        limits["gres"] = f"gpu:{run.slurm.gpus}"
    if run.walltime_seconds is not None:
        limits["time"] = math.ceil(run.walltime_seconds / 60)
    if run.walltime_seconds is None or run.walltime_seconds >= SHORT_SECONDS:
        limits["signal"] = f"B:USR1@{SIGNAL_SECONDS}"
    return limits


def _quoted(path: Path) -> str:
    """Returns `path` as text for a line `#SBATCH ...`, in quotes if the path contains a blank."""
    return f'"{path}"' if " " in str(path) else str(path)
