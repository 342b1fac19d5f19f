"""Runs the work units of an extraction in a SLURM job array. Each task of the array runs `pipeline/slurm_task.py`.

The executor submits the array and waits for its end. The ledger of the cache shows which shards are finished.
"""

import logging
from collections.abc import Sequence

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import video_of
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.slurm.states import USAGE
from kinegraph.pipeline.clusters.slurm.submission import (
    Submission,
    Work,
    cancel_pending,
    logs_of_failed,
    submit,
    under_way,
)
from kinegraph.pipeline.errors import SlurmError
from kinegraph.pipeline.extraction.events import ClipsDone, Preparing, Report, UnitSealed
from kinegraph.pipeline.extraction.executors.contract import Job
from kinegraph.pipeline.extraction.executors.local import LocalExecutor

POLL_SECONDS = 15.0
log = logging.getLogger("kinegraph")


class SlurmExecutor:
    """Runs work units in a SLURM job array of `run.workers` tasks, and waits for the end of the array. A work unit is
    one shard with the stage keys to compute for it.

    If units are left undone, another array is submitted for them. If the array of an earlier command works on some of
    the units, the executor first waits for it. If this command ends early, for example by Ctrl-C, its array goes on in
    SLURM. `run` raises SlurmError if an array finishes no shard, or if one of its tasks exits with a usage error.
    """

    def run(self, job: Job, report: Report) -> None:
        if not job.units:
            _check_weights(job, report)
        left = list(job.units)
        while left:
            earlier = _watched_instead(job, left)
            submission = earlier or _submitted(job, left)
            before, left = left, _watch(submission, job.cache, left, report)
            failure = _failure(submission, len(before) - len(left), len(left)) if left else None
            if failure and earlier:
                log.warning("%s\nAn earlier command submitted it. This command submits another job array", failure)
            elif failure:
                raise SlurmError(f"{failure}\nNo other job array is submitted.")


def _failure(submission: Submission, num_sealed: int, num_left: int) -> str | None:
    """Returns the error message for a job array that has ended, or None if another array may do the units that are
    left. Returns the message if the array sealed no shard, or if a task ended with a usage error.

    `num_sealed` is the number of shards that the array sealed, and `num_left` the number of shards that it left undone.
    """
    state = submission.state()
    mistaken = any(task.exit_code == USAGE for task in state.tasks.values())
    # another array of this command would fail in the same way
    if num_sealed and not mistaken:
        return None
    return (
        f"SLURM job {submission.job_id} ended with {counted(num_sealed, 'shard')} sealed and {num_left:,} left.\n"
        f"{logs_of_failed(submission, state)}"
    )


def _check_weights(job: Job, report: Report) -> None:
    """Loads the networks of `job` in this process, to check their weights. Raises CacheMismatch if the cache was made
    with other weights. Calls `report` with an event for each network.

    The executor calls this function if no shard is left to compute. No job is then submitted to SLURM.
    """
    LocalExecutor(1).run(job, report)


def _submitted(job: Job, units: Sequence[WorkUnit]) -> Submission:
    work = Work(kind="extract", num_tasks=min(job.config.run.workers, len(units)), keys=job.keys, units=tuple(units))
    submission = submit(job.config, work)
    log.info(
        "SLURM job %s: %s for %s, logs in %s. It goes on without this command, see `kinegraph status %s`",
        submission.job_id, counted(submission.num_tasks, "task"), counted(len(units), "shard"), submission.folder,
        job.config.cache,
    )  # fmt: skip
    return submission


def _watched_instead(job: Job, units: Sequence[WorkUnit]) -> Submission | None:
    """Returns the Submission of an earlier command whose job array still works on some of `units`. Returns None if
    there is no such job array.
    """
    asked = {(unit.shard, key) for unit in units for key in unit.keys}
    for submission in under_way(job.cache.storage, "extract"):
        if any((unit.shard, key) in asked for unit in submission.work().units for key in unit.keys):
            log.info(
                "SLURM job %s works on these shards already. Watching it, nothing is submitted (`scancel %s` ends it)",
                submission.job_id, submission.job_id,
            )  # fmt: skip
            return submission
    return None


def _watch(submission: Submission, cache: Cache, units: Sequence[WorkUnit], report: Report) -> list[WorkUnit]:
    """Waits until the job array of `submission` has ended. Returns those of `units` that are not sealed.

    Calls `report` with an event for each unit that is sealed meanwhile.
    """
    left = list(units)
    report(Preparing(doing=f"waiting for SLURM job {submission.job_id}"))
    while True:
        state = submission.watched_state()
        before, left = left, unsealed(cache, left)
        still = {unit.shard for unit in left}
        for unit in before:
            if unit.shard not in still:
                _report_sealed(cache, unit, report)
        if not left:
            cancel_pending(submission)
        if state.is_over or (not left and submission.has_ended(state)):
            return left
        stopping.sleep(POLL_SECONDS)


def unsealed(cache: Cache, units: Sequence[WorkUnit]) -> list[WorkUnit]:
    """Returns those of the work units `units` that still have to be computed.

    A unit is done if each of its stage keys has a ledger record. A unit that retries failed clips is done if each of
    its old records was replaced by a new record.
    """
    sealed = {key: set(cache.ledger.shards(key)) for key in {key for unit in units for key in unit.keys}}
    return [
        unit
        for unit in units
        if any(unit.shard not in sealed[key] for key in unit.keys)
        or any(cache.ledger.read(record.key, unit.shard) == record for record in unit.reopened)
    ]


def _report_sealed(cache: Cache, unit: WorkUnit, report: Report) -> None:
    retried = unit.retried
    clips = [clip for clip in cache.clip_ids(unit.shard) if retried is None or clip in retried]
    records = [cache.ledger.read(key, unit.shard) for key in unit.keys]
    failed = {failure.clip_id for record in records if record for failure in record.failures}
    report(ClipsDone(clips=len(clips), videos=len({video_of(clip) for clip in clips}), waiting="waiting for SLURM"))
    report(UnitSealed(unit=unit, failed_clips=tuple(sorted(failed))))
