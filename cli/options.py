"""Defines the arguments and options that several commands share."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinegraph.stages.errors import UsageError

if TYPE_CHECKING:
    from kinegraph.pipeline.config import Config

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config file.")]
CachePath = Annotated[str, typer.Argument(metavar="CACHE", help="Folder or URL of a cache.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace a config value.")]
Stages = Annotated[
    list[str],
    typer.Option("--stage", help="Run only this kind of stage, as `proposals`, or one entry, as `features/NAME`."),
]
Part = Annotated[str, typer.Option("--shards", metavar="I/N", help="Run only shards with index % N == I.")]
Limit = Annotated[int | None, typer.Option(min=1, metavar="ROWS", help="Run only the shards of the first ROWS rows.")]
NumWorkers = Annotated[
    int | None, typer.Option(min=1, help="Number of processes here (local, dask), or of tasks in a SLURM array.")
]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDR", help="Address of a running Dask scheduler: tcp://host:8786.")
]
SchedulerFile = Annotated[
    str | None, typer.Option(metavar="F", help="File that the scheduler of a Dask cluster wrote.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Run the source code of a user's head that came with the run.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def check_choice(flag: str, given: str | None, allowed: tuple[str, ...]) -> None:
    if given is not None and given not in allowed:
        raise UsageError(f"{flag} {given}: allowed: {', '.join(allowed)}")


def check_output(flag: str, file: Path | None) -> None:
    """Raises UsageError if `file` cannot be written, so that a command fails before it works for hours. `file` None is
    accepted.

    `flag` is the option that names the file, for the message.
    """
    if file is None:
        return
    if file.is_dir():
        raise UsageError(f"{flag} {file}: is a folder. Name a file.")
    if file.exists() and not file.is_file():
        raise UsageError(f"{flag} {file}: is a device or a pipe, and it would be replaced. Name a file.")
    _check_writable(flag, file, file.absolute().parents, "file in a folder")


def check_output_folder(flag: str, folder: Path | None) -> None:
    """Raises UsageError if files cannot be written into `folder`. The folder need not exist. `folder` None is accepted.

    `flag` is the option that names the folder, for the message.
    """
    if folder is not None:
        _check_writable(flag, folder, (folder.absolute(), *folder.absolute().parents), "folder")


def _check_writable(flag: str, given: Path, parents: Sequence[Path], noun: str) -> None:
    first = next(path for path in parents if path.exists())
    if not first.is_dir():
        raise UsageError(f"{flag} {given}: {first} is no folder. Name a {noun}.")
    if not os.access(first, os.W_OK):
        raise UsageError(f"{flag} {given}: the folder {first} cannot be written to. Name another folder.")


def run_overrides(
    executor: str | None, workers: int | None, scheduler: str | None, scheduler_file: str | None
) -> list[str]:
    """Returns a text `run.<key>=<value>` for each argument that is not None, to override the config: `workers` 4 ->
    "run.workers=4".

    If `scheduler` or `scheduler_file` is given, the result also has "run.executor=dask". Raises UsageError if
    `executor` then names another executor.
    """
    if (scheduler or scheduler_file) and executor not in (None, "dask"):
        flag = "--scheduler" if scheduler else "--scheduler-file"
        raise UsageError(f"{flag}: given with --executor {executor}, allowed: --executor dask, or no --executor")
    given = {
        "executor": executor or ("dask" if scheduler or scheduler_file else None),
        "workers": workers,
        "dask.scheduler": scheduler,
        "dask.scheduler_file": scheduler_file,
    }
    return [f"run.{key}={value}" for key, value in given.items() if value is not None]


def load(path: Path, overrides: list[str]) -> "Config":
    from kinegraph.pipeline.config import load_config

    return load_config(path, overrides)
