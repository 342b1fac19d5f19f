"""Submits a SLURM job array. Writes a folder with the files for its tasks, and a record of the array into the cache.
Torch-free.

The record is the object `slurm/<name>.json` of the cache. The folder holds the config, the work, the script, the logs,
and the completion file that each task writes when it ends.
"""

import datetime
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.documents import parsed, read_document
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.names import ObjectName
from kinegraph.cache_schemas.regular import open_regular, read_regular
from kinegraph.cache_schemas.storage import Storage
from kinegraph.cache_schemas.words import sentence
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.clusters.slurm.script import LOG, array_script
from kinegraph.pipeline.clusters.slurm.states import ArrayState, TaskState, array_state, state_after_exit
from kinegraph.pipeline.clusters.wanted_run import WantedRun
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ProgramMissing, SlurmError
from kinegraph.pipeline.machine.programs import run, tell_once
from kinegraph.stages.errors import UsageError

FOLDER = "slurm"
CONFIG_FILE, WORK_FILE, SCRIPT_FILE, COMPLETION_FILE = "config.yaml", "work.json", "script.sh", "ended-{index}.json"
DIVERGED_FILE = "diverged-{index}.txt"
SUBMIT_SECONDS = 300.0
RECENT = 10  # submissions of a cache that may be under way; each costs calls to SLURM
ADVICE = "It says nothing about sealed shards. Remove it."
TAIL_LINES, TAIL_BYTES = 10, 8192
JOB_ID = re.compile(r"(\d+)(?:;\S+)?")  # as `sbatch --parsable` prints it: `12`, or `12;cluster` on several clusters
MAX_TASKS = 100_000  # of an array; `run.workers` allows a tenth. Reading states looks for one file per task
MAX_SAID = 500  # characters of a site's words in an error

WorkKind = Literal["extract", "train"]
NumTasks = Annotated[int, Field(ge=1, le=MAX_TASKS)]


