"""Runs one task of a SLURM job array: it trains a run, or computes work units of an extraction."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.files import write_whole
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.slurm.submission import COMPLETION_FILE, CONFIG_FILE, DIVERGED_FILE, Work
from kinegraph.pipeline.clusters.walltime import allotment
from kinegraph.pipeline.clusters.wanted_run import places
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.extraction.events import Report, UnitSealedElsewhere
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.local import run_here
from kinegraph.pipeline.extraction.executors.slurm import unsealed
from kinegraph.pipeline.extraction.progress import Progress, clips_of
from kinegraph.pipeline.machine.devices import on_gpu_if_asked


def run_task(folder: Path, index: int, begun: float | None = None, **callbacks: Any) -> None:
    """Runs the task number `index` of a SLURM job array. `folder` has the config and the work of the array. A task may
    run twice, because SLURM repeats a task after a node failed.

    `begun` is the time at which this process began, by time.monotonic, by default now. `callbacks` may contain
    `on_epoch` and `on_step`, which the training calls.
    """
    _completion(folder, index).unlink(missing_ok=True)
    work, config = Work.read(folder), load_config(folder / CONFIG_FILE)
    config = on_gpu_if_asked(config, config.run.slurm.asked_gpu)
    if work.kind == "train":
        _train(config, work, index, folder / DIVERGED_FILE.format(index=index), callbacks)
    else:
        _extract(config, work, index, monotonic() if begun is None else begun)


def tell_completion(folder: Path, index: int, exit_code: int) -> None:
    """Writes the completion file of the task number `index` into `folder`. The file contains the exit code of the task,
    for clusters whose SLURM forgets ended tasks.
    """
    write_whole(_completion(folder, index), [json.dumps({"exit_code": exit_code}).encode()])


def _completion(folder: Path, index: int) -> Path:
    return folder / COMPLETION_FILE.format(index=index)


def _train(config: Config, work: Work, index: int, diverged_file: Path, callbacks: Mapping[str, Any]) -> None:
    """Trains the run number `index` of `work`. `callbacks` may contain `on_epoch` and `on_step`, which the training
    calls.

    If the run diverges, writes the message of the error to `diverged_file` and raises the error.
    """
    from kinegraph.pipeline.training.table import train_wanted
    from kinegraph.stages.training.engine import TrainingDiverged

    diverged_file.unlink(missing_ok=True)
    place = replace(places(work.runs)[index], runs_after=0)  # other tasks train the other runs
    try:
        train_wanted(config, work.runs[index], place, **callbacks)
    except TrainingDiverged as error:
        write_whole(diverged_file, [str(error).encode()])
        raise


def _extract(config: Config, work: Work, index: int, begun: float) -> None:
    """Computes the work units of the task number `index`: every `num_tasks`-th unit of `work`. `begun` is the time at
    which this process began, by time.monotonic.

    If the storage of the cache supports leases, the task then also computes units of other tasks that are neither
    sealed nor leased. So the work is finished even if some tasks never leave the queue.
    """
    cache, allotted = Cache(config.cache), allotment(config.run.walltime_seconds)
    own, *others = parts_from(work.units, index, work.num_tasks)
    own = unsealed(cache, own)
    further = [unit for part in others for unit in reversed(part)]  # their owners begin at the front
    further = unsealed(cache, further) if cache.storage.creates_exclusively() else []
    if not own and not further:
        return
    progress = Progress(clips_of(cache, [*own, *further]))
    job = Job(config=config, cache=cache, keys=work.keys, units=(), allotted=allotted, begun=begun)
    try:
        run_here(job, chain(own, _left_of(further, cache, progress)), progress)
    finally:
        progress.close()


def _left_of(units: Sequence[WorkUnit], cache: Cache, report: Report) -> Iterator[WorkUnit]:
    """Yields those of `units` that are not sealed in `cache`. Calls `report` once for each unit that is sealed."""
    left = unsealed(cache, units)
    still = {unit.shard for unit in left}
    for unit in units:
        if unit.shard not in still:
            report(UnitSealedElsewhere(unit=unit))
    yield from left


def parts_from(units: Sequence[WorkUnit], index: int, num_tasks: int) -> list[Sequence[WorkUnit]]:
    """Divides `units` among `num_tasks` tasks and returns one list of units for each task. The lists have the order of
    the tasks, but begin with the task `index`: `index`, `index` + 1, ..., `num_tasks` - 1, 0, 1, ..., `index` - 1.

    For example, of the units a, b, c, d, e and 2 tasks, task 0 has a, c, e and task 1 has b, d. For `index` 1 the
    result is [[b, d], [a, c, e]].
    """
    return [units[(index + further) % num_tasks :: num_tasks] for further in range(num_tasks)]
