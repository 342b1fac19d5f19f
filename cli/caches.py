"""Defines the commands that create, fill and check a cache: `index`, `plan`, `extract`, `status` and `verify`."""

import json
from typing import Annotated

import typer

from kinegraph.cli.exits import EXIT_CLIPS_FAILED, EXIT_FAILED
from kinegraph.cli.options import (
    AsJson,
    CachePath,
    ConfigPath,
    Limit,
    NumWorkers,
    Overrides,
    Part,
    Scheduler,
    SchedulerFile,
    Stages,
    load,
    run_overrides,
)
from kinegraph.cli.printing import caches as printing
from kinegraph.cli.printing.profile import profile as print_profile
from kinegraph.cli.printing.text import counting, note
from kinegraph.stages.errors import UsageError


def index(
    config: ConfigPath,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="End with exit code 1 if videos are missing or unreadable, or differ from published numbers.",
        ),
    ] = False,
    as_json: AsJson = False,
    overrides: Overrides = [],
) -> int:
    """List the videos of a data set and choose the clips. Writes clips.parquet."""
    from kinegraph.pipeline.caches.indexing import index as run

    with counting() as progress:
        result = run(load(config, overrides), progress)
    if as_json:
        print(json.dumps(result.to_json()))
    else:
        printing.indexed(result, strict)
    return EXIT_FAILED if strict and result.differences else 0


def plan(
    config: ConfigPath,
    stage: Stages = [],
    shards: Part = "0/1",
    limit: Limit = None,
    why: Annotated[bool, typer.Option("--why", help="Show which options differ from the cache, old and new.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure time and memory of one work unit in a temporary folder.")
    ] = False,
    as_json: AsJson = False,
    overrides: Overrides = [],
) -> None:
    """Show what extract would do and cost. Writes nothing to the cache."""
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.pipeline.caches import plan as planning
    from kinegraph.pipeline.caches.advice import advice, open_files_advice, random_in_config, random_weights_advice
    from kinegraph.pipeline.caches.indexed_dataset import check_for_extraction
    from kinegraph.pipeline.extraction.estimate import estimate

    settings = load(config, overrides)
    cache = Cache(settings.cache)
    if why:
        differing = planning.why(settings, cache)
        print(json.dumps(differing)) if as_json else printing.differences(differing)
        return
    sentences = [*check_for_extraction(settings, cache), *advice(settings)]
    sentences += [*random_weights_advice(random_in_config(settings, cache)), *open_files_advice(cache)]
    for sentence in sentences:
        note(sentence)
    made = planning.make_plan(settings, cache, stages=stage, part=planning.parse_part(shards), limit=limit)
    cost = estimate(settings, cache, made)
    measured = None
    if calibrate:
        from kinegraph.pipeline.extraction.calibration import calibrate as run_one

        measured = run_one(settings, cache, made)
    if as_json:
        calibration = {"calibration": measured and measured.to_json()} if calibrate else {}
        print(json.dumps(made.to_json() | cost.to_json() | calibration))
    else:
        printing.plan(made, cost)
        if calibrate:
            printing.calibrated(measured)
    cost.check_fits(settings.cache)


def extract(
    config: ConfigPath,
    stage: Stages = [],
    executor: Annotated[str | None, typer.Option(metavar="inline|local|dask|slurm", help="Where to run.")] = None,
    workers: NumWorkers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    shards: Part = "0/1",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run only failed clips, once more.")] = False,
    limit: Limit = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="At the end, show how the time of this run was spent.")
    ] = False,
    overrides: Overrides = [],
) -> int:
    """Decode videos, run the frozen networks and write features to the cache. Resumes where it was stopped."""
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.pipeline.caches.advice import advice, random_in_config, random_weights_advice
    from kinegraph.pipeline.caches.plan import parse_part
    from kinegraph.pipeline.extraction.run import extract as run

    settings = load(config, [*overrides, *run_overrides(executor, workers, scheduler, scheduler_file)])
    for sentence in [*advice(settings), *random_weights_advice(random_in_config(settings, Cache(settings.cache)))]:
        note(sentence)
    outcome = run(
        settings, stages=stage, part=parse_part(shards), limit=limit, retry_failed=retry_failed,
        on_profile=print_profile if profile else None,
    )  # fmt: skip
    printing.extracted(outcome, settings.cache)
    return EXIT_CLIPS_FAILED if outcome.failures else 0


