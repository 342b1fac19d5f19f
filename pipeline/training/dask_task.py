"""Trains runs in a worker process of a Dask cluster, one run at a time. Torch is imported with the first run."""

import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from distributed import Reschedule, WorkerPlugin, get_worker
from distributed import Worker as DaskWorker
from distributed.core import Status

from kinegraph.pipeline.clusters.wanted_run import RunPlace, WantedRun
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ClusterError
from kinegraph.pipeline.extraction.executors.dask_station import SPEAKING, gpu_of
from kinegraph.pipeline.machine.versions import differing_versions
from kinegraph.stages.errors import UsageError

if TYPE_CHECKING:
    from kinegraph.stages.training.records import EpochRecord

ENDING = {Status.closing, Status.closed, Status.failed}
_alone = threading.Lock()


class IgnoreInterrupts(WorkerPlugin):
    """A plugin for Dask workers that are child processes of the command. The plugin makes the workers ignore Ctrl-C.

    A terminal sends the signal of Ctrl-C to the child processes too, but the command itself ends them.
    """

    name = "kinegraph-ignore-interrupts"

    def setup(self, worker: DaskWorker) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """A task for a Dask worker: one training run."""

    config: Config  # the config, with the cache on which the run is trained
    run: WantedRun  # the run to train
    place: RunPlace  # the place of the run among all runs of the command, for messages
    versions: Mapping[str, str]  # package name -> version. The worker must have the same versions.
    topic: str  # the Dask topic to which the worker reports each epoch
    # True if the workers are child processes of the command, named 0, 1, 2, ... Such a worker uses the CUDA device with
    # its number. False if each worker has devices of its own.
    of_client: bool


def run_task(task: RunTask) -> Exception | None:
    """Trains the run of `task`, or continues it. This is the function of a Dask task.

    Returns None after the training. An error that tells the user what to do is returned and not raised, because Dask
    would print a traceback for a raised error. Raises Reschedule if no client waits for the run any more, or if the
    worker ends.
    """
    worker = get_worker()
    key = str(worker.get_current_task())

    def on_epoch(run: RunPlace, record: "EpochRecord") -> None:
        worker.log_event(task.topic, {"run": asdict(run), "record": asdict(record)})

    with _alone:
        require_wanted(worker, key)
        if differing := differing_versions(task.versions):
            return ClusterError(f"worker {worker.address} has {differing}. Install the same on all machines.")
        import torch

        from kinegraph.pipeline.machine.devices import on_device_of, on_gpu_if_asked
        from kinegraph.pipeline.training.table import train_wanted
        from kinegraph.stages.training.engine import TrainingDiverged

        config = on_device_of(task.config, int(worker.name)) if task.of_client else task.config
        try:
            config = on_gpu_if_asked(config, gpu_of(worker))
        except UsageError as error:
            return error
        torch.set_num_threads(config.run.worker_threads)  # an earlier run may have set another; `train.threads` wins
        try:
            train_wanted(config, task.run, task.place, on_epoch, lambda *_: require_wanted(worker, key))
        except (*SPEAKING, TrainingDiverged) as error:
            return error
        return None


def require_wanted(worker: DaskWorker, key: str) -> None:
    """Raises Reschedule, Dask's exception that ends a task, if no client waits for the task `key` any more or if the
    worker is closing. Training calls this function at each step, because Dask cannot stop a thread.
    """
    task = worker.state.tasks.get(key)
    if task is None or task.state == "cancelled" or worker.status in ENDING:
        raise Reschedule
