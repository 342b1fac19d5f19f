"""`kinegraph train`: heads and seeds over one cache."""

import logging
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from cache_schemas.cache import Cache
from cache_schemas.files import remove_durably, sweep
from cache_schemas.fingerprint import differences
from cache_schemas.reader import CachedClips, features_fingerprint
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.results import RESULTS_FILE, RunResults, read_results, write_results
from pipeline.tails import require_whole_maps, with_tail_of
from pipeline.versions import versions
from pipeline.wanted_run import WantedRun
from stages.device import pick_device
from stages.heads.build import HEADS, build_head
from stages.heads.head import Head
from stages.training import together
from stages.training.checkpoint import (
    RECORD_FILE,
    RunExists,
    describe_run,
    is_trained,
    load_record,
    require_free,
    save_run,
)
from stages.training.engine import seeded, train
from stages.training.options import TrainOptions
from stages.training.records import EpochRecord, StepRecord, TrainResult
from stages.training.state import FREE, STATE_FILE, remove_state
from stages.training.tensorboard import scalar_log

LOG_FOLDER = "tensorboard"
log = logging.getLogger("kinegraph")
OnEpoch = Callable[[str, int, EpochRecord], None]  # name, seed, what happened
OnStep = Callable[[str, int, StepRecord], None]


