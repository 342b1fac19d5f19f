"""Trains a table of heads and seeds on one cache, for `kinegraph train`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.closure import features_options
from kinegraph.cache_schemas.files import sweep, write_whole
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.clusters.wanted_run import RunPlace, WantedRun, places
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.machine.devices import on_device_of
from kinegraph.pipeline.machine.terminal import clock, log_to_stderr
from kinegraph.pipeline.training.kept_runs import require_same_recipes
from kinegraph.pipeline.training.one_run import (
    OnRunEpoch,
    OnRunStep,
    discard,
    ignore_record,
    lock_folder,
    results_of,
    run_training,
    tell_of_absent_classes,
)
from kinegraph.pipeline.training.recipes import recipes
from kinegraph.pipeline.training.results import RunResults, read_results, write_results
from kinegraph.pipeline.training.samples import opened_samples
from kinegraph.pipeline.training.starting_weights import start_from, with_digest
from kinegraph.pipeline.training.trainable import build_for, require_trainable
from kinegraph.stages.device import pick_device
from kinegraph.stages.heads.own import OwnHead, is_own
from kinegraph.stages.processes import in_processes
from kinegraph.stages.training import together
from kinegraph.stages.training.checkpoint import (
    CODE_FILE,
    describe_run,
    is_trained,
    require_free,
    save_run,
)
from kinegraph.stages.training.engine import TrainingDiverged
from kinegraph.stages.training.epoch_clips import with_views_per_epoch
from kinegraph.stages.training.options import HEAD, TrainOptions
from kinegraph.stages.training.records import EpochRecord
from kinegraph.stages.training.state import remove_state
from kinegraph.stages.training.train import seeded

log = logging.getLogger("kinegraph")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished training run of one head with one seed."""

    folder: Path  # the folder of the run
    results: RunResults  # its scores and other results
    kept: bool = False  # True if the run was finished before this command began. False if this command has trained it.


class RunsDiverged(TrainingDiverged):
    """Raised at the end of `kinegraph train` if some runs diverged. `finished` has the runs that did not diverge."""

    def __init__(self, finished: Sequence[TrainedRun], diverged: Sequence[str]) -> None:
        runs = counted(len(finished) + len(diverged), "run")
        super().__init__(f"{len(diverged)} of {runs} diverged: {', '.join(diverged)}.")
        self.finished = finished


@dataclass(frozen=True)
class _RunToTrain:
    """One run that is to be trained on the cache of `config`."""

    config: Config
    wanted: WantedRun  # the head, options, seed and folder of the run
    place: RunPlace  # the place of the run among all runs of the command, for messages
    # `on_epoch`, `on_step`: functions that are called with `place` and the record of each epoch or step
    on_epoch: OnRunEpoch
    on_step: OnRunStep

    @property
    def name(self) -> str:
        return self.wanted.name

    @property
    def options(self) -> TrainOptions:
        return self.wanted.options

    @property
    def folder(self) -> Path:
        return self.wanted.folder


def train_runs(
    config: Config,
    names: Sequence[str] = (),
    seeds: int = 1,
    *,
    overwrite: bool = False,
    on_epoch: OnRunEpoch = ignore_record,
    on_step: OnRunStep = ignore_record,
    on_run: Callable[[TrainedRun], None] = lambda run: None,
) -> list[TrainedRun]:
    """Trains heads on the cache of `config`, with several seeds, on this machine. Returns one TrainedRun for each head
    and seed, also for runs that were finished before.

    - `names`: names of heads or variants. Default: the head of the config.
    - `seeds`: the number of seeds: `train.seed`, `train.seed` + 1 and so on.
    - `overwrite`: discards all existing runs first.
    - `on_epoch`, `on_step`: are called with the run and the record of each epoch or step. They must be picklable if
      `run.workers` is above 1.
    - `on_run`: is called in this process with each finished run.

    The folder of a single run is `train.run`. The folders of several runs are `<train.run>/<name>/seed<k>`. A run that
    was stopped continues from its last saved state.

    Raises ConfigError, CacheError or HeadError if a run cannot be trained. Raises StateError if a saved state cannot be
    used. Raises RunExists if all runs were finished before, or if a finished run had other options or clips than
    `config`. Raises RunsDiverged at the end if runs diverged.
    """
    wanted = wanted_runs(config, names, seeds)
    if not overwrite and all(is_trained(run.folder) for run in wanted):
        require_free(wanted[0].folder)
    require_same_recipes(config, wanted, overwrite=overwrite)
    if together.num_processes() > 1 and config.run.workers > 1:
        raise ConfigError(f"run.workers: given {config.run.workers}, allowed under torchrun: 1")
    num_parameters = require_trainable(config, wanted, overwrite=overwrite)
    enough = config.run.model_copy(update={"workers": min(config.run.workers, len(wanted))})
    config = config.model_copy(update={"run": enough})  # workers without a run get no share of the cores
    trained = [] if overwrite else [run for run in wanted if is_trained(run.folder)]
    in_turn = longest_first(wanted, num_parameters) if config.run.workers > 1 else wanted
    located = zip(in_turn, places(in_turn, trained, config.run.workers), strict=True)
    jobs = [_RunToTrain(config, run, place, on_epoch=on_epoch, on_step=on_step) for run, place in located]
    with together.connected_processes(pick_device(config.run.device)):
        together.barrier()
        if overwrite and together.rank() == 0:
            for run in wanted:  # before any run is trained: after a stop, every run on disk has this recipe
                with lock_folder(run.folder):
                    discard(run.folder)
        together.barrier()
        return _all(jobs, config.run.workers, on_run, [run.folder for run in wanted])


