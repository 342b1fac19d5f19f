"""A table of heads and seeds as a job array: only runs that are not there are trained."""

import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kinegraph.pipeline import slurm_task
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.clusters.slurm import submission as slurm_submission
from kinegraph.pipeline.clusters.slurm.states import ArrayState, TaskState
from kinegraph.pipeline.clusters.slurm.submission import Submission, Work
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import SlurmError
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training import on_slurm as training_array
from kinegraph.pipeline.training import table as training
from kinegraph.pipeline.training.on_slurm import train_on_slurm
from kinegraph.pipeline.training.table import RunsDiverged, TrainedRun, train_runs, train_wanted
from kinegraph.stages.training.engine import TrainingDiverged
from tests.conftest import moving_square, write_video

ENDED = ArrayState(tasks={0: TaskState(state="failed", detail="TIMEOUT")}, answered=True)


@pytest.fixture
def config(tmp_path: Path, tiny_document: dict[str, Any]) -> Config:
    root = tmp_path / "split_videos"
    for split in ("train", "val"):
        for number in range(2):
            video = moving_square(12, 96, 80, seed=number)
            write_video(root / split / ("left" if number else "right") / f"{split}{number}.mp4", video)
    train = {"head": "avg_pool", "epochs": 1, "run": str(tmp_path / "runs")}
    run = {"executor": "inline", "threads": 1, "batch_size": 2}
    document = tiny_document | {"dataset": {"kind": "folder", "root": str(root)}, "train": train, "run": run}
    inline = check_config(document, "test")
    index(inline)
    extract(inline, stages=["features"])
    return check_config(document | {"run": run | {"executor": "slurm"}}, "test")


@pytest.fixture
def works(config: Config, monkeypatch: pytest.MonkeyPatch) -> list[Work]:
    """What was submitted; all tasks but the last of several train, in this process."""
    found: list[Work] = []

    def submitted(config: Config, work: Work) -> Submission:
        found.append(work)
        for run in work.runs[: max(1, len(work.runs) - 1)]:
            train_wanted(config, run)
        return Submission(
            name="one", kind="train", job_id="1", folder=Path(config.train.run), num_tasks=1, submitted_at=""
        )

    monkeypatch.setattr(training_array, "submit", submitted)
    monkeypatch.setattr(Submission, "state", lambda self: ENDED)
    return found


def test_again_only_what_is_missing(config: Config, works: list[Work]) -> None:
    with pytest.raises(SlurmError, match=r"1 of 3 runs not trained: .*seed2(.|\n)*TIMEOUT"):
        train_on_slurm(config, seeds=3)
    runs = train_on_slurm(config, seeds=3)
    assert [[run.options.seed for run in work.runs] for work in works] == [[0, 1, 2], [2]]
    assert [(run.results.name, run.results.seed) for run in runs] == [("avg_pool", seed) for seed in range(3)]
    assert [run.kept for run in runs] == [True, True, False]
    assert all(run.kept for run in train_on_slurm(config, seeds=3))
    assert len(works) == 2, "nothing was missing"


def test_the_runs_are_those_of_training_here(config: Config, works: list[Work], tmp_path: Path) -> None:
    here = config.model_copy(update={"train": config.train.model_copy(update={"run": str(tmp_path / "here")})})
    (expected,) = train_runs(here)
    (run,) = train_on_slurm(config)
    assert (run.folder / "model.safetensors").read_bytes() == (expected.folder / "model.safetensors").read_bytes()
    assert run.results.scores == expected.results.scores


def test_overwrite_trains_all_again(config: Config, works: list[Work]) -> None:
    (run,) = train_on_slurm(config)
    before = (run.folder / "run.json").stat().st_mtime_ns
    train_on_slurm(config, overwrite=True)
    assert (run.folder / "run.json").stat().st_mtime_ns > before


def test_runs_that_diverge_do_not_hide_the_others(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    train_one = training._train_one

    def diverges(job: Any) -> TrainedRun:
        if job.options.seed == 0:
            raise TrainingDiverged("The loss is nan.")
        return train_one(job)

    def run_all_but(lost: int, script: Path) -> str:
        for task in {0, 1, 2} - {lost}:
            with suppress(TrainingDiverged):
                slurm_task.run_task(script.parent, task)
        return "1"

    monkeypatch.setattr(training, "_train_one", diverges)
    monkeypatch.setattr(Submission, "state", lambda self: ENDED)
    monkeypatch.setattr(slurm_submission, "_sbatch", partial(run_all_but, 2))
    with pytest.raises(SlurmError, match=r"1 of 3 runs not trained: \S+seed2; the same command"):
        train_on_slurm(config, seeds=3)
    monkeypatch.setattr(slurm_submission, "_sbatch", partial(run_all_but, 3))
    with pytest.raises(RunsDiverged, match=r"1 of 3 runs diverged: avg_pool seed 0\.") as told:
        train_on_slurm(config, seeds=3, overwrite=True)
    assert [run.results.seed for run in told.value.finished] == [1, 2]


def test_as_processes(config: Config, fake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run,) = train_on_slurm(config)
    assert set(run.results.scores) == {"val"}
    (log,) = Path(config.cache).glob("slurm/*/log-0.txt")
    assert re.search(r"^\d\d:\d\d:\d\d avg_pool seed 0, epoch 1 of \d+: loss", log.read_text(), re.MULTILINE)
