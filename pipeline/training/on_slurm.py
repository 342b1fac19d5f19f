"""Trains a table of heads and seeds as a SLURM job array, one task per run, for `kinegraph train --executor slurm`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.clusters.slurm.submission import Submission, Work, logs_of_failed, submit, under_way
from kinegraph.pipeline.clusters.wanted_run import WantedRun
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import SlurmError
from kinegraph.pipeline.extraction.executors import slurm
from kinegraph.pipeline.training.one_run import discard
from kinegraph.pipeline.training.table import (
    RunsDiverged,
    TrainedRun,
    checked_runs,
    log_diverged,
    trained_runs,
    untrained,
)
from kinegraph.stages.training.checkpoint import is_trained

log = logging.getLogger("kinegraph")


def train_on_slurm(
    config: Config, names: Sequence[str] = (), seeds: int = 1, *, overwrite: bool = False
) -> list[TrainedRun]:
    """Trains heads in a SLURM job array, one task per run, and waits for its end. Returns one TrainedRun for each run,
    also for runs that were finished before.

    - `names`: names of heads or variants. Default: the head of the config.
    - `seeds`: the number of seeds: `train.seed`, `train.seed` + 1 and so on.
    - `overwrite`: discards existing runs first.

    If the job array of an earlier command trains some of these runs, the function first waits for it.

    Raises RunsDiverged if only diverged runs are not trained, and SlurmError if a run is not trained for another
    reason. Before a job is submitted, raises ConfigError, CacheError or HeadError if a run cannot be trained, and
    RunExists if a finished run had other options or clips than `config`.
    """
    runs = checked_runs(config, names, seeds, overwrite=overwrite)
    logs, diverged = "", dict[Path, str]()
    for submission in under_way(Cache(config.cache).storage, "train"):
        if {run.folder for run in submission.work().runs} & {run.folder for run in runs}:
            log.info("SLURM job %s trains some of these runs. Waiting for it to end", submission.job_id)
            _wait(submission)
    if overwrite:
        for run in runs:
            discard(run.folder)
    missing = untrained(runs)
    if missing:
        submission = submit(config, Work(kind="train", num_tasks=len(missing), runs=tuple(missing)))
        log.info(
            "SLURM job %s trains %s, logs in %s", submission.job_id, counted(len(missing), "run"), submission.folder
        )
        logs, diverged = _wait(submission), _diverged(submission, missing)
    if absent := [str(run.folder) for run in untrained(runs) if run.folder not in diverged]:
        raise SlurmError(
            f"{len(absent)} of {counted(len(runs), 'run')} not trained: {', '.join(absent[:5])}; the same command, "
            f"without --overwrite, trains them.\n{logs}"
        )
    if diverged:
        raise RunsDiverged(trained_runs([run for run in runs if is_trained(run.folder)], missing), [*diverged.values()])
    return trained_runs(runs, missing)


def _wait(submission: Submission) -> str:
    """Waits until all tasks of the job array `submission` have ended. Returns the last log lines of a few tasks that
    failed, as one text.
    """
    while not (state := submission.watched_state()).is_over:
        stopping.sleep(slurm.POLL_SECONDS)
    return logs_of_failed(submission, state)


def _diverged(submission: Submission, runs: Sequence[WantedRun]) -> dict[Path, str]:
    """Returns a dict {folder of a run: "<name> seed <seed>"} of those `runs` whose training diverged in the job array
    `submission`. Logs the error of each of them.
    """
    return {
        run.folder: log_diverged(run, words)
        for index, run in enumerate(runs)
        if (words := submission.divergence(index)) is not None and not is_trained(run.folder)
    }
