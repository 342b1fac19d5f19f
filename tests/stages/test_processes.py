"""Calls in processes of their own, which leave none behind."""

import multiprocessing
import os
import signal

import pytest

from kinegraph.stages.processes import in_processes


def die_at_two(number: int, job: int) -> int:
    if job == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def test_a_process_that_is_killed() -> None:
    """As by a kernel that has no memory left."""
    before = {*multiprocessing.active_children()}
    results = in_processes(die_at_two, [1, 2], 1)
    assert next(results) == 1
    with pytest.raises(
        RuntimeError, match=r"One of 1 worker processes died. .* \(run.workers\)\? .* same command goes on"
    ):
        next(results)
    assert {*multiprocessing.active_children()} <= before
