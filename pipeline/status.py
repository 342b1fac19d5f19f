"""Computes for `kinegraph status` how much of a cache is done, from the ledger, the leases and SLURM. Torch-free."""

from collections import Counter
from typing import Any

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.kept_summaries import KeptSummaries
from kinegraph.pipeline.caches.summaries import total_seconds
from kinegraph.pipeline.clusters.slurm.states import STATES
from kinegraph.pipeline.clusters.slurm.submission import Submission, submissions
from kinegraph.pipeline.shards.lease import Lease, live_leases
from kinegraph.pipeline.shards.pace import clips_per_second

MAX_JOBS = 3  # only the newest: each costs calls to SLURM


def status(cache: Cache) -> dict[str, Any]:
    """Returns a dict with the state of each stage and of the latest SLURM job arrays, as `status --json` prints it."""
    leases = list(live_leases(cache.storage))
    kept = KeptSummaries(cache)
    stages = {key: _stage_status(cache, key, leases, kept) for key in cache.stage_keys()}
    kept.write()
    return {
        "schema": 1,
        "clips": cache.num_rows,
        "shards": cache.num_shards,
        "stages": stages,
        "jobs": [_job_status(submission) for submission in submissions(cache.storage)[:MAX_JOBS]],
    }


def _job_status(submission: Submission) -> dict[str, Any]:
    """Returns the state of one SLURM job array as a dict: its id, kind, time and folder, the number of tasks in each
    state, and the last log lines of each task that failed or whose state is unknown.
    """
    tasks = submission.state().tasks
    counts = Counter(task.state for task in tasks.values())
    return {
        "job_id": submission.job_id,
        "kind": submission.kind,
        "submitted_at": submission.submitted_at,
        "folder": str(submission.folder),
        "tasks": {state: counts[state] for state in STATES},
        "failed": [
            {"task": index, "state": task.state, "detail": task.detail, "log": submission.tail(index)}
            for index, task in tasks.items()
            if task.state in ("failed", "unknown")
        ],
    }


def _stage_status(cache: Cache, key: str, leases: list[Lease], kept: KeptSummaries) -> dict[str, Any]:
    cache.stage(key)  # raises if the document is damaged or of a later version
    summaries = kept.summaries(key)
    running = {lease.shard for lease in leases if key in lease.keys} - summaries.keys()
    at_work = {lease.host_name for lease in leases if key in lease.keys}
    reasons: Counter[str] = Counter()
    for summary in summaries.values():
        if summary.failed:
            reasons.update(summary.failed)
    num_rows = sum(summary.sealed.rows for summary in summaries.values())
    warned = sum(summary.num_warned for summary in summaries.values())
    missing = cache.num_rows - num_rows
    rate = clips_per_second((summary.sealed for summary in summaries.values()), at_work)
    return {
        "shards": {
            "done": len(summaries),
            "running": len(running),
            "missing": cache.num_shards - len(summaries) - len(running),
        },
        "clips": {
            "ok": num_rows - reasons.total() - warned,
            "warned": warned,
            "failed": reasons.total(),
            "missing": missing,
        },
        "failed": dict(sorted(reasons.items())),
        "bytes": sum(summary.num_bytes for summary in summaries.values()),
        "seconds": {kind: round(value, 1) for kind, value in total_seconds(summaries.values()).items()},
        "clips_per_second": None if rate is None else round(rate, 3),
        "seconds_left": None if rate is None else round(missing / rate, 1),
    }