class Work(BaseModel):
    """The work that the `num_tasks` tasks of a job array share.

    If `kind` is "extract", the tasks compute the work units `units`, and `keys` are the stage keys of these units. A
    work unit is one shard with the stage keys to compute for it. If `kind` is "train", the tasks train the runs in
    `runs`.
    """

    model_config = ConfigDict(frozen=True)

    kind: WorkKind
    num_tasks: NumTasks
    keys: tuple[str, ...] = ()
    units: tuple[WorkUnit, ...] = ()
    runs: tuple[WantedRun, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> "Work":
        """Reads the Work of a job array, which lists the units or the runs of its tasks, from its folder `folder`."""
        return parsed(str(folder / WORK_FILE), read_regular(folder / WORK_FILE), cls)


class Completion(BaseModel):
    """The content of the file that a task writes when it ends. `exit_code` is the exit code of the task."""

    exit_code: int


class Submission(BaseModel):
    """The record of a job array that was submitted to SLURM."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: ObjectName  # the name of the record in the cache
    kind: WorkKind  # "extract" or "train"
    # The job id in SLURM
    job_id: str = Field(pattern=r"^([^-]|$)")  # an option of scancel begins otherwise
    folder: Path  # the folder with the files for the tasks
    num_tasks: NumTasks  # the number of tasks
    submitted_at: str  # the date and time of the submission, in ISO 8601

    @property
    def record_name(self) -> str:
        return f"{FOLDER}/{self.name}.json"

    def work(self) -> Work:
        return Work.read(self.folder)

    def state(self) -> ArrayState:
        """Returns the present states of all tasks of this job array."""
        return array_state(self.job_id, self.num_tasks, self._completion)

    def watched_state(self) -> ArrayState:
        """Returns the present states of all tasks of this job array, for a command that waits for their end.

        Raises ProgramMissing if a task may still run and this machine has no program of SLURM. The command would
        otherwise wait for ever.
        """
        state = self.state()
        if state.missing and not state.is_over:
            raise ProgramMissing(f"SLURM job {self.job_id} may still run: {state.missing}")
        return state

    def has_ended(self, state: ArrayState) -> bool:
        """Returns whether every task has ended. A task has ended if `state` says so, or if its completion file exists.
        SLURM alone may miss the end of a task.
        """
        return state.is_over or all(
            task.is_over or self._completion(index) is not None for index, task in state.tasks.items()
        )

    def tail(self, index: int) -> list[str]:
        """Returns the last lines of the log of the task `index`. Returns [] if there is no log."""
        try:
            with open_regular(self.folder / LOG.format(index=index)) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        except FileNotFoundError:
            return []

    def divergence(self, index: int) -> str | None:
        """Returns the error message of the task `index` if its training run diverged. Returns None otherwise."""
        try:
            return read_regular(self.folder / DIVERGED_FILE.format(index=index)).decode()
        except FileNotFoundError:
            return None

    def _completion(self, index: int) -> TaskState | None:
        try:
            path = self.folder / COMPLETION_FILE.format(index=index)
            return state_after_exit(parsed(str(path), read_regular(path), Completion).exit_code)
        except FileNotFoundError:
            return None


def submissions(storage: Storage) -> list[Submission]:
    """Returns the records of all SLURM job arrays that were submitted for this cache, the newest first."""
    prefix = f"{FOLDER}/"
    names = [name for name in storage.names(FOLDER) if name.count("/") == prefix.count("/") and name.endswith(".json")]
    return [read_document(storage, name, Submission, ADVICE) for name in sorted(names, reverse=True)]


def under_way(storage: Storage, kind: WorkKind) -> Iterator[Submission]:
    """Yields the records of those job arrays of `kind` ("extract" or "train") that have not ended, or whose state is
    unknown.

    Checks only the newest RECENT job arrays of the cache. Raises ProgramMissing if a task may still run and this
    machine has no program of SLURM.
    """
    return (one for one in submissions(storage)[:RECENT] if one.kind == kind and not one.watched_state().is_over)


def submit(config: Config, work: Work) -> Submission:
    """Submits `work` to SLURM as a job array and returns the record of the array.

    Writes the folder with the files for the tasks, calls sbatch, and writes the record into the cache of `config`.
    Raises UsageError if sbatch is missing or refuses the job. Raises SlurmError if sbatch does not answer.
    """
    cache = Cache(config.cache)
    now = datetime.datetime.now(datetime.UTC)
    name = f"{now:%Y%m%d-%H%M%S-%f}"
    folder = _folder_for(config, cache) / name
    script = array_script(
        config.run, folder=folder, working_folder=Path.cwd(), num_tasks=work.num_tasks, python=sys.executable
    )
    files = {CONFIG_FILE: _config_of_tasks(config), WORK_FILE: work.model_dump_json().encode()}
    for file, content in (files | {SCRIPT_FILE: script.encode()}).items():
        if config.run.slurm.folder is None:
            cache.storage.put(f"{FOLDER}/{name}/{file}", [content])  # refuses links that lead out of the cache
        else:
            write_whole(folder / file, [content])
    try:
        job_id = _sbatch(folder / SCRIPT_FILE)
    except UsageError:
        shutil.rmtree(folder)
        stopping.check()
        raise
    submission = Submission(
        name=name,
        kind=work.kind,
        job_id=job_id,
        folder=folder,
        num_tasks=work.num_tasks,
        submitted_at=now.isoformat(timespec="seconds"),
    )
    cache.storage.put(submission.record_name, [submission.model_dump_json(indent=1).encode()])
    return submission


def _config_of_tasks(config: Config) -> bytes:
    """Returns the config for the tasks of the job array as YAML. It is `config`, changed so that each task runs one
    worker.
    """
    document = config.model_dump(mode="json", exclude_unset=True)
    run = config.run
    threads = {"threads": run.worker_threads, "decode_threads": max(1, run.decoders)}
    task_run = {"executor": "local", "workers": 1} | threads
    return yaml.safe_dump(document | {"run": document.get("run", {}) | task_run}, sort_keys=False).encode()


def _folder_for(config: Config, cache: Cache) -> Path:
    if config.run.slurm.folder is not None:
        return Path(config.run.slurm.folder).absolute()
    below_cache = cache.storage.local_path(FOLDER)
    if below_cache is None:
        raise UsageError(
            f"run.slurm.folder: {config.cache} is no folder. Name a folder for scripts and logs that all nodes see."
        )
    return below_cache.absolute()


def _sbatch(script: Path) -> str:
    try:
        done = run("sbatch", "--parsable", str(script), seconds=SUBMIT_SECONDS, to_its_end=True)
    except ProgramMissing as error:
        raise ProgramMissing(
            f"{sentence(error)} Run this on a machine that submits jobs. For another scheduler, start jobs with "
            "`kinegraph extract CONFIG --shards I/N`."
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"sbatch did not answer within {SUBMIT_SECONDS:.0f} s. See with squeue whether it took {script} or not."
        ) from None
    if done.returncode:
        raise UsageError(f"sbatch refused the job (run.slurm): {done.stderr.strip()}")
    return _job_id(done.stdout, script)


def _job_id(output: str, script: Path) -> str:
    """Returns the job id in `output`, the output of sbatch for the batch script `script`. Some sites print more lines
    around the job id.

    Raises SlurmError if the output does not have exactly one job id.
    """
    ids = {match[1] for line in output.splitlines() if (match := JOB_ID.fullmatch(line.strip()))}
    if len(ids) != 1:
        raise SlurmError(
            f"sbatch took {script}. Its output should have one job id, a line of digits, but has {len(ids)}: "
            f"{output.strip()[:MAX_SAID]!r}. The job may wait or run. Find it with squeue and end it with scancel "
            "before you run this command again. Site messages should go to stderr, not to the stdout of sbatch."
        )
    return ids.pop()


def cancel_pending(submission: Submission) -> None:
    """Cancels the tasks of `submission` that have not begun. Call this function when all work is done.

    An error is only logged, because a task that is not cancelled finds nothing to do.
    """
    try:
        run("scancel", "--state=PENDING", submission.job_id, seconds=SUBMIT_SECONDS)
    except (ProgramMissing, subprocess.TimeoutExpired) as error:
        tell_once(
            f"{error}, so tasks of SLURM job {submission.job_id} that have not begun stay in the queue. They will have "
            f"nothing to do. `scancel --state=PENDING {submission.job_id}` removes them."
        )


def logs_of_failed(submission: Submission, state: ArrayState, most: int = 3) -> str:
    """Returns the last log lines of the first `most` tasks that failed, were stopped or have an unknown state, as text
    for an error message.

    `state` has the states of the tasks of the job array `submission`.
    """
    texts = []
    for index, task in state.tasks.items():
        if task.state in ("failed", "stopped", "unknown"):
            tail = submission.tail(index) or ["(no log: do the nodes see this folder?)"]
            path = submission.folder / LOG.format(index=index)
            texts.append("\n".join([f"task {index}: {task.state} {task.detail}, {path} ends with", *tail]))
    return "\n".join(texts[:most])