def unheard(name: str, seed: int, record: EpochRecord | StepRecord) -> None:
    """For those who do not want to hear of epochs."""


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One head trained with one seed, and where it lies; `kept`: it was finished before."""

    folder: Path
    results: RunResults
    kept: bool = False


def recipes(config: Config, names: Sequence[str]) -> dict[str, TrainOptions]:
    """Training options by name: variants of the config, or heads with their default options.

    Raises ConfigError for a name that is neither.
    """
    found = {}
    for name in names or [config.train.head]:
        if name in config.train.variants:
            found[name] = config.train.variant(name)
        elif name == config.train.head:
            found[name] = config.train.recipe
        elif name in HEADS:
            found[name] = config.train.recipe.model_copy(update={"head": name, "options": {}})
        else:
            known = ", ".join([*config.train.variants, *HEADS])
            raise ConfigError(f"--head {name}: neither a variant of the config nor a head; there are: {known}")
    return found


@dataclass(frozen=True)
class _Job:
    """One training run to do."""

    config: Config
    wanted: WantedRun
    overwrite: bool
    on_epoch: OnEpoch
    on_step: OnStep

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
    on_epoch: OnEpoch = unheard,
    on_step: OnStep = unheard,
    on_run: Callable[[TrainedRun], None] = lambda run: None,
) -> list[TrainedRun]:
    """Train every named head with seeds `train.seed`, `train.seed` + 1, ..., `run.workers` of them at a time.

    One run goes to `train.run`, several to `<train.run>/<name>/seed<k>`. A run that was cut off goes on; of a table
    that was cut off the finished runs are kept. With several workers `on_epoch` and `on_step` are called in theirs and
    must be pickled. Raises ConfigError, CacheError, HeadError, StateError; RunExists where all runs are
    finished, or one of them otherwise than asked for now.
    """
    wanted = wanted_runs(config, names, seeds)
    if not overwrite:
        if all(is_trained(run.folder) for run in wanted):
            require_free(wanted[0].folder)
        require_same_recipes(config, wanted)
    if together.num_processes() > 1 and config.run.workers > 1:
        raise ConfigError(f"run.workers: given {config.run.workers}, allowed under torchrun: 1")
    require_trainable(config, wanted)
    jobs = [_Job(config, run, overwrite=overwrite, on_epoch=on_epoch, on_step=on_step) for run in wanted]
    with together.acquainted(pick_device(config.run.device)):
        together.meet()
        return _all(jobs, config.run.workers, on_run)


def log_epoch(name: str, seed: int, record: EpochRecord) -> None:
    log.info("%s seed %d epoch %d: loss %.4f", name, seed, record.epoch, record.loss)


def train_wanted(config: Config, wanted: WantedRun, on_epoch: OnEpoch = log_epoch, on_step: OnStep = unheard) -> None:
    """Train one run, unless it is there; on a cluster, a task that was cut off goes on."""
    device = pick_device(config.run.device)
    with together.acquainted(device):
        together.meet()
        _train_one(_Job(config, wanted, overwrite=False, on_epoch=on_epoch, on_step=on_step))


def checked_runs(config: Config, names: Sequence[str], seeds: int, *, overwrite: bool) -> list[WantedRun]:
    """The runs of a table that a cluster is to train; raises what `train_runs` does, but for runs that are finished."""
    runs = wanted_runs(config, names, seeds)
    require_trainable(config, runs)
    if not overwrite:
        require_same_recipes(config, runs)
    return runs


def untrained(runs: Sequence[WantedRun]) -> list[WantedRun]:
    return [run for run in runs if not is_trained(run.folder)]


def trained_runs(runs: Sequence[WantedRun], trained_now: Sequence[WantedRun]) -> list[TrainedRun]:
    """Read the results of runs that are all finished, by a cluster or before."""
    return [
        TrainedRun(folder=run.folder, results=read_results(run.folder), kept=run not in trained_now) for run in runs
    ]


def wanted_runs(config: Config, names: Sequence[str], seeds: int) -> list[WantedRun]:
    """Every named head with seeds `train.seed`, `train.seed` + 1, ... Raises ConfigError."""
    chosen = recipes(config, names)
    several = len(chosen) > 1 or seeds > 1
    return [
        WantedRun(
            name=name,
            options=options.model_copy(update={"seed": seed}),
            folder=Path(options.run) / name / f"seed{seed}" if several else Path(options.run),
        )
        for name, options in chosen.items()
        for seed in range(options.seed, options.seed + seeds)
    ]


def require_trainable(config: Config, wanted: Sequence[WantedRun]) -> None:
    """What cannot be built stops all runs before the first. Raises ConfigError, CacheError, HeadError."""
    if not Cache(config.cache).classes:
        raise ConfigError(
            f"{config.cache} has no labels to train on: put the videos into class folders, or name a csv with the "
            "columns path,label,split in dataset.annotations, and run `kinegraph index` again; imported features get "
            "theirs by `kinegraph import ... --annotations CSV`"
        )
    for options in {run.name: run.options for run in wanted}.values():
        build_for(Cache(config.cache), options)


def _all(jobs: list[_Job], workers: int, on_run: Callable[[TrainedRun], None]) -> list[TrainedRun]:
    runs = []
    for run in _in_processes(jobs, workers) if workers > 1 and len(jobs) > 1 else map(_train_one, jobs):
        runs.append(run)
        on_run(run)
    return runs


def _in_processes(jobs: list[_Job], workers: int) -> Iterator[TrainedRun]:
    """The runs in order, trained in processes of their own; leaves none behind, however it is left."""
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(_train_one, jobs)
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def require_same_recipes(config: Config, wanted: Sequence[WantedRun]) -> None:
    """Raises RunExists where a finished run is not what is asked for."""
    cache = Cache(config.cache)
    for job in (run for run in wanted if is_trained(run.folder)):
        record = load_record(job.folder)
        features = features_fingerprint(cache, record.reads)
        asked = job.options.model_dump(mode="json", exclude=FREE) | {"features": features}
        had = record.train.model_dump(mode="json", exclude=FREE) | {"features": record.cache_fingerprint}
        if changed := differences(had, asked):
            raise RunExists(
                f"{job.folder} holds a run of another recipe ({'; '.join(changed)}): choose another folder by "
                "train.run, or --overwrite all of them."
            )


def _train_one(job: _Job) -> TrainedRun:
    if is_trained(job.folder) and not job.overwrite:
        return TrainedRun(folder=job.folder, results=read_results(job.folder), kept=True)
    if together.rank() == 0:
        sweep(job.folder)
        if job.overwrite:
            discard(job.folder)
    together.meet()
    config, options, cache = job.config, job.options, Cache(job.config.cache)
    device = together.own_device(pick_device(config.run.device))
    with seeded(options.seed, device):
        head = build_for(cache, options)
    clips = opened_clips(cache, head, options.train_split, preload=options.preload)
    val_clips = None
    if options.val_split:
        val_clips = opened_clips(cache, head, options.val_split, preload=options.preload)
    logs = options.tensorboard and together.rank() == 0
    with scalar_log(job.folder / LOG_FOLDER) if logs else nullcontext(unlogged) as log_scalars:

        def on_epoch(record: EpochRecord) -> None:
            log_scalars(record)
            job.on_epoch(job.name, options.seed, record)

        result = train(
            head, clips, val_clips, options, device=device, on_epoch=on_epoch,
            on_step=partial(job.on_step, job.name, options.seed), state_file=job.folder / STATE_FILE,
        )  # fmt: skip
    results = _results(job, result, clips, device)
    if together.rank() == 0:
        metrics = {f"val_{result.metric}": result.best_metric} if result.best_metric is not None else {}
        write_results(job.folder, results)
        save_run(job.folder, head, describe_run(head, clips, options, tuple(cache.classes), metrics, cache=cache.root))
        remove_state(job.folder)
    return TrainedRun(folder=job.folder, results=results)


def unlogged(record: EpochRecord) -> None:
    """In place of a log."""


def discard(folder: Path) -> None:
    """Remove a run, finished or not; its record goes first."""
    for name in (RECORD_FILE, RESULTS_FILE, STATE_FILE):
        remove_durably(folder / name)
    shutil.rmtree(folder / LOG_FOLDER, ignore_errors=True)


def _results(job: _Job, result: TrainResult, clips: CachedClips, device: torch.device) -> RunResults:
    options, on_cuda = job.options, device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else "cpu"
    threads = options.threads or torch.get_num_threads()
    validated = {str(options.val_split): result.history[result.best_epoch - 1].metrics} if result.metric else {}
    return RunResults(
        name=job.name,
        seed=options.seed,
        cache=str(clips.cache.root),
        cache_fingerprint=clips.cache_fingerprint,
        recipe=options.model_dump(mode="json"),
        environment=versions() | {"device": name, "threads": str(threads)},
        num_parameters=result.num_parameters,
        num_train_clips=len(clips),
        num_failed_videos=len(clips.failed_videos),
        metric=result.metric,
        best_epoch=result.best_epoch,
        seconds=result.seconds,
        history=[asdict(record) for record in result.history],
        scores=validated,
    )


def opened_clips(cache: Cache, head: Head, split: str, *, preload: bool = False) -> CachedClips:
    """What the head reads of a split; says what of it is missing or failed."""
    clips = CachedClips(cache, head.reads, split, preload=preload)
    if clips.num_unsealed:
        log.warning(
            "%s is incomplete: %d clips of split %s are not extracted yet and are left out; extract goes on",
            cache.root,
            clips.num_unsealed,
            split,
        )
    if clips.failed_videos:
        log.warning(
            "%d videos of split %s have no ok clip: training leaves them out, scores count them",
            len(clips.failed_videos),
            split,
        )
    return clips


def build_for(cache: Cache, options: TrainOptions) -> Head:
    """The head of `options` for the arrays of a cache, with fresh weights; a tail has those of its backbone entry.

    Raises HeadError for what the cache does not give.
    """
    spec = spec_of(cache)
    head = build_head(options.head, spec, len(cache.classes), **with_tail_of(cache, spec, options.options))
    require_whole_maps(cache, head)
    return head


def spec_of(cache: Cache) -> dict[str, tuple[int, ...]]:
    """All that a head can read: array name -> shape of one clip."""
    return {name: array.shape for name, array in cache.readable().items()}
