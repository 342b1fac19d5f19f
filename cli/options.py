"""Arguments and options that several commands have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages.errors import UsageError

if TYPE_CHECKING:
    from pipeline.config import Config

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config file.")]
CachePath = Annotated[str, typer.Argument(metavar="CACHE", help="Folder or URL of a cache.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace a config value.")]
Stages = Annotated[
    list[str], typer.Option("--stage", help="Only features, proposals, regions, or one of them: features/NAME.")
]
Part = Annotated[str, typer.Option("--shards", metavar="I/N", help="Only shards with index % N == I.")]
Limit = Annotated[int | None, typer.Option(min=1, metavar="ROWS", help="Only the shards of the first ROWS rows.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def check_choice(flag: str, given: str | None, allowed: tuple[str, ...]) -> None:
    if given is not None and given not in allowed:
        raise UsageError(f"{flag} {given}: allowed: {', '.join(allowed)}")


def load(path: Path, overrides: list[str]) -> "Config":
    from pipeline.config import load_config

    return load_config(path, overrides)