def longest_first(runs: Sequence[WantedRun], num_parameters: Mapping[str, int]) -> list[WantedRun]:
    """Returns `runs` sorted by their estimated training time, the longest first. The estimate is the number of
    parameters of the head times the number of epochs or iterations.

    `num_parameters` maps the name of a run to the number of parameters of its head.
    """
    lengths = {run.name: run.options.iterations or run.options.epochs for run in runs}
    return sorted(runs, key=lambda run: num_parameters[run.name] * lengths[run.name], reverse=True)


def log_epoch(run: RunPlace, record: EpochRecord) -> None:
    """Logs the loss of an epoch and the estimated time for the remaining epochs of `run`. `record` has the results of
    the epoch.
    """
    left = clock(record.seconds * (run.num_epochs - record.epoch))
    log.info("%s, epoch %d of %d: loss %.4f, %s left", run.title, record.epoch, run.num_epochs, record.loss, left)


def train_wanted(
    config: Config,
    wanted: WantedRun,
    place: RunPlace | None = None,
    on_epoch: OnRunEpoch = log_epoch,
    on_step: OnRunStep = ignore_record,
) -> None:
    """Trains the run `wanted` on the cache of `config`. Does nothing if the run is finished. A run that was stopped
    continues from its last saved state.

    `place` is the place of the run among all runs of the command, for messages. `on_epoch` and `on_step` are called
    with `place` and the record of each epoch or step.
    """
    device = pick_device(config.run.device)
    with together.connected_processes(device):
        together.barrier()
        _train_one(_RunToTrain(config, wanted, place or places([wanted])[0], on_epoch=on_epoch, on_step=on_step))


def checked_runs(config: Config, names: Sequence[str], seeds: int, *, overwrite: bool) -> list[WantedRun]:
    """Checks whether the heads in `names` can be trained with `seeds` seeds, before runs are sent to a cluster. Returns
    one WantedRun for each head and seed.

    Raises ConfigError, CacheError or HeadError if a run cannot be trained. If `overwrite` is false, raises RunExists if
    a finished run had other options or clips than `config`.
    """
    runs = wanted_runs(config, names, seeds)
    require_trainable(config, runs, overwrite=overwrite)
    require_same_recipes(config, runs, overwrite=overwrite)
    return runs


def untrained(runs: Sequence[WantedRun]) -> list[WantedRun]:
    """Returns those of `runs` whose training is not finished."""
    return [run for run in runs if not is_trained(run.folder)]


def trained_runs(runs: Sequence[WantedRun], trained_now: Sequence[WantedRun]) -> list[TrainedRun]:
    """Returns a TrainedRun (the folder and the results) for each of `runs`, which must all be finished. The field
    `kept` is False for a run in `trained_now`, and True for a run that was finished before.
    """
    return [
        TrainedRun(folder=run.folder, results=read_results(run.folder), kept=run not in trained_now) for run in runs
    ]


def wanted_runs(config: Config, names: Sequence[str], seeds: int) -> list[WantedRun]:
    """Returns one WantedRun for each head in `names` and each of `seeds` seeds: `train.seed`, `train.seed` + 1 and so
    on. If `names` is empty, the head of `config` is taken.

    Raises ConfigError for a name that is neither a variant nor a head. Raises HeadError for a user's own head that
    cannot be read.
    """
    chosen = recipes(config, names)
    several = len(chosen) > 1 or seeds > 1
    own = {name: OwnHead.read(options.head) for name, options in chosen.items() if is_own(options.head)}
    for head in own.values():
        head.head_class()  # its errors name the file where it lies, which recipes do not
    return [
        WantedRun(
            name=name,
            options=options.model_copy(
                update={"seed": seed, "run": options.run.replace(HEAD, name)}
                | ({"head": str(own[name])} if name in own else {})
            ),
            folder=_folder(options.run, name, seed if several else None),
            code=own[name].code if name in own else None,
        )
        for name, options in chosen.items()
        for seed in range(options.seed, options.seed + seeds)
    ]


