"""The command that scores videos with a trained run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from kinegraph.cache_schemas.csv_text import csv_text
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cli.exits import EXIT_CLIPS_FAILED
from kinegraph.cli.options import AllowCode, AsJson, check_output, load
from kinegraph.cli.printing import predicting as printing
from kinegraph.cli.printing.text import counting


def predict(
    videos: Annotated[list[str], typer.Argument(metavar="VIDEO...", help="Files, folders of videos, or URLs.")],
    run: Annotated[Path, typer.Option(metavar="RUN", help="Folder of a trained run.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to print, best first.")] = 5,
    intervals: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="SECONDS", help="Cut each video into windows of this length and score each."),
    ] = None,
    as_csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the probabilities of all classes.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="Config of the run's cache, for a run of an earlier version."),
    ] = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
    overrides: Annotated[
        list[str],
        typer.Option("--set", metavar="run.KEY=VALUE", help="As run.device=cpu; the rest is as the run was trained."),
    ] = [],
) -> int:
    """Score videos with a trained run, without a cache. Exits with 3 if some videos failed."""
    from kinegraph.pipeline.predicting import Predictor

    check_output("--csv", as_csv)
    recipe = None if config is None else load(config, [])
    predictor = Predictor(run, recipe, overrides, allow_code=allow_code)
    with counting() as progress:
        found = [*predictor.predict(videos, window_seconds=intervals, on_progress=progress)]
    if as_csv is not None:
        write_whole(as_csv, [csv_text(printing.lines(found, predictor.class_names)).encode()])
    if as_json:
        print(json.dumps([one.to_json(predictor.class_names, top) for one in found], ensure_ascii=False))
    else:
        printing.predictions(found, predictor.class_names, top, by_clip=intervals is not None)
    return EXIT_CLIPS_FAILED if printing.failed(found) else 0
