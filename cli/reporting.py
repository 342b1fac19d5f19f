"""Defines the command `report`, which writes a page about a cache and trained runs."""

from pathlib import Path
from typing import Annotated

import typer

from kinegraph.cache_schemas.words import counted, size
from kinegraph.cli.options import check_choice, check_output, check_output_folder
from kinegraph.cli.printing.text import counting, note, say

FIGURE_FORMS = ("pdf", "svg", "png")


def report(
    places: Annotated[list[str], typer.Argument(metavar="PLACE...", help="A cache, folders of trained runs, or both.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("report.html"),
    videos: Annotated[
        Path | None, typer.Option(metavar="ROOT", help="Look for videos in this folder first, for frames.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each figure as a file. Strips are always svg.")
    ] = None,
    figures_as: Annotated[
        str, typer.Option(metavar="|".join(FIGURE_FORMS), help="Format of the files of --figures.")
    ] = "pdf",
    failures: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Also write all failed clips with the decoder's words.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="OTHER", help="Compare with another cache, or with a folder of other runs.")
    ] = None,
    attributes: Annotated[
        str | None,
        typer.Option(
            metavar="CSV",
            help="Show scores by attributes of classes: class,<attribute>,... The default is what the cache has.",
        ),
    ] = None,
) -> None:
    """Write a page about a cache and trained runs, with figures and frames. Changes nothing.

    The page loads nothing from the internet.
    """
    check_choice("--figures-as", figures_as, FIGURE_FORMS)
    for flag, file in (("--out", out), ("--failures", failures)):
        check_output(flag, file)
    check_output_folder("--figures", figures)
    from kinegraph.stages.pictures.packages import require_look

    require_look()
    from kinegraph.pipeline.reports.report import write_report

    with counting() as progress:
        written = write_report(
            places,
            out,
            videos=videos,
            figures=figures,
            form=figures_as,
            failures=failures,
            against=against,
            attributes=attributes,
            on_progress=progress,
        )
    say(f"{written.path}: {size(written.num_bytes)}, {counted(written.num_figures, 'figure')}")
    if written.unfinished:
        note(written.unfinished)
    for title, reason in written.absent.items():
        note(f"{title}: {reason}")
