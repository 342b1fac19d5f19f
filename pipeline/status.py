"""`kinegraph status` says how much of a cache is done. It reads the ledger, the leases and SLURM. Torch-free."""

from collections import Counter
from typing import Any

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.sealed_rows import sealed_records
from kinegraph.pipeline.clusters.slurm.states import STATES
from kinegraph.pipeline.clusters.slurm.submission import Submission, submissions
from kinegraph.pipeline.shards.leases import Lease, live_leases
from kinegraph.pipeline.shards.pace import Sealed, clips_per_second

MAX_JOBS = 3  # only the newest: each costs calls to SLURM


def status(cache: Cache) -> dict[str, Any]:
    """Returns the document that `status --json` prints: the state of each stage and of the recent job arrays."""
    leases = list(live_leases(cache.storage))
    return {
        "schema": 1,
        "clips": cache.num_rows,
        "shards": cache.num_shards,
        "stages": {key: _stage_status(cache, key, leases) for key in cache.stage_keys()},
        "jobs": [_job_status(submission) for submission in submissions(cache.storage)[:MAX_JOBS]],
    }


def _job_status(submission: Submission) -> dict[str, Any]:
    """Returns a dict about a job array: its id, kind, time and folder, the number of tasks in each state, and the last
    log lines of each task that failed or is unknown.
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


def _stage_status(cache: Cache, key: str, leases: list[Lease]) -> dict[str, Any]:
    cache.stage(key)  # raises if the document is damaged or of a later version
    reasons: Counter[str] = Counter()
    clips: Counter[str] = Counter({"ok": 0, "warned": 0, "failed": 0})
    shards = num_bytes = 0
    running = {lease.shard for lease in leases if key in lease.keys}
    at_work = {lease.host_name for lease in leases if key in lease.keys}
    seconds: Counter[str] = Counter()
    sealed = []
    for record in sealed_records(cache, key):
        shards += 1
        running.discard(record.shard)
        num_bytes += sum(entry.size for entry in record.objects.values())
        reasons.update(failure.reason for failure in record.failures)
        clips["failed"] += len(record.failures)
        clips["warned"] += len(record.warnings)
        clips["ok"] += record.num_rows - len(record.failures) - len(record.warnings)
        seconds.update(record.seconds)
        sealed.append(Sealed.of(record))
    missing = cache.num_rows - clips.total()
    rate = clips_per_second(sealed, at_work)
    return {
        "shards": {"done": shards, "running": len(running), "missing": cache.num_shards - shards - len(running)},
        "clips": {**clips, "missing": missing},
        "failed": dict(sorted(reasons.items())),
        "bytes": num_bytes,
        "seconds": {kind: round(value, 1) for kind, value in seconds.items()},
        "clips_per_second": None if rate is None else round(rate, 3),
        "seconds_left": None if rate is None else round(missing / rate, 1),
    }