def status(
    cache: CachePath,
    as_json: AsJson = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="List every failure instead: video, clip, stages, reason, message.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="With --failed: print csv.")] = False,
) -> None:
    """Show how much of a cache is done, missing and failed, and the states of its SLURM jobs."""
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.cache_schemas.index_documents import documents_advice
    from kinegraph.pipeline.caches.advice import (
        open_files_advice,
        random_in_cache,
        random_weights_advice,
    )
    from kinegraph.pipeline.status import status as read

    if as_csv and (as_json or not failed):
        raise UsageError("--csv: allowed with --failed, and without --json")
    opened = Cache(cache)
    if failed:
        from kinegraph.cli.printing import failures
        from kinegraph.pipeline.caches.failures import failed_clips

        write = failures.as_csv if as_csv else failures.as_json if as_json else failures.as_text
        write(failed_clips(opened))
        return
    document = read(opened)
    for sentence in documents_advice(opened):
        note(f"warning: {sentence}")
    for sentence in [*random_weights_advice(random_in_cache(opened)), *open_files_advice(opened)]:
        note(sentence)
    if as_json:
        print(json.dumps(document))
    else:
        printing.status(document)


def verify(
    cache: CachePath,
    as_json: AsJson = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mark shards with problems as not done, so that extract computes them again. The exit code stays 1.",
        ),
    ] = False,
    frames: Annotated[
        bool,
        typer.Option(
            "--frames",
            help="Decode all videos instead, and list the clips whose frames this version would choose in another way. "
            "With --repair: upgrade the cache, keep right shards and mark the others as not done.",
        ),
    ] = False,
    drop_unread: Annotated[
        bool,
        typer.Option(
            "--drop-unread",
            help="With --frames --repair: also mark the shards of videos that cannot be read as not done.",
        ),
    ] = False,
) -> int:
    """Check all finished arrays of a cache against the ledger: existence, size, checksum, shape and values."""
    from kinegraph.cache_schemas.cache import Cache
    from kinegraph.pipeline.caches import verification

    if drop_unread and not (frames and repair):
        raise UsageError("--drop-unread: allowed with --frames --repair")
    if frames:
        return _verify_frames(cache, as_json, repair, drop_unread)
    result = verification.verify(cache)
    if repair:
        verification.repair(Cache(cache), result.problems)
    if as_json:
        print(json.dumps(result.to_json()))
    else:
        printing.verified(result, repaired=repair)
    return 0 if result.ok else EXIT_FAILED


def _verify_frames(cache: str, as_json: bool, repair: bool, drop_unread: bool) -> int:
    """Runs `verify --frames`: compares the frames that the cache has with the frames that the latest rules would take
    from the videos. Prints the result, as JSON if `as_json` is true.

    With `repair`, also upgrades the cache to the latest rules. With `drop_unread`, clips whose video cannot be read
    count as clips with other frames.

    Returns the exit code: 0 if the cache was upgraded, or if all videos can be read and no clip has other frames.
    Otherwise returns 1.
    """
    from kinegraph.pipeline.upgrading.upgrade import compare_frames, upgrade

    with counting() as progress:
        if repair:
            report = upgrade(cache, drop_unread=drop_unread, on_progress=progress)
        else:
            report = compare_frames(cache, progress)
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        printing.compared(report, repair)
    return 0 if report.ok else EXIT_FAILED
