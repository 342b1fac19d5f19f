"""Defines the command `init`, which makes a config from a folder of videos."""

from pathlib import Path
from typing import Annotated

import typer

from kinegraph.cache_schemas.words import counted
from kinegraph.cli.printing.text import say


def init(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Folder of videos in class or split folders, or listed in a csv.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="File to write. Default: FOLDER's name with .yaml.")
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(metavar="CSV", help="List of videos, if FOLDER has several lists or none.")
    ] = None,
) -> None:
    """Write a commented config for the videos below a folder. An existing file is not replaced."""
    from kinegraph.pipeline.first_config import first_config, write_first_config

    made = first_config(folder, out, annotations)
    write_first_config(made)
    splits = ", ".join(f"{count:,} {split}" for split, count in made.splits.items())
    lists = f", listed in {', '.join(made.lists)}" if made.lists else ""
    videos, classes = counted(made.num_videos, "video"), counted(made.num_classes, "class")
    say(f"{made.path}: {videos} ({splits}), {classes}{lists}")
    say(f"Read it, then run `kinegraph index {made.path}` and `kinegraph plan {made.path}`.")
