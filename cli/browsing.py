"""Defines the command `browse`, which shows the clips of a cache in the user's browser."""

from pathlib import Path
from typing import Annotated

import typer

from kinegraph.cli.options import CachePath
from kinegraph.cli.printing.text import note, say_whole
from kinegraph.stages.errors import UsageError


def browse(
    cache: CachePath,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Show the predictions of this run, or of each run in a folder.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Folder that holds the videos, if they have moved.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port of 127.0.0.1. 0 is a free port.")] = 0,
) -> None:
    """Show clips, boxes and failures in your browser. Only browsers on this machine can open the page.

    Ctrl-C ends the command. To browse a cache on another machine, start `browse`
    there with --port, and run `ssh -L PORT:127.0.0.1:PORT MACHINE` here.
    """
    try:
        from kinegraph.pipeline.browsing.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "jinja2"):
            raise
        raise UsageError(f"browse needs the package {error.name}: pip install 'kinegraph[look]'") from error

    def on_ready(address: str, bound: int) -> None:
        say_whole(f"{address}\n")
        note(f"Open this address. Ctrl-C ends the server. From another machine: ssh -L {bound}:127.0.0.1:{bound} HOST")

    serve(cache, run=run, videos=videos, port=port, on_ready=on_ready)
