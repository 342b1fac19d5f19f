"""What a command's end means to who called it: exit codes, messages, signals."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

import typer

from cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound, UnknownStorage
from cli.printing.text import note
from pipeline.errors import OutOfTimeError
from stages.errors import UsageError

EXIT_FAILED, EXIT_USAGE, EXIT_CLIPS_FAILED, EXIT_OUT_OF_TIME, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 75, 130, 143

GPU_IS_FULL = (
    "The GPU is full. Give fewer clips at a time (run.batch_size of extract, train.batch_size of train and evaluate), "
    "or let fewer workers share it (run.workers)."
)


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGUSR1 (a scheduler's word that time is up), treated as Ctrl-C."""


STOPS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGUSR1: Terminated,
}


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command; what goes wrong is told on stderr. Typer's own ends (help is an Exit) go through."""
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except (typer.Exit, typer.Abort):  # RuntimeErrors, both
        raise
    except BrokenPipeError:  # `| head` has seen enough; what is left must not fail once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        without = ", without --overwrite," if "--overwrite" in sys.argv else ""
        note(f"\nstopped. What is sealed stays; the same command{without} goes on from there.")
        return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
    except OutOfTimeError as stop:
        note(str(stop))
        return EXIT_OUT_OF_TIME
    except (UsageError, CacheMismatch, CacheNotFound, UnknownStorage) as error:
        note(f"error: {error}")
        return EXIT_USAGE
    except (CacheError, RuntimeError, OSError) as error:
        note(f"error: {error}")
        if type(error).__name__ == "OutOfMemoryError":  # torch's, known by its name, as torch need not be here
            note(GPU_IS_FULL)
        return EXIT_FAILED


def stop_on_signals() -> None:
    """Let the signals of STOPS end the command through its exceptions."""
    for number in STOPS:
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    """The first signal ends what is being sealed and stops; a second one of its kind ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    raise STOPS[number]
