"""Turns the result, the error or the signal that ended a command into an exit code."""

import atexit
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import typer

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound, UnknownSplit, UnknownStorage
from kinegraph.cache_schemas.stopping import Terminated as Terminated  # re-exported for code that runs commands
from kinegraph.cli.printing.text import note
from kinegraph.pipeline.errors import OutOfTimeError
from kinegraph.stages.errors import UsageError

FILES = ("npy", "tad", "webdataset", "coco")  # targets of `export` that are files
EXIT_FAILED, EXIT_USAGE, EXIT_CLIPS_FAILED, EXIT_OUT_OF_TIME = 1, 2, 3, 75

GPU_IS_FULL = (
    "The GPU is full. Compute fewer clips at a time (extract: run.batch_size; train and evaluate: train.batch_size; "
    "finetune: finetune.clips_per_pass, half as many take half the memory), or let fewer workers share the GPU "
    "(run.workers)."
)


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs `command` and returns the exit code for the process. `command` returns an exit code, or None for 0. An error
    of `command` is printed to stderr.

    The exceptions `typer.Exit` and `typer.Abort` are passed on, because typer needs them to end `--help`. (typer is the
    library that parses the command line.)
    """
    try:
        stopping.check()
        code = command() or 0
        sys.stdout.flush()
        return code
    except (typer.Exit, typer.Abort):  # both are RuntimeErrors
        raise
    except KeyboardInterrupt as stop:
        return stopped(type(stop))
    except OutOfTimeError as stop:
        note(str(stop))
        return EXIT_OUT_OF_TIME
    except (UsageError, CacheMismatch, CacheNotFound, UnknownSplit, UnknownStorage) as error:
        note(f"error: {error}")
        return EXIT_USAGE
    except (CacheError, RuntimeError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _is_unread(sys.stdout.fileno()):  # `| head` has closed the pipe
            return 0
        note(f"error: {error}")
        if type(error).__name__ == "OutOfMemoryError":  # torch's error, compared by name: torch may not be imported
            note(GPU_IS_FULL)
        # A signal also reaches child programs and processes, so the signal may have caused this error.
        signalled = stopping.asked()
        return EXIT_FAILED if signalled is None else stopped(signalled)


def stopped(stop: type[KeyboardInterrupt]) -> int:
    """Prints that a signal stopped the command. Returns the exit code of the signal. `stop` is the class of the
    exception that the signal raised.
    """
    note(f"\nstopped. {stopping.words_after_stop()}".rstrip(" "))
    return stopping.exit_code_of(stop)


def after_stop(command: str, arguments: Sequence[str]) -> str:
    """Returns the sentence to print after a signal stopped `command`. The sentence says which work is kept, and what
    the same command does if the user runs it again.

    `arguments` are the words of the command line.
    """
    if command == "verify" and "--repair" in arguments:
        return f"The same command {'goes on from there' if '--frames' in arguments else 'does the rest'}."
    if command == "export" and any(argument.removeprefix("--to=") in FILES for argument in arguments):
        return "The same command writes all files anew."
    without = ", without --overwrite," if "--overwrite" in arguments else ""
    kept = dict.fromkeys(("extract", "import", "slurm-task"), "shards")
    kept |= {"train": "runs", "finetune": "epochs", "export": "shards", "demo": "steps"}
    if command == "index":
        return "Headers that were read are kept. The same command reads the others."
    if command in kept:
        return f"Finished {kept[command]} are kept. The same command{without} goes on from there."
    return (
        "The same command begins anew."
        if command in ("evaluate", "predict", "init", "report")
        else "Nothing was changed."
    )


def _is_unread(descriptor: int) -> bool:
    """Returns whether `descriptor` is the writing end of a pipe whose reader has ended."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def stop_on_signals() -> None:
    """Makes SIGINT, SIGTERM and SIGUSR1 stop the command. After a signal, `stopping.check` raises an exception in the
    main thread. If some code catches this exception, the command goes on, but its exit code is that of the signal.
    """
    stopping.obey()
    atexit.register(_end_as_asked)


def _end_as_asked() -> None:
    if (stop := stopping.asked()) is not None:
        end_process(stopping.exit_code_of(stop))


def end_process(code: int) -> NoReturn:
    """Ends the process with the exit code `code`. After a signal, the process does not wait for its threads.

    If stdout or stderr takes no more output, the remaining output is dropped without an error.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if stopping.asked() is not None:
        os._exit(code)
    sys.exit(code)
