"""Checks whether finished runs have the same recipe (training options) and the same clips as new runs. Only such runs
may form one table of results.
"""

from collections.abc import Sequence
from functools import cache as cached
from pathlib import Path
from typing import Any

import xxhash

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.closure import features_fingerprint
from kinegraph.cache_schemas.fingerprint import differences
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.clusters.wanted_run import WantedRun
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.training.results import comparable
from kinegraph.pipeline.training.starting_weights import with_digest
from kinegraph.stages.training.checkpoint import RunExists, is_trained, load_record
from kinegraph.stages.training.clips import clips_identity
from kinegraph.stages.training.epoch_clips import with_views_per_epoch
from kinegraph.stages.training.videos import Samples, samples_of

WAYS_OUT = "choose another folder by train.run, or --overwrite it and all other seeds of its head."


def require_same_recipes(config: Config, wanted: Sequence[WantedRun], *, overwrite: bool) -> None:
    """Raises RunExists if a finished run was trained with other training options or other clips than `config` now has.

    Checks the runs in `wanted`, and the runs with other seeds. For a run in `out/lstm/seed0`, these are the runs in all
    other folders `out/lstm/seed*`. If `overwrite` is True, checks only the runs with other seeds, because the runs in
    `wanted` will be trained again.
    """
    cache = Cache(config.cache)
    readable = cache.readable()

    @cached
    def samples(reads: tuple[str, ...], over: str, max_windows: int | None, split: str) -> Samples:
        return samples_of(CachedClips(cache, reads, split), over, max_windows)

    @cached
    def now(reads: tuple[str, ...], over: str, max_windows: int | None, *splits: str | None) -> dict[str, Any]:
        return trained_on(cache, *(samples(reads, over, max_windows, split) if split else None for split in splits))

    own = {run.folder: run for run in wanted}
    beside = {folder: run for run in wanted for folder in _other_seeds(run) if folder not in own}
    for folder, run in (beside if overwrite else beside | own).items():
        if not is_trained(folder):
            continue
        record, options = load_record(folder), run.options
        if absent := ", ".join(name for name in record.reads if name not in readable):
            raise RunExists(f"{folder} holds a run on {absent}, which {config.cache} does not have: {WAYS_OUT}")
        if folder in beside:
            options = options.model_copy(update={"seed": record.train.seed})
        learning = record.reads, options.over, options.max_windows
        options = with_views_per_epoch(with_digest(options), samples(*learning, options.train_split))
        learnt = now(*learning, options.train_split, options.val_split) if record.trained_on else {}
        features = features_fingerprint(cache, record.reads)
        if record.cache_fingerprint == features_fingerprint(cache, record.reads, before_upgrade=True):
            features = record.cache_fingerprint  # it was trained before the cache was upgraded
        asked = comparable(options, features, learnt)
        if changed := differences(comparable(record.train, record.cache_fingerprint, record.trained_on), asked):
            raise RunExists(f"{folder} holds a run of another recipe or other clips ({'; '.join(changed)}): {WAYS_OUT}")


def _other_seeds(run: WantedRun) -> list[Path]:
    """Returns the existing folders beside the folder of `run` that are named by a seed. For a run in `out/lstm/seed0`,
    these are all folders `out/lstm/seed*`.

    Returns [] if the folder of `run` is not named by its seed.
    """
    return sorted(run.folder.parent.glob("seed*")) if run.folder.name == f"seed{run.options.seed}" else []


def trained_on(cache: Cache, clips: Samples | None, val_clips: Samples | None) -> dict[str, Any]:
    """Returns a dict that identifies the clips and classes of a run, with the keys "train", "val" and "classes".

    "train" and "val" have the counts and a digest of `clips` and `val_clips`, or None if there are no such clips.
    "classes" is a digest of the class names of `cache`.
    """
    splits = {"train": clips, "val": val_clips}
    digests = {name: None if split is None else clips_identity(split) for name, split in splits.items()}
    return digests | {"classes": xxhash.xxh3_64("\n".join(cache.classes).encode()).hexdigest()}
