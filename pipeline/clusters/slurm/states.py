"""Finds the state of each task of a SLURM job array.

The states come from sacct, squeue, scontrol and completion files, in this order. A completion file is a file that a
task of kinegraph writes when it ends. The state of a task that is found nowhere is "unknown", and "unknown" never
counts as done.
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

IndexedStates = Iterable[tuple[int, "TaskState"]]


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """The state of one task of a SLURM job array."""

    # "pending", "running", "done", "stopped" (by a signal or its time limit, with work left), "failed" or "unknown"
    state: StateWord
    detail: str = ""  # SLURM's word for the state, or "exit code <n>" if the task ended by itself with an error
    exit_code: int = 0  # the exit code of the task, 0 if it is unknown

    @property
    def is_over(self) -> bool:
        return self.state not in ("pending", "running")


@dataclass(frozen=True, kw_only=True)
class ArrayState:
    """The states of all tasks of a SLURM job array."""

    tasks: dict[int, TaskState]  # the index of a task in the array -> its state
    answered: bool  # whether SLURM answered. If not, a task of unknown state may still run.
    # A sentence for the user if no program of SLURM is on this machine and states are unknown, otherwise ""
    missing: str = ""

    @property
    def is_over(self) -> bool:
        """Returns whether every task has ended. If SLURM answers and does not know a task, the task has ended."""
        return all(task.is_over and (self.answered or task.state != "unknown") for task in self.tasks.values())


def state_of(word: str, exit_code: int) -> TaskState:
    """Returns the TaskState for `word`, SLURM's word for a state such as "COMPLETED", and `exit_code`, the exit code of
    the task.
    """
    first = (word.split() or [""])[0].rstrip("+")  # `CANCELLED by 1000`, `CANCELLED+`
    if first == "COMPLETED":
        return TaskState(state="done")
    if first == "FAILED":
        return state_after_exit(exit_code) if exit_code else TaskState(state="failed", detail=first)
    if first in FAILED:
        return TaskState(state="failed", detail=first)
    if first in PENDING:
        return TaskState(state="pending", detail=first)
    return TaskState(state="running" if first in RUNNING else "unknown", detail=first)


def state_after_exit(exit_code: int) -> TaskState:
    """Returns the TaskState of a task that ended by itself with `exit_code`. The state is "done" for 0, "stopped" for
    an exit code in STOPS, and "failed" for any other exit code.
    """
    if exit_code == 0:
        return TaskState(state="done")
    state: StateWord = "stopped" if exit_code in STOPS else "failed"
    return TaskState(state=state, detail=f"exit code {exit_code}", exit_code=exit_code)


def array_state(job_id: str, num_tasks: int, completion: Callable[[int], TaskState | None]) -> ArrayState:
    """Returns the states of the tasks 0 to `num_tasks` - 1 of the SLURM job `job_id`, as an ArrayState. Runs sacct,
    squeue and scontrol in this order, until all states are known.

    `completion` returns the state in the completion file of a task, or None if there is no file. This state is used if
    SLURM does not know the task. If SLURM says that the task is pending or running, it is used only if the task
    succeeded or has left the queue.
    """
    queued = cache(lambda: _queued(job_id))
    tasks: dict[int, TaskState] = {}
    answered, missing, sources = False, list[str](), (_sacct, _squeue, _scontrol)
    for source in sources:
        if len(tasks) == num_tasks:
            break
        try:
            states = source(job_id)
        except ProgramMissing as error:
            missing.append(str(error))
            states = None
        answered = states is not None
        for index, state in states or ():
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
    sentence = ""
    if len(missing) == len(sources) and any(task.state == "unknown" for task in tasks.values()):
        sentence = f"{', '.join(missing)}, so the states of jobs are unknown. Run this on a machine that submits jobs."
        tell_once(sentence)
    return ArrayState(tasks=tasks, answered=answered, missing=sentence)


def _sacct(job_id: str) -> IndexedStates | None:
    output = ask("sacct", "-X", "-n", "-P", "-j", job_id, "-o", "JobID,State,ExitCode")
    return None if output is None else list(_rows(output, job_id))


def _squeue(job_id: str) -> IndexedStates | None:
    output = ask("squeue", "-h", "-r", "-j", job_id, "-o", "%i|%T|0:0")
    return None if output is None else list(_rows(output, job_id))


def _queued(job_id: str) -> Container[int]:
    """Returns the indexes of those tasks of the job array `job_id` that are in SLURM's queue. Returns all indexes if
    SLURM does not answer.
    """
    try:
        output = _squeue(job_id)
    except ProgramMissing:
        output = None
    return range(sys.maxsize) if output is None else {index for index, _ in output}


def _rows(output: str, job_id: str) -> Iterator[tuple[int, TaskState]]:
    for line in output.splitlines():
        task, _, rest = line.strip().partition("|")
        word, _, code = rest.partition("|")
        job, _, indexes = task.partition("_")
        if job == job_id:
            for index in indexes_in(indexes):
                yield index, state_of(word, _code(code))


def _scontrol(job_id: str) -> IndexedStates | None:
    output = ask("scontrol", "--oneliner", "show", "job", job_id)
    return None if output is None else list(_blocks(output))


def _blocks(output: str) -> Iterator[tuple[int, TaskState]]:
    for line in output.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        for index in indexes_in(fields.get("ArrayTaskId", "")):
            yield index, state_of(fields.get("JobState", ""), _code(fields.get("ExitCode", "")))


def indexes_in(text: str) -> Iterator[int]:
    """Yields the indexes of tasks that SLURM writes as `text`: "[0,4-7%2]" -> 0, 4, 5, 6, 7, and "[0-6:2]" -> 0, 2, 4,
    6.

    "%2", the number of tasks that may run at a time, is ignored.
    """
    for part in text.strip("[]").partition("%")[0].split(","):
        if match := INDEXES.fullmatch(part):
            first, last, step = match.groups()
            yield from range(int(first), int(last or first) + 1, int(step or 1))


def _code(text: str) -> int:
    """Returns the exit code in `text`, which SLURM writes as "<exit code>:<number of a signal>": "1:0" -> 1. Returns 0
    if `text` has no exit code.
    """
    code = text.partition(":")[0]
    return int(code) if code.isdigit() else 0


def ask(*command: str) -> str | None:
    """Runs a command of SLURM, for example squeue, and returns its output.

    Returns "" if SLURM does not know the job id in the command. Returns None after any other error, or if SLURM does
    not answer in time. Raises ProgramMissing if the program is not installed.
    """
    try:
        done = run(*command, seconds=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return "" if "invalid job id" in done.stderr.lower() else None
    return done.stdout
