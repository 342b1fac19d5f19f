"""A table of heads and seeds on a Dask cluster: the same weights as here, only what is missing, and no run twice."""

import itertools
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Client, KilledWorker, LocalCluster
from distributed import Worker as DaskWorker

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.clusters.dask import walltime as dask_walltime
from kinegraph.pipeline.clusters.walltime import Allotment
from kinegraph.pipeline.clusters.wanted_run import RunPlace, places
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import ClusterError, ClusterLost
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.machine.versions import agreed_versions
from kinegraph.pipeline.training import dask_task as dask_training
from kinegraph.pipeline.training import on_dask as training_dask
from kinegraph.pipeline.training import table as training
from kinegraph.pipeline.training.dask_task import RunTask, run_task
from kinegraph.pipeline.training.on_dask import train_on_dask
from kinegraph.pipeline.training.table import RunsDiverged, TrainedRun, train_runs, wanted_runs
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.training import engine
from kinegraph.stages.training.engine import TrainingDiverged
from kinegraph.stages.training.records import EpochRecord
from tests.conftest import moving_square, tiny_stages, write_video
from tests.dask_cluster import in_this_process


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A cache of two splits, which tests only read."""
    folder = tmp_path_factory.mktemp("extracted")
    for split in ("train", "val"):
        for number in range(2):
            video = moving_square(12, 96, 80, seed=number)
            write_video(folder / "videos" / split / ("left" if number else "right") / f"{split}{number}.mp4", video)
    train = {"head": "avg_pool", "options": {"dropout": 0.5}, "epochs": 3, "threads": 1}
    run = {"executor": "inline", "threads": 1, "batch_size": 2}
    document = tiny_stages(folder / "cache", folder / "videos") | {"train": train, "run": run}
    config = check_config(document, "test")
    index(config)
    extract(config, stages=["features"])
    return config


@pytest.fixture
def inline(extracted: Config, tmp_path: Path) -> Config:
    """A recipe on it, to train here."""
    train = extracted.train.model_copy(update={"run": str(tmp_path / "here")})
    return extracted.model_copy(update={"train": train})


def on(cluster: LocalCluster, inline: Config, tmp_path: Path, **train: Any) -> Config:
    """The same on a cluster, with runs in a folder of their own."""
    dask = inline.run.dask.model_copy(update={"scheduler": cluster.scheduler_address})
    run = inline.run.model_copy(update={"executor": "dask", "dask": dask})
    recipe = inline.train.model_copy(update={"run": str(tmp_path / "there"), **train})
    return inline.model_copy(update={"run": run, "train": recipe})


def weights(runs: list[TrainedRun]) -> list[bytes]:
    return [(run.folder / "model.safetensors").read_bytes() for run in runs]


def test_the_runs_are_those_of_training_here(inline: Config, dask_cluster: LocalCluster, tmp_path: Path) -> None:
    """Also when the command is given again, and of the table only what is missing is trained."""
    config, epochs = on(dask_cluster, inline, tmp_path), list[tuple[str, int, int]]()

    def on_epoch(run: RunPlace, record: EpochRecord) -> None:
        epochs.append((run.name, run.seed, record.epoch))

    runs = train_on_dask(config, ["avg_pool", "lstm"], 2, on_epoch=on_epoch)
    here = train_runs(inline, ["avg_pool", "lstm"], 2)
    assert weights(runs) == weights(here)
    assert [run.results.scores for run in runs] == [run.results.scores for run in here]
    assert set(epochs) == {*itertools.product(("avg_pool", "lstm"), (0, 1), (1, 2, 3))}
    (runs[2].folder / "run.json").unlink()
    again = train_on_dask(config, ["avg_pool", "lstm"], 2)
    assert [run.kept for run in again] == [True, True, False, True]
    assert weights(again) == weights(here)
    assert not [*Path(config.train.run).glob(".*")]


def test_overwrite_trains_all_again(inline: Config, tmp_path: Path) -> None:
    with in_this_process(1) as cluster:
        config = on(cluster, inline, tmp_path)
        (run,) = train_on_dask(config)
        before = (run.folder / "run.json").stat().st_mtime_ns
        assert train_on_dask(config)[0].kept
        train_on_dask(config, overwrite=True)
    assert (run.folder / "run.json").stat().st_mtime_ns > before


def test_what_training_raises_arrives(inline: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise HeadError("such a head")

    with in_this_process(1) as cluster:
        monkeypatch.setattr(training, "_train_one", fails)
        with pytest.raises(HeadError, match="such a head"):
            train_on_dask(on(cluster, inline, tmp_path), seeds=3)


def test_a_run_that_diverges_does_not_end_the_others(
    inline: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_one = training._train_one

    def diverges(job: Any) -> TrainedRun:
        if job.options.seed == 0:
            raise TrainingDiverged("The loss is nan.")
        return train_one(job)

    monkeypatch.setattr(training, "_train_one", diverges)
    with (
        in_this_process(1) as cluster,
        pytest.raises(RunsDiverged, match=r"1 of 2 runs diverged: avg_pool seed 0\.") as told,
    ):
        train_on_dask(on(cluster, inline, tmp_path, epochs=1), seeds=2)
    assert [run.results.seed for run in told.value.finished] == [1]


def test_a_folder_of_runs_that_workers_do_not_see(
    inline: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_this_process(1) as cluster:
        config = on(cluster, inline, tmp_path)

        def elsewhere(root: str) -> str:
            return f"{root}-elsewhere" if root == config.train.run else root

        monkeypatch.setattr("kinegraph.pipeline.clusters.dask.checks.absolute_root", elsewhere)
        with pytest.raises(ClusterError, match=r"worker tcp://\S+ does not see the folder of runs .*/there \(File"):
            train_on_dask(config)
    assert not [*Path(config.train.run).iterdir()]


def after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training tells of each step, not of each second's."""
    monkeypatch.setattr(engine, "STEP_RECORD_SECONDS", 0.0)


