"""Runs programs of this machine, for example sbatch and git, with a time limit. Torch-free."""

import functools
import logging
import subprocess

from kinegraph.cache_schemas import stopping
from kinegraph.pipeline.errors import ProgramMissing

log = logging.getLogger("kinegraph")


def run(*command: str, seconds: float, to_its_end: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs the program `command`, waits for its end, and returns its exit code and its output as text. A non-zero exit
    code raises no error.

    A signal that stops this process also stops the program, unless `to_its_end` is true. Raises ProgramMissing if the
    program is not on the PATH or may not be run. Raises subprocess.TimeoutExpired if the program takes longer than
    `seconds`.
    """
    try:
        if not to_its_end:
            return stopping.run(command, seconds)
        return subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, start_new_session=True
        )
    except FileNotFoundError:
        raise ProgramMissing(f"{command[0]} is not on the PATH") from None
    except OSError as error:
        raise ProgramMissing(f"{command[0]} cannot be run ({error.strerror})") from None


@functools.cache
def tell_once(message: str) -> None:
    """Logs the warning `message`, unless this process has logged the same warning before."""
    log.warning("%s", message)
