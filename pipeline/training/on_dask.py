"""Trains a table of heads and seeds on a Dask cluster, one task per run, for `kinegraph train --executor dask`."""

import logging
import queue
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distributed import Client, Future, KilledWorker

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.clusters.dask.checks import (
    absolute_root,
    check_cache,
    check_run_folder,
    check_workers,
)
from kinegraph.pipeline.clusters.dask.cluster import are_children, dask_client, resources
from kinegraph.pipeline.clusters.dask.walltime import LeaveInTime
from kinegraph.pipeline.clusters.dask.workers import COUNT_WORKERS_SECONDS, Workers
from kinegraph.pipeline.clusters.wanted_run import RunPlace, WantedRun, places
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ClusterLost
from kinegraph.pipeline.machine.versions import agreed_versions
from kinegraph.pipeline.training.dask_task import IgnoreInterrupts, RunTask, run_task
from kinegraph.pipeline.training.one_run import OnRunEpoch, discard
from kinegraph.pipeline.training.table import (
    RunsDiverged,
    TrainedRun,
    checked_runs,
    log_diverged,
    log_epoch,
    trained_runs,
    untrained,
)
from kinegraph.stages.training.checkpoint import is_trained
from kinegraph.stages.training.engine import TrainingDiverged
from kinegraph.stages.training.records import EpochRecord

RUNS_AT_ONCE = 1  # of one worker process: a process has only one set of torch's generators and threads
log = logging.getLogger("kinegraph")


def train_on_dask(
    config: Config,
    names: Sequence[str] = (),
    seeds: int = 1,
    *,
    overwrite: bool = False,
    on_epoch: OnRunEpoch = log_epoch,
) -> list[TrainedRun]:
    """Trains heads on the Dask cluster that `run.dask` of the config describes. Returns one TrainedRun for each run,
    also for runs that were finished before.

    - `names`: names of heads or variants. Default: the head of the config.
    - `seeds`: the number of seeds: `train.seed`, `train.seed` + 1 and so on.
    - `overwrite`: discards existing runs first.
    - `on_epoch`: is called in this process with the run and the record of each epoch.

    If a worker dies or leaves, another worker continues its run from the last saved state.

    Raises ClusterError if the cluster cannot be reached or cannot do the work, and ClusterLost if it goes away. Raises
    RunsDiverged at the end if runs diverged. Raises ConfigError, CacheError or HeadError if a run cannot be trained,
    and RunExists if a finished run had other options or clips than `config`.
    """
    runs = checked_runs(config, names, seeds, overwrite=overwrite)
    if overwrite:
        for run in runs:
            discard(run.folder)
    if missing := untrained(runs):
        enough = config.run.model_copy(update={"workers": min(config.run.workers, len(missing))})
        config = config.model_copy(update={"run": enough})
        with dask_client(config.run, RUNS_AT_ONCE) as client:
            log.info("Dask's dashboard: %s", client.dashboard_link)
            _check_cluster(client, config, missing)
            with _prepared_workers(client, config):
                diverged = _Table(client, config, on_epoch).train(missing)
        if diverged:
            raise RunsDiverged(trained_runs([run for run in runs if is_trained(run.folder)], missing), diverged)
    return trained_runs(runs, missing)


def _check_cluster(client: Client, config: Config, runs: Sequence[WantedRun]) -> None:
    check_workers(client, config.run)
    check_cache(client, Cache(config.cache))
    for folder in sorted({Path(run.options.run).absolute() for run in runs}):
        check_run_folder(client, folder)


@contextmanager
def _prepared_workers(client: Client, config: Config) -> Iterator[None]:
    """Prepares the Dask workers for training, during a `with` block.

    Workers that are child processes of this process ignore Ctrl-C. Other workers leave the cluster before their batch
    job ends, so that another worker continues the run.
    """
    own = are_children(config.run)
    plugin = IgnoreInterrupts() if own else LeaveInTime(config.run.jobs_walltime_seconds)
    client.register_plugin(plugin)
    try:
        yield
    finally:
        with suppress(OSError):  # the cluster may be gone
            client.unregister_worker_plugin(plugin.name)


class _Table:
    """Submits training runs to the Dask scheduler, one task per run. As many tasks are submitted at a time as there are
    workers.
    """

    def __init__(self, client: Client, config: Config, on_epoch: OnRunEpoch) -> None:
        self.client, self.on_epoch = client, on_epoch
        self.config = config.model_copy(update={"cache": absolute_root(config.cache)})
        self.topic = f"kinegraph-train-{uuid.uuid4().hex[:12]}"
        self.in_flight: dict[str, tuple[Future[Any], WantedRun]] = {}
        self.diverged: list[str] = []
        self._settled: queue.Queue[Future[Any]] = queue.Queue()
        self._workers = Workers(client, config.run)

    def train(self, runs: Sequence[WantedRun]) -> list[str]:
        """Trains all runs and returns the names of the runs that diverged.

        If a run fails for another reason, raises its error and ends all runs. The same command, called again, continues
        them.
        """
        waiting = list(reversed([*zip(runs, places(runs, (), self.config.run.workers), strict=True)]))
        self.client.subscribe_topic(self.topic, self._note)
        try:
            while waiting or self.in_flight:
                while waiting and len(self.in_flight) < self._workers.most():
                    self._submit(*waiting.pop())
                with suppress(queue.Empty):
                    self._settle(stopping.get(self._settled, COUNT_WORKERS_SECONDS))
                self._workers.require()
        finally:
            self.client.unsubscribe_topic(self.topic)
            with suppress(OSError):
                self.client.cancel([future for future, _ in self.in_flight.values()])
        return self.diverged

    def _submit(self, run: WantedRun, place: RunPlace) -> None:
        task = RunTask(
            config=self.config,
            run=run.model_copy(update={"folder": run.folder.absolute()}),
            place=place,
            versions=agreed_versions(),
            topic=self.topic,
            of_client=are_children(self.config.run),
        )
        key = f"kinegraph_run-{self.topic}-{run.name}-{run.options.seed}"
        taken = resources(self.config.run, RUNS_AT_ONCE, RUNS_AT_ONCE) or None
        future = self.client.submit(run_task, task, key=key, pure=False, resources=taken)
        self.in_flight[key] = future, run
        future.add_done_callback(self._settled.put)

    def _settle(self, future: Future[Any]) -> None:
        _, run = self.in_flight.pop(str(future.key))
        if future.status == "finished":
            if isinstance(error := future.result(), TrainingDiverged):
                self.diverged.append(log_diverged(run, error))
            elif error is not None:
                raise error
            return
        if future.status != "error":
            raise ClusterLost(
                f"The Dask scheduler at {self._workers.address} went away. Runs go on with the same command, "
                "without --overwrite."
            )
        error = future.exception()
        if isinstance(error, KilledWorker):
            raise ClusterLost(
                f"{run.folder}: its worker died {error.allowed_failures + 1} times. Is there memory for it in one "
                f"process (run.dask.memory_limit: {self.config.run.dask.memory_limit})? Its log says more."
            )
        raise error

    def _note(self, event: tuple[float, Any]) -> None:
        """Calls `on_epoch` with the record of an epoch that a worker has reported. `event` is (time, message of the
        worker). Dask calls this method in a thread of its client.
        """
        _, message = event
        self.on_epoch(RunPlace(**message["run"]), EpochRecord(**message["record"]))
