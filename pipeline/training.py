"""`kinegraph train` and `evaluate`: heads and seeds over one cache."""

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from cache_schemas.cache import Cache
from cache_schemas.reader import CachedClips
from pipeline.config import Config
from pipeline.errors import ConfigError
from stages.device import pick_device
from stages.heads.build import HEADS, build_head
from stages.heads.head import Head
from stages.training.checkpoint import (
    describe_run,
    load_run,
    require_fit,
    require_free,
    require_same_features,
    save_run,
)
from stages.training.engine import EpochRecord, TrainResult, seeded, train
from stages.training.evaluation import EvaluationResult, evaluate
from stages.training.options import TrainOptions

log = logging.getLogger("kinegraph")
OnEpoch = Callable[[str, int, EpochRecord], None]  # name, seed, what happened


def unheard(name: str, seed: int, record: EpochRecord) -> None:
    """For those who do not want to hear of epochs."""


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One head trained with one seed, and where it lies."""

    name: str
    seed: int
    folder: Path
    result: TrainResult
    num_train_clips: int


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


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One training run to do."""

    config: Config
    name: str
    options: TrainOptions
    folder: Path
    overwrite: bool
    on_epoch: OnEpoch


def train_runs(
    config: Config,
    names: Sequence[str] = (),
    seeds: int = 1,
    *,
    overwrite: bool = False,
    on_epoch: OnEpoch = unheard,
    on_run: Callable[[TrainedRun], None] = lambda run: None,
) -> list[TrainedRun]:
    """Train every named head with seeds `train.seed`, `train.seed` + 1, ..., `run.workers` of them at a time.

    One run goes to `train.run`, several to `<train.run>/<name>/seed<k>`. With several workers `on_epoch` is called in
    theirs and must be a function of a module. Raises ConfigError, CacheError, HeadError, RunExists.
    """
    chosen = recipes(config, names)
    several = len(chosen) > 1 or seeds > 1
    jobs = []
    for name, options in chosen.items():
        for seed in range(options.seed, options.seed + seeds):
            folder = Path(options.run) / name / f"seed{seed}" if several else Path(options.run)
            if not overwrite:
                require_free(folder)
            seeded_options = options.model_copy(update={"seed": seed})
            jobs.append(
                _Job(
                    config=config,
                    name=name,
                    options=seeded_options,
                    folder=folder,
                    overwrite=overwrite,
                    on_epoch=on_epoch,
                )
            )
    if not Cache(config.cache).classes:
        raise ConfigError(
            f"{config.cache} has no labels to train on: put the videos into class folders, or name a csv with the "
            "columns path,label,split in dataset.annotations, and run `kinegraph index` again; imported features get "
            "theirs by `kinegraph import ... --annotations CSV`"
        )
    for options in chosen.values():
        build_for(Cache(config.cache), options)  # a head that cannot be built stops all of them before the first
    runs = []
    for run in _in_processes(jobs, config.run.workers) if config.run.workers > 1 and several else map(_train_one, jobs):
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


def _train_one(job: _Job) -> TrainedRun:
    config, options, cache = job.config, job.options, Cache(job.config.cache)
    device = pick_device(config.run.device)
    with seeded(options.seed, device):
        head = build_for(cache, options)
    clips = _clips(cache, head, options.train_split, preload=options.preload)
    val_clips = None
    if options.val_split:
        val_clips = _clips(cache, head, options.val_split, preload=options.preload)
    on_epoch = partial(job.on_epoch, job.name, options.seed)
    result = train(head, clips, val_clips, options, device=device, on_epoch=on_epoch)
    metrics = {f"val_{result.metric}": result.best_metric} if result.best_metric is not None else {}
    record = describe_run(head, clips, options, tuple(cache.classes), metrics, cache=cache.root)
    save_run(job.folder, head, record, overwrite=job.overwrite)
    return TrainedRun(name=job.name, seed=options.seed, folder=job.folder, result=result, num_train_clips=len(clips))


def _clips(cache: Cache, head: Head, split: str, *, preload: bool = False) -> CachedClips:
    """What the head reads of a split; says so where the cache does not have all of it yet."""
    clips = CachedClips(cache, head.reads, split, preload=preload)
    if clips.num_unsealed:
        log.warning(
            "%s is incomplete: %d clips of split %s are not extracted yet and are left out; extract goes on",
            cache.root,
            clips.num_unsealed,
            split,
        )
    return clips


def build_for(cache: Cache, options: TrainOptions) -> Head:
    """The head of `options` for the arrays of a cache, with fresh weights."""
    return build_head(options.head, _spec(cache), len(cache.classes), **options.options)


def _spec(cache: Cache) -> dict[str, tuple[int, ...]]:
    """All that a head can read: array name -> shape of one clip."""
    return {name: array.shape for name, array in cache.readable().items()}


def evaluate_run(folder: Path | str, cache: Path | str | None = None, split: str | None = None) -> EvaluationResult:
    """Score a trained run on the test split of its cache, or of another that fits."""
    head, record = load_run(Path(folder))
    opened = Cache(cache or record.cache)
    require_fit(record, _spec(opened), tuple(opened.classes))
    clips = _clips(opened, head, split or record.train.test_split)
    require_same_features(record, clips)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return evaluate(head.to(device), clips, record.train, device=device)
