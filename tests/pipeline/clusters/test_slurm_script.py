"""The script is a pure function of the config; recorded scripts are compared exactly."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kinegraph.pipeline.clusters.slurm.script import array_script
from kinegraph.pipeline.config import RunOptions

RECORDED = Path(__file__).parent
FULL = {
    "workers": 8,
    "threads": 6,
    "walltime_seconds": 12 * 3600 - 1,
    "slurm": {
        "gpus": 1,
        "cpus": 8,
        "memory_gb": 32,
        "max_running": 4,
        "options": {"partition": "gpu", "account": "lab", "exclusive": True, "oversubscribe": False},
        "setup": ["module load cuda", "export OMP_NUM_THREADS=6"],
    },
}


def script(run: dict[str, Any], folder: str = "/shared/cache/slurm/20260101", tasks: int = 8) -> str:
    options = RunOptions.model_validate({"executor": "slurm"} | run)
    return array_script(
        options, folder=Path(folder), working_folder=Path("/home/me"), num_tasks=tasks, python="/env/bin/python"
    )


@pytest.mark.parametrize(("name", "run"), [("full", FULL), ("plain", {})])
def test_recorded(name: str, run: dict[str, Any]) -> None:
    assert script(run) == (RECORDED / f"array_{name}.sh").read_text()


def test_a_shell_understands_any_folder(tmp_path: Path) -> None:
    written = script({}, folder='/shared/it\'s a "cache"/slurm', tasks=1)
    assert subprocess.run(["sh", "-n"], input=written, text=True, check=False).returncode == 0
    assert shlex.split(written.splitlines()[-1])[-2:] == ['/shared/it\'s a "cache"/slurm', "$SLURM_ARRAY_TASK_ID"]


@pytest.mark.parametrize(("seconds", "signal"), [(None, True), (600, True), (599, False)])
def test_short_jobs_are_not_told_of_their_end(seconds: int | None, signal: bool) -> None:
    """SLURM may tell a minute early, and counts minutes: a job of one would be told at once."""
    written = script({"walltime_seconds": seconds})
    assert ("--signal=B:USR1@60" in written) == signal
    assert ("--time=10\n" in written) == (seconds is not None)
