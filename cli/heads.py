"""Defines the commands about heads and networks: `train`, `results`, `evaluate`, `models` and `demo`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kinegraph.cache_schemas.words import counted, first_of
from kinegraph.cli.exits import EXIT_FAILED
from kinegraph.cli.options import (
    AllowCode,
    AsJson,
    ConfigPath,
    NumWorkers,
    Overrides,
    Scheduler,
    SchedulerFile,
    check_choice,
    check_output,
    load,
    run_overrides,
)
from kinegraph.cli.printing import heads as printing
from kinegraph.cli.printing.one_network import network
from kinegraph.cli.printing.result_tables import TABLE_FORMS
from kinegraph.cli.printing.text import note, note_at_work, say
from kinegraph.stages.errors import UsageError

if TYPE_CHECKING:
    from kinegraph.pipeline.config import Config
    from kinegraph.pipeline.training.table import TrainedRun


def train(
    config: ConfigPath,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="H,..",
            help="Heads, or variants of the config. Several make a table. Each uses the train.options that it has.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Number of seeds, counted from train.seed.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace runs that exist.")] = False,
    executor: Annotated[
        str | None,
        typer.Option(metavar="local|dask|slurm", help="Where to run. A cluster trains only runs that are missing."),
    ] = None,
    workers: NumWorkers = None,
    scheduler: Scheduler = None,
    scheduler_file: SchedulerFile = None,
    overrides: Overrides = [],
) -> None:
    """Train heads on the cached tensors and print validation metrics. Resumes where it was stopped."""
    from kinegraph.pipeline.training.table import RunsDiverged, train_runs
    from kinegraph.stages.training.together import rank

    names = [] if head is None else [name for name in head.split(",") if name]
    if head is not None and not names:
        raise UsageError(
            f"--head {head!r}: names no head. Name one, or leave --head out to train the head of the config."
        )
    settings = load(config, [*overrides, *run_overrides(executor, workers, scheduler, scheduler_file)])
    if rank() > 0:  # under torchrun only the first process prints
        train_runs(settings, names, seeds, overwrite=overwrite)
        return
    if settings.train.variants and not names:
        first = first_of([*settings.train.variants])
        note(f"Trains {settings.train.head} of the config. --head trains variants of train.variants: {first}")
    lines = printing.TrainingLines()
    try:
        if settings.run.executor in ("dask", "slurm"):
            runs = _trained_on_cluster(settings, names, seeds, overwrite=overwrite)
        else:
            runs = train_runs(settings, names, seeds, overwrite=overwrite, on_epoch=lines.epoch, on_step=lines.step)
    except RunsDiverged as error:
        if error.finished:
            printing.trained(error.finished)
        raise
    printing.trained(runs)


def _trained_on_cluster(settings: "Config", names: list[str], seeds: int, *, overwrite: bool) -> "list[TrainedRun]":
    if settings.run.executor == "slurm":
        from kinegraph.pipeline.training.on_slurm import train_on_slurm

        return train_on_slurm(settings, names, seeds, overwrite=overwrite)
    from kinegraph.pipeline.training.on_dask import train_on_dask

    return train_on_dask(settings, names, seeds, overwrite=overwrite, on_epoch=printing.TrainingLines().epoch)


def results(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="Folder of one run or of a table.")],
    as_json: AsJson = False,
    form: Annotated[str | None, typer.Option("--to", metavar="csv|md|latex|png", help="Format of the table.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --to, write the table to this file. A png needs it.")
    ] = None,
) -> None:
    """Print a table of the scores of trained runs, also of the scores that `evaluate` added."""
    check_choice("--to", form, TABLE_FORMS)
    check_output("--out", out)
    if form and as_json:
        raise UsageError(f"--to {form}: allowed without --json")
    if form == "png" and out is None:
        raise UsageError("--to png: name the file by --out, such as --out table.png")
    if out is not None and form is None:
        raise UsageError(f"--out {out}: name the format of the table by --to: {', '.join(TABLE_FORMS)}")
    from kinegraph.pipeline.caches.advice import random_weights_advice
    from kinegraph.pipeline.training.results import find_results

    found_runs = find_results(runs)
    for sentence in random_weights_advice(sorted({key for _, run in found_runs for key in run.random_weights or ()})):
        note(sentence)
    if as_json:
        print(json.dumps([run.model_dump(mode="json") | {"run": str(folder)} for folder, run in found_runs]))
    else:
        printing.results(found_runs, form, out)


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, or of a table of runs.")],
    cache: Annotated[str | None, typer.Option(help="Use this cache, not the cache of the training.")] = None,
    split: Annotated[str | None, typer.Option(help="Score this split, not train.test_split.")] = None,
    submission: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write ids and scores for the scorer of a data set.")
    ] = None,
    submission_format: Annotated[
        str | None,
        typer.Option(metavar="charades|something_v1|something_v2", help="Format of --submission. Default: charades."),
    ] = None,
    confusion: Annotated[Path | None, typer.Option(metavar="CSV", help="Write the confusion matrix.")] = None,
    attributes: Annotated[
        str | None, typer.Option(metavar="CSV|cache", help="Print means by attribute. Columns: class,<attribute>,...")
    ] = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
    overrides: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Replace train.aggregate, train.aggregate_of, train.batch_size or run.device.",
        ),
    ] = [],
) -> int:
    """Score a trained run on its test split. Given a folder of runs, score all of them and print one table."""
    from kinegraph.pipeline.caches.advice import random_weights_advice
    from kinegraph.pipeline.training import scoring
    from kinegraph.pipeline.training.breakdown import by_attribute, read_attributes
    from kinegraph.stages.training.checkpoint import load_record

    _check_files(submission, submission_format, scoring.SUBMISSION_FORMS, confusion)
    if (folders := scoring.runs_below(run)) != [run]:
        files = {"--submission": submission, "--confusion": confusion, "--attributes": attributes}
        if flags := [flag for flag, file in files.items() if file]:
            raise UsageError(
                f"{', '.join(flags)}: {run} is a folder of {counted(len(folders), 'run')}. Name one of them."
            )
        return _evaluate_all(folders, cache, split, overrides, allow_code=allow_code, as_json=as_json)
    record = load_record(run)
    if confusion:
        scoring.require_one_label(record)
    table = read_attributes(attributes, record.class_names, cache or record.cache) if attributes else {}
    scores = scoring.evaluate_run(
        run, cache, split, overrides, needs_labels=bool(confusion or attributes), allow_code=allow_code
    )
    for sentence in random_weights_advice(scores.random_weights):
        note(sentence)
    groups = by_attribute(scores.per_class(), table)
    if submission:
        scoring.write_submission(scores, submission, submission_format or "charades")
    if confusion:
        scoring.write_confusion(scores, confusion)
    if as_json:
        shown = {"attributes": [asdict(group) for group in groups]} if attributes else {}
        print(json.dumps(scores.to_json() | shown))
    else:
        printing.evaluated(scores, groups)
    return 0


def _check_files(submission: Path | None, form: str | None, forms: tuple[str, ...], confusion: Path | None) -> None:
    """Raises UsageError if the file of `--submission` or of `--confusion` cannot be written, or if `form` is none of
    the formats `forms`.
    """
    check_choice("--submission-format", form, forms)
    if form and submission is None:
        raise UsageError(f"--submission-format {form}: allowed with --submission FILE")
    check_output("--submission", submission)
    check_output("--confusion", confusion)


def _evaluate_all(
    folders: list[Path],
    cache: str | None,
    split: str | None,
    overrides: list[str],
    *,
    allow_code: bool,
    as_json: bool,
) -> int:
    """Scores the runs in `folders` and prints one table, or JSON if `as_json` is true. An error in one run does not
    stop the others.

    - `cache`, `split`: replace the cache and the test split of each run, if they are not None.
    - `overrides`: texts `key=value` that replace options of each run.
    - `allow_code`: if true, the code of a user's own head may be run.

    Returns exit code 1 if a run could not be scored, else 0.
    """
    from kinegraph.cache_schemas.errors import CacheError
    from kinegraph.pipeline.caches.advice import random_weights_advice
    from kinegraph.pipeline.training import scoring

    scored = {}
    for folder in folders:
        try:
            scores = scored[folder] = scoring.evaluate_run(folder, cache, split, overrides, allow_code=allow_code)
        except (UsageError, CacheError) as error:
            note(f"error: {folder}: {error}")
            continue
        note("  ".join([f"{folder}:", *(f"{name} {value:.4f}" for name, value in scores.result.metrics.items())]))
    for sentence in random_weights_advice(sorted({key for scores in scored.values() for key in scores.random_weights})):
        note(sentence)
    if as_json:
        print(json.dumps([scores.to_json() | {"run": str(folder)} for folder, scores in scored.items()]))
    elif scored:
        printing.results([(folder, scoring.in_table(folder, scores)) for folder, scores in scored.items()])
    if missing := len(folders) - len(scored):
        note(f"{missing} of {counted(len(folders), 'run')} could not be scored")
    return EXIT_FAILED if missing else 0


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Tell all about one network, also timm/MODEL.")
    ] = None,
    of_heads: Annotated[bool, typer.Option("--heads", help="List the heads, at the sizes of their papers.")] = False,
    as_json: AsJson = False,
) -> None:
    """List backbones and proposal networks with their taps (layers), parameters, GMACs and sources of weights."""
    from kinegraph.pipeline import models as known

    if name is not None and of_heads:
        raise UsageError(f"models {name}: allowed without --heads")
    if name is not None:
        row = known.network(name)
        print(json.dumps(row)) if as_json else network(row)
        return
    rows = known.heads() if of_heads else known.models()
    if as_json:
        print(json.dumps(rows))
    else:
        printing.heads(rows) if of_heads else printing.models(rows)


def demo(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of videos, cache and runs. Default: as CONFIG says.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Number of seeds per head.")] = 3,
    config: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="Compare the variants of this config. Default: the demo's.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Train all runs again. Without it, a demo that was cut off goes on.")
    ] = False,
    finetune: Annotated[
        bool,
        typer.Option("--finetune", help="Train one head, then compare fine-tuning with training it longer."),
    ] = False,
    overrides: Overrides = [],
) -> None:
    """Generate videos, extract, train all heads, evaluate and print one table. Needs no internet and no GPU."""
    from kinegraph.pipeline.demo import CONFIG, demo_config, run_demo, run_finetune_demo

    chosen = demo_config(config or CONFIG, out, overrides)
    if finetune:
        printing.finetune_demo(run_finetune_demo(chosen, seeds, note_at_work))
        return
    result = run_demo(chosen, seeds, note_at_work, overwrite=overwrite)
    printing.demo(result)
    _report_of_demo(chosen)
    if result.diverged is not None:
        raise result.diverged


def _report_of_demo(config: "Config") -> None:
    """Writes report.html beside the cache of the demo. If the packages for figures are missing, prints how to install
    them.
    """
    from kinegraph.stages.pictures.packages import require_look

    try:
        require_look()
    except UsageError as error:
        note(f"no report: {error}")
        return
    from kinegraph.pipeline.reports.report import write_report

    out = Path(config.cache).parent / "report.html"
    write_report([config.cache, config.train.run], out)
    say(f"report: {out}")
