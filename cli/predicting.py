"""Defines the command `predict`, which scores videos with a trained run."""

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
from kinegraph.stages.errors import UsageError

OverlayOut = Annotated[
    Path | None,
    typer.Option(metavar="OUT", help="Write the video with boxes and scores: an .mp4, or a folder for several videos."),
]
OverlayHeight = Annotated[
    int, typer.Option(min=160, metavar="PX", help="Largest height of an overlay, with the band of scores.")
]
Edges = Annotated[
    bool, typer.Option("--edges", help="Draw on overlays the three strongest edges of the head's graph in each frame.")
]
CurveOut = Annotated[
    Path | None,
    typer.Option(
        metavar="OUT",
        help="Draw the scores of the windows over time: an .svg, .png or .pdf, or a folder for several videos.",
    ),
]
CacheConfig = Annotated[
    Path | None, typer.Option(metavar="CONFIG", help="Config of the run's cache, for a run of an earlier version.")
]


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
    overlay: OverlayOut = None,
    overlay_height: OverlayHeight = 720,
    edges: Edges = False,
    curve: CurveOut = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace overlays and curves that exist.")] = False,
    config: CacheConfig = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Keys of run, as run.device=cpu; graphs.files or proposals.files. The rest is as the run was trained.",
        ),
    ] = [],
) -> int:
    """Score videos with a trained run, without a cache. Exits with 3 if some videos failed."""
    from kinegraph.pipeline.predicting.pictures import Pictures
    from kinegraph.pipeline.predicting.predictor import Predictor
    from kinegraph.pipeline.predicting.videos import require_no_video

    check_output("--csv", as_csv)
    require_no_video("--csv", as_csv, videos)
    if curve is not None and intervals is None:
        raise UsageError(f"--curve {curve}: goes with --intervals SECONDS alone")
    if edges and overlay is None:
        raise UsageError("--edges: goes with --overlay OUT alone")
    pictures = Pictures(videos, overlay, curve, top=top, max_height=overlay_height, overwrite=overwrite)
    for flag, files in (("--overlay", pictures.overlays), ("--curve", pictures.curves)):
        for file in files.values():
            check_output(flag, file)
    recipe = None if config is None else load(config, [])
    predictor = Predictor(run, recipe, overrides, allow_code=allow_code)
    if edges:
        predictor.edge_graph()  # refuses a head without edges before any work
    kept = {"keep_boxes": overlay is not None, "keep_edges": edges}
    with counting() as progress:
        predictions = predictor.predict(videos, window_seconds=intervals, on_progress=progress, **kept)
        found = [*pictures.drawn(predictor, predictions, progress)]
    if as_csv is not None:
        write_whole(as_csv, [csv_text(printing.lines(found, predictor.class_names)).encode()])
    if as_json:
        print(json.dumps([one.to_json(predictor.class_names, top) for one in found], ensure_ascii=False))
    else:
        printing.predictions(found, predictor.class_names, top, by_clip=intervals is not None)
    printing.failures(found, predictor.files)
    printing.pictures(pictures, boxes=predictor.head.reads_boxes)
    return EXIT_CLIPS_FAILED if printing.failed(found) or pictures.failures else 0
