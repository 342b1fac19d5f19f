"""Programs of the machine, as sbatch and git: run with a time limit, named where they are missing. Torch-free."""

import functools
import logging
import subprocess

from kinegraph.cache_schemas import stopping
from kinegraph.pipeline.errors import ProgramMissing

log = logging.getLogger("kinegraph")


def run(*command: str, seconds: float, to_its_end: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program, whatever its exit code; gives that and what the program said.

    A signal that stops this process ends the program, unless it must come `to_its_end`; then Ctrl-C in a terminal does
    not reach it.
    Raises ProgramMissing where the program is not on the PATH or may not be run, subprocess.TimeoutExpired where it
    takes longer than `seconds`.
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
    """Log a warning; a process logs the same words once."""
    log.warning("%s", message)
