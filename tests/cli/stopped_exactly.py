"""A command's loops, with a signal at a moment of the lock's choice: `python stopped_exactly.py MOMENT...`.

Sent inside a call of `threading.Condition`, when its lock has just been taken or given back. A handler that raised
there would leave the lock as it is, and the process waiting for ever. Each moment is that of a forked process, which
ends as the command would. Prints each one's exit code and stderr as JSON.
"""

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import torch

from kinegraph.cli.exits import exit_code, stop_on_signals
from kinegraph.pipeline.extraction.feed import _in_background
from kinegraph.stages.training.clips import read_batches

MAIN = threading.get_ident()


class InMemory:
    """Clips without features; each batch takes a moment to read."""

    def batch(self, indices: list[int]) -> dict[str, torch.Tensor]:
        time.sleep(0.05)
        return {"x": torch.zeros(len(indices), 4)}


def train() -> None:
    for _ in read_batches(InMemory(), torch.arange(64), 4, ["x"], torch.device("cpu")):  # type: ignore[arg-type]
        pass


def feed() -> None:
    with closing(_in_background(iter(range(100_000)), threading.Event(), lambda: None)) as items:  # type: ignore[type-var]
        for _ in items:
            pass


def struck(really: Callable[..., Any], caller: str, count: int) -> Callable[..., Any]:
    """The method of Condition, after whose `count`-th call below `caller` in the main thread the signal comes."""
    calls = 0

    def method(condition: threading.Condition, *arguments: Any) -> Any:
        nonlocal calls
        answer = really(condition, *arguments)
        above = sys._getframe(1).f_code.co_name, sys._getframe(2).f_code.co_name
        if threading.get_ident() == MAIN and caller in above:
            calls += 1
            if calls == count:
                os.kill(os.getpid(), signal.SIGTERM)
        return answer

    return method


MOMENTS: dict[str, tuple[Callable[[], None], str, str, int]] = {
    "submit": (train, "__enter__", "_adjust_thread_count", 3),
    "submitted": (train, "__exit__", "_adjust_thread_count", 3),
    "result": (train, "__enter__", "result", 2),
    "get": (feed, "__enter__", "get", 3),
    "got": (feed, "__exit__", "get", 3),
}


def run(moment: str) -> None:
    command, method, caller, count = MOMENTS[moment]
    setattr(threading.Condition, method, struck(getattr(threading.Condition, method), caller, count))
    stop_on_signals()
    sys.exit(exit_code(command))


def ended(moment: str) -> tuple[int, str]:
    """Exit code and stderr of a child for which `moment` comes."""
    with tempfile.TemporaryFile("w+") as said:
        if (child := os.fork()) == 0:
            os.dup2(said.fileno(), 2)
            run(moment)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return code, said.read()


if __name__ == "__main__":
    print(json.dumps({moment: ended(moment) for moment in sys.argv[1:]}))
