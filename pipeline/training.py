"""`kinegraph train` and `evaluate`: heads and seeds over one cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


def train_runs(
    config: Config,
    names: Sequence[str] = (),
    seeds: int = 1,
    *,
    overwrite: bool = False,
    on_epoch: Callable[[str, int, EpochRecord], None] = lambda name, seed, record: None,
    on_run: Callable[[TrainedRun], None] = lambda run: None,
) -> list[TrainedRun]:
    """Train every named head with seeds `train.seed`, `train.seed` + 1, ...

    One run goes to `train.run`, several to `<train.run>/<name>/seed<k>`. Raises ConfigError, CacheError, HeadError,
    RunExists.
    """
    cache = Cache(config.cache)
    chosen = recipes(config, names)
    several = len(chosen) > 1 or seeds > 1
    jobs = []
    for name, options in chosen.items():
        for seed in range(options.seed, options.seed + seeds):
            folder = Path(options.run) / name / f"seed{seed}" if several else Path(options.run)
            if not overwrite:
                require_free(folder)
            jobs.append((name, options.model_copy(update={"seed": seed}), folder))
    return [_train_one(config, cache, name, options, folder, overwrite, on_epoch) for name, options, folder in jobs]


def _train_one(
    config: Config,
    cache: Cache,
    name: str,
    options: TrainOptions,
    folder: Path,
    overwrite: bool,
    on_epoch: Callable[[str, int, EpochRecord], None],
) -> TrainedRun:
    device = pick_device(config.run.device)
    with seeded(options.seed, device):
        head = build_for(cache, options)
    clips = CachedClips(cache, head.reads, options.train_split)
    val_clips = CachedClips(cache, head.reads, options.val_split) if options.val_split else None
    result = train(
        head, clips, val_clips, options, device=device, on_epoch=lambda record: on_epoch(name, options.seed, record)
    )
    metrics = {f"val_{result.metric}": result.best_metric} if result.best_metric is not None else {}
    record = describe_run(head, clips, options, tuple(cache.classes), metrics, cache=str(cache.root))
    save_run(folder, head, record, overwrite=overwrite)
    return TrainedRun(name=name, seed=options.seed, folder=folder, result=result, num_train_clips=len(clips))


def build_for(cache: Cache, options: TrainOptions) -> Head:
    """The head of `options` for the arrays of a cache, with fresh weights."""
    spec = {name: array.shape for name, array in cache.arrays().items()}
    return build_head(options.head, spec, len(cache.classes), **options.options)


def evaluate_run(folder: Path | str, cache: Path | str | None = None, split: str | None = None) -> EvaluationResult:
    """Score a trained run on the test split of its cache, or of another that fits."""
    head, record = load_run(Path(folder))
    opened = Cache(cache or record.cache)
    require_fit(record, {name: array.shape for name, array in opened.arrays().items()}, tuple(opened.classes))
    clips = CachedClips(opened, head.reads, split or record.train.test_split)
    require_same_features(record, clips)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return evaluate(head.to(device), clips, record.train, device=device)