def _folder(run: str, name: str, seed: int | None) -> Path:
    """Returns the folder of a run: `<run>/<name>/seed<seed>`, for example `out/lstm/seed0`. `run` is the value of
    `train.run`, and `name` is the name of the head.

    If `run` contains "<head>", the name is put there in place of a folder. If `seed` is None, the command trains only
    one run, and the folder is `run` itself.
    """
    place = Path(run.replace(HEAD, name))
    if seed is None:
        return place
    return (place if HEAD in run else place / name) / f"seed{seed}"


def _all(
    jobs: list[_RunToTrain], workers: int, on_run: Callable[[TrainedRun], None], folders: list[Path]
) -> list[TrainedRun]:
    """Trains `jobs` in `workers` processes and returns their runs, in the order of their folders in `folders`. Calls
    `on_run` with each finished run. Raises RunsDiverged if runs diverged.
    """
    finished: dict[Path, TrainedRun] = {}
    diverged = []
    tried = in_processes(_tried_by, jobs, workers) if workers > 1 else map(_tried, jobs)
    for job, run in zip(jobs, tried, strict=True):
        if isinstance(run, TrainingDiverged):
            diverged.append(log_diverged(job.wanted, run))
        else:
            finished[job.folder] = run
            on_run(run)
    runs = [finished[folder] for folder in folders if folder in finished]
    if diverged:
        raise RunsDiverged(runs, diverged)
    return runs


def log_diverged(run: WantedRun, how: TrainingDiverged | str) -> str:
    """Logs the error that `run` diverged. `how` is the TrainingDiverged error or its message. Returns the name of the
    run for an error message: "<name> seed <seed>".
    """
    name = f"{run.name} seed {run.options.seed}"
    log.error("%s diverged. %s", name, how)
    return name


def _tried(job: _RunToTrain) -> TrainedRun | TrainingDiverged:
    """Trains one run and returns it. Returns the error if the training diverged, so that the other runs go on."""
    try:
        with lock_folder(job.folder):
            return _train_one(job)
    except TrainingDiverged as error:
        return error


def _tried_by(worker_index: int, job: _RunToTrain) -> TrainedRun | TrainingDiverged:
    """Trains one run in the worker process number `worker_index` and returns it. The number decides which GPU the
    process uses. Returns the error if the training diverged.
    """
    log_to_stderr()
    torch.set_num_threads(job.config.run.worker_threads)
    return _tried(replace(job, config=on_device_of(job.config, worker_index)))


def _train_one(job: _RunToTrain) -> TrainedRun:
    if is_trained(job.folder):
        return TrainedRun(folder=job.folder, results=read_results(job.folder), kept=True)
    if together.rank() == 0:
        sweep(job.folder)
        if job.wanted.code is not None:
            write_whole(job.folder / CODE_FILE, [job.wanted.code.encode()])
    together.barrier()
    config, options, cache = job.config, job.options, Cache(job.config.cache)
    device = together.own_device(pick_device(config.run.device))
    with seeded(options.seed, device):
        head = build_for(cache, options, job.wanted.code)
    if options.start_from is not None:
        start_from(head, Path(options.start_from), cache)
        options = with_digest(options)
    clips = opened_samples(cache, head, options.train_split, options, preload=options.preload)
    options = with_views_per_epoch(options, clips)
    val_clips = None
    if options.val_split:
        val_clips = opened_samples(cache, head, options.val_split, options, preload=options.preload)
        tell_of_absent_classes(val_clips, options.val_split)
    place, on_step = job.place, job.on_step
    result = run_training(
        job.folder, head, clips, val_clips, options, device, place, on_epoch=job.on_epoch, on_step=on_step
    )
    results = results_of(job.name, options, result, clips, val_clips, device)
    if together.rank() == 0:
        write_results(job.folder, results)
        record = describe_run(
            head, clips, options, tuple(cache.classes), result.kept_metrics, cache=cache.location,
            features=features_options(cache, head.reads), trained_on=results.trained_on,
            recipe=job.config.document(), classes_from=cache.classes_from,
        )  # fmt: skip
        save_run(job.folder, head, record)
        remove_state(job.folder)
    return TrainedRun(folder=job.folder, results=results)
