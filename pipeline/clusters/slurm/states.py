"""Finds the state of each task of a job array.

The sources are sacct, squeue, scontrol and completion files, in this order. A completion file is a file that a task of
kinegraph writes when it ends. A later source is asked for the tasks that the earlier sources do not know. A task that
no source knows is `unknown`, and `unknown` never counts as done.
"""

import re
import subprocess
import sys
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from kinegraph.pipeline.errors import ProgramMissing
from kinegraph.pipeline.machine.programs import run, tell_once

StateWord = Literal["pending", "running", "done", "stopped", "failed", "unknown"]
STATES: tuple[StateWord, ...] = ("pending", "running", "done", "stopped", "failed", "unknown")
ASK_SECONDS = 60.0
USAGE = 2  # exit code of an error that the user has to mend
STOPS = {75, 130, 143}  # exit codes of a clean stop with work left: out of time, SIGINT, SIGTERM
PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"CONFIGURING", "COMPLETING", "RUNNING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}
FAILED = {
    "BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "RECONFIG_FAIL", "REVOKED", "TIMEOUT",
}  # fmt: skip
INDEXES = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")

Said = Iterable[tuple[int, "TaskState"]]


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """The state of one task of a SLURM job array. `state` is "pending", "running", "done", "stopped", "failed" or
    "unknown".

    `detail` is the word with which SLURM names the state, or `exit code <n>` if the task ended by itself with an error.
    `exit_code` is 0 if none is known.
    """

    state: StateWord
    detail: str = ""
    exit_code: int = 0

    @property
    def is_over(self) -> bool:
        return self.state not in ("pending", "running")


@dataclass(frozen=True, kw_only=True)
class ArrayState:
    """The states of all tasks of a SLURM job array. `tasks` maps the index of a task to its state.

    `answered` is False if SLURM did not answer. A task of unknown state may then still run. `missing` is "", or a
    sentence for the user that states are unknown because no program of SLURM is on this machine.
    """

    tasks: dict[int, TaskState]
    answered: bool
    missing: str = ""

    @property
    def is_over(self) -> bool:
        """Returns whether every task has ended. A task of unknown state counts as ended only if SLURM answered."""
        return all(task.is_over and (self.answered or task.state != "unknown") for task in self.tasks.values())


def state_of(word: str, exit_code: int) -> TaskState:
    """Returns the TaskState of a task. `word` is SLURM's word for the state (`COMPLETED`), and `exit_code` is the exit
    code of the task.
    """
    first = (word.split() or [""])[0].rstrip("+")  # `CANCELLED by 1000`, `CANCELLED+`
    if first == "COMPLETED":
        return TaskState(state="done")
    if first == "FAILED":
        return exited(exit_code) if exit_code else TaskState(state="failed", detail=first)
    if first in FAILED:
        return TaskState(state="failed", detail=first)
    if first in PENDING:
        return TaskState(state="pending", detail=first)
    return TaskState(state="running" if first in RUNNING else "unknown", detail=first)


def exited(exit_code: int) -> TaskState:
    """Returns the TaskState of a task that ended by itself with `exit_code`. It is "done" for 0, and "stopped" for the
    codes of a clean stop with work left. For all other codes it is "failed".
    """
    if exit_code == 0:
        return TaskState(state="done")
    state: StateWord = "stopped" if exit_code in STOPS else "failed"
    return TaskState(state=state, detail=f"exit code {exit_code}", exit_code=exit_code)


