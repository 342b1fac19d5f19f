"""Who is asked for the state of a task, and what is made of the answers."""

from pathlib import Path

import pytest

from kinegraph.pipeline.clusters.slurm.states import (
    StateWord,
    TaskState,
    array_state,
    indexes_in,
    state_after_exit,
    state_of,
)
from kinegraph.pipeline.machine.programs import tell_once


@pytest.mark.parametrize(
    ("word", "exit_code", "state"),
    [
        ("COMPLETED", 0, "done"),
        ("PENDING", 0, "pending"),
        ("REQUEUED", 0, "pending"),
        ("COMPLETING", 0, "running"),
        ("FAILED", 75, "stopped"),
        ("FAILED", 143, "stopped"),
        ("FAILED", 1, "failed"),
        ("FAILED", 0, "failed"),
        ("CANCELLED by 1000", 0, "failed"),
        ("TIMEOUT", 0, "failed"),
        ("NODE_FAIL", 0, "failed"),
        ("A_WORD_OF_TOMORROW", 0, "unknown"),
        ("", 0, "unknown"),
    ],
)
def test_words(word: str, exit_code: int, state: StateWord) -> None:
    assert state_of(word, exit_code).state == state


@pytest.mark.parametrize(
    ("text", "indexes"),
    [
        ("3", [3]),
        ("[0,4-6%2]", [0, 4, 5, 6]),
        ("0-1", [0, 1]),
        ("[0-6:2,9]", [0, 2, 4, 6, 9]),
        ("", []),
        ("N/A", []),
    ],
)
def test_indexes(text: str, indexes: list[int]) -> None:
    assert list(indexes_in(text)) == indexes


def nothing(index: int) -> TaskState | None:
    return None


def job(fake: Path, *tasks: str) -> None:
    folder = fake / "jobs" / "1"
    folder.mkdir(parents=True)
    for index, task in enumerate(tasks):
        (folder / str(index)).write_text(task)


def states(num_tasks: int = 4) -> list[StateWord]:
    return [task.state for _, task in sorted(array_state("1", num_tasks, nothing).tasks.items())]


ALL: list[StateWord] = ["done", "running", "pending", "stopped"]


@pytest.mark.parametrize("accounting", [True, False])
def test_with_and_without_accounting(fake: Path, accounting: bool) -> None:
    job(fake, "COMPLETED 0", "RUNNING 0", "PENDING 0", "FAILED 75")
    if not accounting:
        (fake / "no_accounting").touch()
    assert states() == ALL


def test_what_is_forgotten_is_unknown_and_never_done(fake: Path) -> None:
    job(fake, "COMPLETED 0", "FAILED 1", "COMPLETED 0")
    for condition in ("no_accounting", "forgets"):
        (fake / condition).touch()
    files = {0: TaskState(state="done"), 1: TaskState(state="failed", detail="exit code 1")}
    found = array_state("1", 3, files.get)
    assert [found.tasks[index].state for index in range(3)] == ["done", "failed", "unknown"]
    assert found.is_over, "SLURM answered: the task is not there any more"


def test_accounting_that_missed_the_end_of_tasks(fake: Path) -> None:
    """What a task says itself counts where it did all; SLURM may let one go on that stopped with work left."""
    job(fake, "RUNNING 0", "RUNNING 0", "PENDING 0", "FAILED 1")
    files = dict.fromkeys((0, 3), state_after_exit(0)) | {1: state_after_exit(75)}
    found = array_state("1", 4, files.get)
    assert [found.tasks[index].state for index in range(4)] == ["done", "running", "pending", "failed"]


@pytest.mark.parametrize(("answers", "state"), [(True, "failed"), (False, "running")])
def test_the_controller_knows_better_than_accounting_what_runs(
    fake: Path, monkeypatch: pytest.MonkeyPatch, answers: bool, state: StateWord
) -> None:
    """Where it has a task no more that says that it failed, the task is over, though accounting calls it running."""
    job(fake, "RUNNING 0")
    monkeypatch.setattr("kinegraph.pipeline.clusters.slurm.states._squeue", lambda job_id: [] if answers else None)
    assert array_state("1", 1, {0: state_after_exit(2)}.get).tasks[0].state == state


def test_nobody_answers(fake: Path) -> None:
    """A controller that restarts must not make jobs look as if they had ended."""
    job(fake, "RUNNING 0")
    (fake / "no_answer").touch()
    found = array_state("1", 1, nothing)
    assert found.tasks[0].state == "unknown"
    assert not found.is_over


def test_no_slurm_here(caplog: pytest.LogCaptureFixture) -> None:
    tell_once.cache_clear()
    assert array_state("1", 1, lambda index: TaskState(state="done")).is_over
    assert not caplog.messages, "its completion file says enough"
    found = array_state("1", 1, nothing)
    assert found.tasks[0].state == "unknown"
    assert not found.is_over
    assert (
        caplog.messages
        == [found.missing]
        == [
            "sacct is not on the PATH, squeue is not on the PATH, scontrol is not on the PATH, so the states of "
            "jobs are unknown. Run this on a machine that submits jobs."
        ]
    )
