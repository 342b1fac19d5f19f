"""Defines the command line `kinegraph`. Modules that are slow to import, such as torch, are imported only by the
commands that need them.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kinegraph.cache_schemas import stopping
from kinegraph.cli import benchmarks, browsing, caches, exchange, finetuning, heads, predicting, reporting, start
from kinegraph.cli.exits import EXIT_FAILED, after_stop, end_process, exit_code, stop_on_signals, stopped
from kinegraph.cli.printing.text import note
from kinegraph.cli.streams import open_standard_streams
from kinegraph.pipeline.machine.memory import keep_freed_memory
from kinegraph.pipeline.machine.terminal import log_to_stderr


class Commands(TyperGroup):
    """The group of all commands, as typer expects it. (typer is the library that parses the command line.) Runs the
    command that the user named, prints its errors, and ends with its exit code.
    """

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Parses the command line and returns typer's context, which has the parsed arguments. If a signal arrives
        during the parsing, the command ends with the exit code of the signal, for example 143 after SIGTERM.
        """
        try:
            # typer alone would exit with 130 after every signal
            return super().make_context(*arguments, **options)
        except KeyboardInterrupt as stop:
            raise typer.Exit(stopped(type(stop))) from stop

    def invoke(self, ctx: Any) -> None:
        raise typer.Exit(exit_code(lambda: super(Commands, self).invoke(ctx)))


app = typer.Typer(
    cls=Commands,
    name="kinegraph",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        print(f"kinegraph {version('kinegraph')}")
    except PackageNotFoundError:
        print("kinegraph, from a checkout that is not installed")
    raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Extract video features once, train graph heads on them in minutes."""
    stopping.say_after_stop(after_stop(context.invoked_subcommand or "", sys.argv))


COMMANDS: tuple[Callable[..., int | None], ...] = (
    start.init,
    caches.index, caches.plan, caches.extract, caches.status, caches.verify,
    heads.train, finetuning.finetune, heads.results, heads.evaluate, predicting.predict,
    reporting.report, browsing.browse,
    exchange.export, exchange.import_,
    heads.models, benchmarks.bench, heads.demo,
)  # fmt: skip
for command in COMMANDS:
    app.command(command.__name__.strip("_"))(command)


@app.command("slurm-task", hidden=True)
def slurm_task(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the submission.")],
    index: Annotated[int, typer.Argument(metavar="INDEX", help="Index of the task in its array.")],
) -> int:
    """Run one task of a job array. `extract` and `train` submit these tasks with --executor slurm."""
    begun = monotonic()
    from kinegraph.cli.printing.heads import TrainingLines
    from kinegraph.pipeline.slurm_task import run_task, tell_completion

    lines = TrainingLines()
    code = exit_code(lambda: run_task(folder, index, begun, on_epoch=lines.epoch, on_step=lines.step))
    tell_completion(folder, index, code)
    return code


def main() -> None:
    """Runs the command line. Ends the process with the exit code of the command."""
    # OpenMP threads that spin while they wait are a little faster on a quiet machine. They are much slower where other
    # processes use the cores too (benchmarks/openmp_waiting.py measures both). Torch must be imported after this line.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    log_to_stderr()
    logging.getLogger("kinegraph").setLevel(logging.INFO)  # other loggers (botocore logs much) stay at WARNING
    open_standard_streams()
    stop_on_signals()
    try:
        app()
    except SystemExit as end:
        end_process(end.code if isinstance(end.code, int) else EXIT_FAILED)
    except Exception:  # a bug in kinegraph: `note` replaces control characters in the traceback
        note(traceback.format_exc().rstrip())
        end_process(EXIT_FAILED)
