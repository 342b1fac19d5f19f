"""A process that runs commands in forked children, which a test may kill. It loads torch once for all of them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parent / "faults"
# What it imports is no garbage; passes over it take a third of the time.
SERVER = f"import gc, runpy; gc.disable(); runpy.run_path({str(SCRIPTS / 'commands.py')!r}, run_name='__main__')"


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, or minus the signal; what it said on stderr, and `told` on stdout."""

    code: int
    said: str
    told: str


Run = Callable[..., Ended]


@contextmanager
def running() -> Iterator[Run]:
    """Runs a kinegraph command with this process's environment; keywords as in commands.py.

    `started` is called with the process id, once the command runs.
    """
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = process.stdout

        def run(*arguments: object, started: Callable[[int], object] = lambda pid: None, **request: Any) -> Ended:
            document = {"arguments": [*map(str, arguments)], "environment": dict(os.environ), **request}
            print(json.dumps(document), file=process.stdin, flush=True)
            pid = json.loads(answers.readline())["pid"]
            try:
                started(pid)
            except BaseException:
                os.kill(pid, signal.SIGKILL)
                answers.readline()
                raise
            return Ended(**json.loads(answers.readline()))

        yield run
        process.stdin.close()
