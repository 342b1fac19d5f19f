"""What a task of a job array tells of its end, and what `status` tells of tasks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.clusters.slurm import submission as slurm_submission
from kinegraph.pipeline.clusters.slurm.states import ArrayState, TaskState
from kinegraph.pipeline.clusters.slurm.submission import Submission, Work, submissions, submit
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.errors import OutOfTimeError
from kinegraph.pipeline.extraction import run as extraction

Command = Callable[..., Any]


@pytest.fixture
def submission(kinegraph: Command, config: Path, monkeypatch: pytest.MonkeyPatch) -> Submission:
    """Three tasks for nothing, recorded as if sbatch had taken them."""
    monkeypatch.setattr(slurm_submission, "_sbatch", lambda script: "12")
    kinegraph("index", config)
    settings: Config = load_config(config)
    submit(settings, Work(kind="extract", num_tasks=3))
    (found,) = submissions(Cache(settings.cache).storage)
    return found


def test_a_task_leaves_word_of_how_it_ended(kinegraph: Command, submission: Submission, cache: Path) -> None:
    assert kinegraph("slurm-task", submission.folder, 2).exit_code == 0
    moved = cache.rename(cache.with_name("elsewhere")) / submission.folder.relative_to(cache)
    ended = kinegraph("slurm-task", moved, 0)
    assert (ended.exit_code, ended.stderr.startswith(f"error: No cache at {cache}")) == (2, True)
    assert [json.loads((moved / f"ended-{task}.json").read_text())["exit_code"] for task in (2, 0)] == [0, 2]


def test_status_tells_of_tasks(
    kinegraph: Command, submission: Submission, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {
        0: TaskState(state="running"),
        1: TaskState(state="failed", detail="OUT_OF_MEMORY"),
        2: TaskState(state="unknown"),
    }
    monkeypatch.setattr(Submission, "state", lambda self: ArrayState(tasks=tasks, answered=True))
    (submission.folder / "log-1.txt").write_text("".join(f"line {number}\n" for number in range(20)))
    told = kinegraph("status", cache).stdout
    assert f"SLURM job 12 (extract, {submission.submitted_at}): 1 running, 1 failed, 1 unknown; logs in" in told
    assert "  task 1: failed OUT_OF_MEMORY\n    line 10\n" in told
    assert told.endswith("    line 19\n  task 2: unknown\n    (no log)\n")
    (job,) = json.loads(kinegraph("status", cache, "--json").stdout)["jobs"]
    assert job["tasks"] == {"pending": 0, "running": 1, "done": 0, "stopped": 0, "failed": 1, "unknown": 1}
    assert job["failed"][0]["log"][-1] == "line 19"


def test_out_of_time_has_an_exit_code_of_its_own(
    kinegraph: Command, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OutOfTime:
        def run(self, job: Any, report: Any) -> None:
            raise OutOfTimeError("no further shard can end; the same command goes on from there.")

    kinegraph("index", config)
    monkeypatch.setattr(extraction, "executor_of", lambda config: OutOfTime())
    ended = kinegraph("extract", config)
    last = ended.stderr.splitlines()[-1]
    assert (ended.exit_code, last) == (75, "no further shard can end; the same command goes on from there.")


@pytest.mark.parametrize("key", ["array", "output"])
def test_options_that_tasks_are_found_by_are_refused(kinegraph: Command, config: Path, key: str) -> None:
    ended = kinegraph("extract", config, "--set", f"run.slurm.options.{key}=x")
    assert ended.exit_code == 2
    assert f"run.slurm.options.{key}: given 'x'" in ended.stderr


@pytest.mark.parametrize("flag", ["--scheduler", "--scheduler-file"])
@pytest.mark.parametrize("executor", ["inline", "local", "slurm"])
def test_a_scheduler_is_for_dask(kinegraph: Command, config: Path, flag: str, executor: str) -> None:
    ended = kinegraph("extract", config, "--executor", executor, flag, "x")
    assert (ended.exit_code, ended.stderr) == (
        2,
        f"error: {flag}: given with --executor {executor}, allowed: --executor dask, or no --executor\n",
    )


def test_a_task_has_one_gpu(kinegraph: Command, config: Path) -> None:
    ended = kinegraph("extract", config, "--set", "run.slurm.gpus=2")
    assert ended.exit_code == 2
    assert (
        "run.slurm.gpus: given 2, allowed: 0 or 1, because a task is one worker on one device. For 2 GPUs"
        in ended.stderr
    )