def array_state(job_id: str, num_tasks: int, completion: Callable[[int], TaskState | None]) -> ArrayState:
    """Returns an ArrayState, the states of tasks 0 to `num_tasks` - 1 of the SLURM job `job_id`.

    The programs sacct, squeue and scontrol are asked in this order, until the states of all tasks are known. SLURM may
    forget tasks or miss their end. So each task also writes a file at its end, and `completion` returns the state in
    this file, or None if there is no file.

    The file counts if no program knows the task. If a program says `pending` or `running`, the file counts only if it
    says success or if the task has left the queue.
    """
    queued = cache(lambda: _queued(job_id))
    tasks: dict[int, TaskState] = {}
    answered, missing, sources = False, list[str](), (_sacct, _squeue, _scontrol)
    for source in sources:
        if len(tasks) == num_tasks:
            break
        try:
            said = source(job_id)
        except ProgramMissing as error:
            missing.append(str(error))
            said = None
        answered = said is not None
        for index, state in said or ():
            if index < num_tasks and state.state != "unknown":
                tasks.setdefault(index, state)
    for index in range(num_tasks):
        if index in tasks and tasks[index].is_over:
            continue
        ended = completion(index)
        if index not in tasks:
            tasks[index] = ended or TaskState(state="unknown")
        elif ended is not None and (ended.state == "done" or index not in queued()):
            tasks[index] = ended
    told = ""
    if len(missing) == len(sources) and any(task.state == "unknown" for task in tasks.values()):
        told = f"{', '.join(missing)}, so the states of jobs are unknown. Run this on a machine that submits jobs."
        tell_once(told)
    return ArrayState(tasks=tasks, answered=answered, missing=told)


def _sacct(job_id: str) -> Said | None:
    said = ask("sacct", "-X", "-n", "-P", "-j", job_id, "-o", "JobID,State,ExitCode")
    return None if said is None else list(_rows(said, job_id))


def _squeue(job_id: str) -> Said | None:
    said = ask("squeue", "-h", "-r", "-j", job_id, "-o", "%i|%T|0:0")
    return None if said is None else list(_rows(said, job_id))


def _queued(job_id: str) -> Container[int]:
    """Returns the index in the array of each task of the job array `job_id` that is in SLURM's queue. If SLURM does not
    answer, the result contains every index.
    """
    try:
        said = _squeue(job_id)
    except ProgramMissing:
        said = None
    return range(sys.maxsize) if said is None else {index for index, _ in said}


def _rows(said: str, job_id: str) -> Iterator[tuple[int, TaskState]]:
    for line in said.splitlines():
        task, _, rest = line.strip().partition("|")
        word, _, code = rest.partition("|")
        job, _, indexes = task.partition("_")
        if job == job_id:
            for index in indexes_in(indexes):
                yield index, state_of(word, _code(code))


def _scontrol(job_id: str) -> Said | None:
    said = ask("scontrol", "--oneliner", "show", "job", job_id)
    return None if said is None else list(_blocks(said))


def _blocks(said: str) -> Iterator[tuple[int, TaskState]]:
    for line in said.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        for index in indexes_in(fields.get("ArrayTaskId", "")):
            yield index, state_of(fields.get("JobState", ""), _code(fields.get("ExitCode", "")))


def indexes_in(text: str) -> Iterator[int]:
    """Yields the indexes of tasks in a text of SLURM, for example 0, 4, 5, 6 and 7 for `[0,4-7%2]`.

    `%2`, the number of tasks that may run at a time, is ignored. `[0-20:2]` means every second index from 0 to 20.
    """
    for part in text.strip("[]").partition("%")[0].split(","):
        if match := INDEXES.fullmatch(part):
            first, last, step = match.groups()
            yield from range(int(first), int(last or first) + 1, int(step or 1))


def _code(text: str) -> int:
    """Returns the exit code in a text of SLURM such as `1:0` (exit code, number of a signal). Returns 0 if `text` has
    no exit code.
    """
    code = text.partition(":")[0]
    return int(code) if code.isdigit() else 0


def ask(*command: str) -> str | None:
    """Runs a command of SLURM, such as squeue, and returns its output.

    Returns "" if SLURM answers that the job id in the command is invalid. Returns None for any other error and if SLURM
    does not answer in time. Raises ProgramMissing if the command is not installed.
    """
    try:
        done = run(*command, seconds=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return "" if "invalid job id" in done.stderr.lower() else None
    return done.stdout
