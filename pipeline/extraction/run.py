"""Runs `kinegraph extract`: plans the work units, runs them and reports failures. Imports torch only for work."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.ledger import Failure
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.pipeline.caches.changes import reopen_changed, reopen_files
from kinegraph.pipeline.caches.indexed_dataset import adopt_root, check_for_extraction
from kinegraph.pipeline.caches.plan import Plan, make_plan
from kinegraph.pipeline.clusters.walltime import allotment
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.estimate import estimate
from kinegraph.pipeline.extraction.executors.contract import Executor, Job
from kinegraph.pipeline.extraction.executors.inline import InlineExecutor
from kinegraph.pipeline.extraction.executors.local import LocalExecutor
from kinegraph.pipeline.extraction.executors.slurm import SlurmExecutor
from kinegraph.pipeline.extraction.profile import Profile, profile_of
from kinegraph.pipeline.extraction.progress import Progress, clips_of
from kinegraph.pipeline.shards.leases import warn_if_off

log = logging.getLogger("kinegraph")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of an extraction."""

    plan: Plan  # the plan of this run, with the shards and stages that the cache lacked before this run
    failures: tuple[Failure, ...]  # one Failure for each failed clip of the requested shards and stages
    num_clips: int  # the number of clips of the requested shards
    clips_run: int  # the number of clips that this run computed
    # The number of planned work units that other runs finished during this run. A work unit is one shard with its
    # stages.
    units_elsewhere: int
    seconds: float  # the duration of this run


def extract(
    config: Config,
    *,
    stages: Sequence[str] = (),
    part: tuple[int, int] = (0, 1),
    limit: int | None = None,
    retry_failed: bool = False,
    on_profile: Callable[[Profile | None], None] | None = None,
) -> Outcome:
    """Extracts all shards that the cache of `config` lacks. Returns an Outcome, with the number of computed clips and
    the failed clips.

    - `stages`: stage keys, such as "features/i3d", or kinds of stages, such as "features". Default: all stages.
    - `part`: (i, n) computes only every n-th shard, from shard i on, counted from 0.
    - `limit`: computes only the shards that contain the first `limit` rows.
    - `retry_failed`: whether clips that failed in earlier runs are tried again.
    - `on_profile`: a function that is called at the end with the Profile of the finished shards, or with None if no
      shard was finished. It is also called if a signal or an error ends the run.

    Raises CacheNotFound if the data set is not indexed. Raises CacheMismatch if the cache has other options or another
    data set than the config. Raises ConfigError if the config lacks a section, WeightsError if weights cannot be read,
    and UsageError if the disk has no room. Raises SetAsideError, OutOfTimeError or WalltimeError if the executor does.
    """
    begun, allotted = monotonic(), allotment(config.run.command_walltime_seconds)
    cache = Cache(config.cache)
    for sentence in check_for_extraction(config, cache):
        log.warning("%s", sentence)
    cache.storage.sweep()
    adopt_root(config, cache)
    plan = make_plan(config, cache, stages=stages, part=part, limit=limit, retry_failed=retry_failed)
    if plan.changed_videos:
        reopen_changed(config, cache, plan.changed)
        reopen_files(cache, plan.changed_files)
        log.info("videos changed since they were cached. Their shards run again: %s", ", ".join(plan.changed_videos))
    estimate(config, cache, plan).check_fits(cache.root)
    progress = Progress(clips_of(cache, plan.units))
    try:
        if plan.units and part[1] == 1:
            warn_if_off(cache.storage)
        if plan.units or plan.unchecked:
            job = Job(
                config=config, cache=cache, keys=plan.keys_to_run, units=plan.units, allotted=allotted, begun=begun
            )
            executor_of(config).run(job, progress)
    finally:
        progress.close()
        if on_profile is not None:
            _tell_profile(on_profile, config, cache, progress, begun)
    return Outcome(
        plan=plan,
        failures=tuple(failures(cache, plan)),
        num_clips=sum(len(cache.shard_rows(shard)) for shard in plan.shards),
        clips_run=progress.clips,
        units_elsewhere=progress.units_elsewhere,
        seconds=progress.seconds,
    )


def _tell_profile(
    on_profile: Callable[[Profile | None], None], config: Config, cache: Cache, progress: Progress, begun: float
) -> None:
    """Calls `on_profile` with the Profile of this run, or with None if no shard was sealed. `begun` is the time at
    which the run began, by time.monotonic.

    If the ledger cannot be read, logs a warning in place of raising an error, because an earlier error may be on its
    way.
    """
    wall = monotonic() - begun
    try:
        on_profile(profile_of(config, cache, progress.sealed, wall))
    except (CacheError, OSError) as error:
        log.warning("no profile, because the ledger cannot be read: %s", error)


def executor_of(config: Config) -> Executor:
    """Returns a new executor of the kind that the option `run.executor` names."""
    if config.run.executor == "inline":
        return InlineExecutor()
    if config.run.executor == "dask":
        from kinegraph.pipeline.extraction.executors.dask import DaskExecutor  # dask may be missing

        return DaskExecutor()
    if config.run.executor == "slurm":
        return SlurmExecutor()
    return LocalExecutor(config.run.workers)


def failures(cache: Cache, plan: Plan) -> list[Failure]:
    """Returns one Failure for each clip that failed in the shards of `plan`, sorted by clip id. If a clip failed in
    several stages, returns the failure in the first of these stages.
    """
    first_failures: dict[str, Failure] = {}
    for key in plan.keys:
        for record in sealed_records(cache, key, plan.shards):
            for failure in record.failures:
                first_failures.setdefault(failure.clip_id, failure)
    return [first_failures[clip_id] for clip_id in sorted(first_failures)]
