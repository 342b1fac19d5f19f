"""A Dask worker's side of training: one run at a time in a process. Torch-free until the first."""

import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from distributed import Reschedule, WorkerPlugin, get_worker
from distributed import Worker as DaskWorker
from distributed.core import Status

from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ClusterError
from kinegraph.pipeline.extraction.executors.dask_station import SPEAKING, gpu_of
from kinegraph.pipeline.machine.versions import differing_versions
from kinegraph.pipeline.wanted_run import RunPlace, WantedRun
from kinegraph.stages.errors import UsageError

if TYPE_CHECKING:
    from kinegraph.stages.training.records import EpochRecord

ENDING = {Status.closing, Status.closed, Status.failed}
_alone = threading.Lock()


class IgnoreInterrupts(WorkerPlugin):
    """For workers that are children of the command: a terminal sends Ctrl-C to them too, but the command ends them."""

    name = "kinegraph-ignore-interrupts"

    def setup(self, worker: DaskWorker) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, kw_only=True)
class RunTask:
    """A run to train, with what a worker has to be; epochs are told to `topic`. `of_client` as of a `Station`."""

    config: Config
    run: WantedRun
    place: RunPlace
    versions: Mapping[str, str]
    topic: str
    of_client: bool


def run_task(task: RunTask) -> Exception | None:
    """A Dask task: train the run, or go on with it. It stops where nobody waits for it any more, or its worker ends.

    Gives errors back as `run_unit` does.
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
        torch.set_num_threads(config.run.worker_threads)  # whatever ran here before; `train.threads` goes beyond it
        try:
            train_wanted(config, task.run, task.place, on_epoch, lambda *_: require_wanted(worker, key))
        except (*SPEAKING, TrainingDiverged) as error:
            return error
        return None


def require_wanted(worker: DaskWorker, key: str) -> None:
    """Raise Reschedule where the client is gone or gave the task up, or the worker ends: nobody stops a thread."""
    known = worker.state.tasks.get(key)
    if known is None or known.state == "cancelled" or worker.status in ENDING:
        raise Reschedule