def test_a_worker_that_leaves(inline: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job ends in the second epoch: the run goes on elsewhere, to the same weights."""
    after_each_step(monkeypatch)
    told, left = list[int](), threading.Event()
    require = dask_training.require_wanted

    def job_around(worker: DaskWorker, walltime_seconds: float | None) -> Allotment | None:
        return Allotment(began_at=time.time() - 600, ends_at=time.time()) if worker.name == 0 and told else None

    monkeypatch.setattr(dask_walltime, "job_around", job_around)

    def on_epoch(run: RunPlace, record: EpochRecord) -> None:
        told.append(record.epoch)

    def hold(worker: DaskWorker, key: str) -> None:
        if worker.name == 0 and told and not left.is_set():
            left.set()
            cluster.scale(2)
            worker.loop.add_callback(dask_walltime.LeaveInTime(None).setup, worker)
            while worker.status.name in ("running", "closing_gracefully"):
                time.sleep(0.01)
        require(worker, key)

    monkeypatch.setattr(dask_training, "require_wanted", hold)
    with in_this_process(1) as cluster:
        runs = train_on_dask(on(cluster, inline, tmp_path, epochs=40), on_epoch=on_epoch)
        assert [worker.name for worker in cluster.workers.values() if worker.status.name == "running"] == [1]
    assert left.is_set()
    longer = inline.train.model_copy(update={"epochs": 40})
    assert weights(runs) == weights(train_runs(inline.model_copy(update={"train": longer})))


def test_a_run_that_nobody_waits_for_ends(inline: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads cannot be stopped from outside; it would hold up the run that comes after it."""
    after_each_step(monkeypatch)
    begun = threading.Event()
    monkeypatch.setattr(training_dask, "log_epoch", lambda *_: None)
    with in_this_process(1) as cluster, Client(cluster) as client:
        config = on(cluster, inline, tmp_path, epochs=1_000_000)
        (run,) = wanted_runs(config, [], 1)
        (place,) = places([run])
        task = RunTask(config=config, run=run, place=place, versions=agreed_versions(), topic="epochs", of_client=False)
        client.subscribe_topic("epochs", lambda event: begun.set())
        future = client.submit(run_task, task)
        assert begun.wait(30)
        future.cancel()
        assert dask_training._alone.acquire(timeout=30)
        dask_training._alone.release()


def test_deaths_are_told_as_the_scheduler_counted_them() -> None:
    """One that runs has a limit of its own."""
    gone: Any = SimpleNamespace(key="k", status="error", exception=lambda: KilledWorker("k", None, 3))  # type: ignore[arg-type]
    table: Any = SimpleNamespace(in_flight={"k": (gone, SimpleNamespace(folder="runs/x"))}, config=Config(cache="c"))
    with pytest.raises(ClusterLost, match=r"runs/x: its worker died 4 times"):
        training_dask._Table._settle(table, gone)
