"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cache_schemas.errors import CacheError, CacheMismatch, CacheNotFound, UnknownStorage
from cli import printing
from pipeline.errors import OutOfTimeError
from stages.errors import UsageError

if TYPE_CHECKING:
    from pipeline.config import Config

TARGETS, CODECS = ("zarr", "hdf5", "npy"), ("none", "lz4", "zstd")  # of export
FORMATS = ("npy", "hdf5", "bottom_up", "bottom_up_frames")  # of import
EXIT_FAILED, EXIT_USAGE, EXIT_CLIPS_FAILED, EXIT_OUT_OF_TIME, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 3, 75, 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGUSR1 (a scheduler's word that time is up), treated as Ctrl-C."""


STOPS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGUSR1: Terminated,
}


class Commands(TyperGroup):
    """Runs a command; turns its result, and what can go wrong, into messages and exit codes."""

    def invoke(self, ctx: Any) -> None:
        raise typer.Exit(exit_code(lambda: super(Commands, self).invoke(ctx)))


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command; what goes wrong is told on stderr."""
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has seen enough; what is left must not fail once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        printing.note("\nstopped. What is sealed stays; the same command goes on from there.")
        return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
    except OutOfTimeError as stop:
        printing.note(str(stop))
        return EXIT_OUT_OF_TIME
    except (UsageError, CacheMismatch, CacheNotFound, UnknownStorage) as error:
        printing.note(f"error: {error}")
        return EXIT_USAGE
    except (CacheError, RuntimeError, OSError) as error:
        printing.note(f"error: {error}")
        return EXIT_FAILED


app = typer.Typer(
    cls=Commands,
    name="kinegraph",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Extract video features once, train graph heads on them in minutes.",
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML config file.")]
CachePath = Annotated[str, typer.Argument(metavar="CACHE", help="Folder or URL of a cache.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Replace a config value.")]
Stages = Annotated[
    list[str], typer.Option("--stage", help="Only features, proposals, regions, or one of them: features/NAME.")
]
Part = Annotated[str, typer.Option("--shards", metavar="I/N", help="Only shards with index % N == I.")]
Limit = Annotated[int | None, typer.Option(min=1, metavar="ROWS", help="Only the shards of the first ROWS rows.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def main() -> None:
    """Entry point of the command `kinegraph`."""
    # OpenMP threads that spin while they wait are a little faster on a quiet machine and much slower on one whose
    # cores others use too (benchmarks/openmp_waiting.py measures both). It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("kinegraph").setLevel(logging.INFO)  # of others (botocore is talkative) warnings will do
    for number in STOPS:
        signal.signal(number, _stop)
    app()


def _stop(number: int, frame: FrameType | None) -> None:
    """The first signal ends what is being sealed and stops; a second one of its kind ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    raise STOPS[number]


def _check_choice(flag: str, given: str | None, allowed: tuple[str, ...]) -> None:
    if given is not None and given not in allowed:
        raise UsageError(f"{flag} {given}: allowed: {', '.join(allowed)}")


def _config(path: Path, overrides: list[str]) -> "Config":
    from pipeline.config import load_config

    return load_config(path, overrides)


@app.command()
def index(config: ConfigPath, overrides: Overrides = []) -> None:
    """List the videos of a data set and choose the clips: writes clips.parquet."""
    from pipeline.indexing import index as run

    with printing.counting() as progress:
        found = run(_config(config, overrides), progress)
    printing.indexed(found)


@app.command()
def plan(
    config: ConfigPath,
    stage: Stages = [],
    shards: Part = "0/1",
    limit: Limit = None,
    why: Annotated[bool, typer.Option("--why", help="Which options differ from the cache, old and new.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Run one work unit in a temporary folder, for time and memory.")
    ] = False,
    as_json: AsJson = False,
    overrides: Overrides = [],
) -> None:
    """Show what extract would do and cost; writes nothing."""
    from cache_schemas.cache import Cache
    from pipeline import plan as planning
    from pipeline.advice import advice
    from pipeline.estimate import estimate

    settings = _config(config, overrides)
    cache = Cache(settings.cache)
    if why:
        found = planning.why(settings, cache)
        print(json.dumps(found)) if as_json else printing.differences(found)
        return
    for sentence in advice(settings):
        printing.note(sentence)
    made = planning.make_plan(settings, cache, stages=stage, part=planning.parse_part(shards), limit=limit)
    cost = estimate(settings, cache, made)
    measured = None
    if calibrate:
        from pipeline.calibration import calibrate as run_one

        measured = run_one(settings, cache, made)
    if as_json:
        calibration = {"calibration": measured and measured.to_json()} if calibrate else {}
        print(json.dumps(made.to_json() | cost.to_json() | calibration))
    else:
        printing.plan(made, cost)
        if calibrate:
            printing.calibrated(measured)
    cost.check_fits(settings.cache)


@app.command()
def extract(
    config: ConfigPath,
    stage: Stages = [],
    executor: Annotated[str | None, typer.Option(metavar="inline|local|dask|slurm", help="Where to run.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes on this machine (local, dask), or tasks of a SLURM array.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDR", help="Of a Dask cluster that runs: tcp://host:8786.")
    ] = None,
    scheduler_file: Annotated[
        str | None, typer.Option(metavar="F", help="File that the scheduler of a Dask cluster wrote.")
    ] = None,
    shards: Part = "0/1",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed clips again, no others.")] = False,
    limit: Limit = None,
    overrides: Overrides = [],
) -> int:
    """Decode videos, run the frozen networks, seal shards. Goes on where it was stopped."""
    from pipeline.advice import advice
    from pipeline.extraction import extract as run
    from pipeline.plan import parse_part

    given = {
        "executor": executor or ("dask" if scheduler or scheduler_file else None),
        "workers": workers,
        "dask.scheduler": scheduler,
        "dask.scheduler_file": scheduler_file,
    }
    overrides = [*overrides, *(f"run.{key}={value}" for key, value in given.items() if value is not None)]
    settings = _config(config, overrides)
    for sentence in advice(settings):
        printing.note(sentence)
    outcome = run(settings, stages=stage, part=parse_part(shards), limit=limit, retry_failed=retry_failed)
    printing.extracted(outcome, settings.cache)
    return EXIT_CLIPS_FAILED if outcome.failures else 0


@app.command()
def status(cache: CachePath, as_json: AsJson = False) -> None:
    """How far a cache is: done, missing and failed, from its ledger; and what its SLURM jobs are at."""
    from cache_schemas.cache import Cache
    from pipeline.status import status as read

    found = read(Cache(cache))
    if as_json:
        print(json.dumps(found))
    else:
        printing.status(found)


@app.command()
def verify(
    cache: CachePath,
    as_json: AsJson = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Un-mark shards with problems, so that extract redoes them. The exit code stays 1."
        ),
    ] = False,
) -> int:
    """Check every sealed object against the ledger: existence, size, checksum, shape and values."""
    from cache_schemas.cache import Cache
    from pipeline import verification

    found = verification.verify(cache)
    if repair:
        verification.repair(Cache(cache), found.problems)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        printing.verified(found, repaired=repair)
    return 0 if found.ok else EXIT_FAILED


@app.command()
def train(
    config: ConfigPath,
    head: Annotated[
        str, typer.Option(metavar="H,..", help="Heads, or variants of the config; several make a table.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, counted from train.seed.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace runs that exist.")] = False,
    executor: Annotated[
        str | None, typer.Option(metavar="local|slurm", help="slurm: a job array; only runs that are not there.")
    ] = None,
    overrides: Overrides = [],
) -> None:
    """Train heads on the cached tensors; prints validation metrics. Goes on where it was stopped."""
    from pipeline.training import train_runs
    from stages.training.together import rank

    settings = _config(config, overrides if executor is None else [*overrides, f"run.executor={executor}"])
    names = [name for name in head.split(",") if name]
    if settings.run.executor == "slurm":
        from pipeline.training_array import train_on_slurm

        printing.trained(train_on_slurm(settings, names, seeds, overwrite=overwrite))
        return
    if rank() > 0:  # under torchrun the first process speaks for all
        train_runs(settings, names, seeds, overwrite=overwrite)
        return
    lines = printing.TrainingLines()
    runs = train_runs(settings, names, seeds, overwrite=overwrite, on_epoch=lines.epoch, on_step=lines.step)
    printing.trained(runs)


@app.command()
def results(
    runs: Annotated[Path, typer.Argument(metavar="RUNS", help="Folder of one run or of a table.")],
    as_json: AsJson = False,
) -> None:
    """Print the table of trained runs again, with what evaluate has added, from their results.json."""
    from pipeline.results import find_results

    found = find_results(runs)
    if as_json:
        print(json.dumps([run.model_dump(mode="json") | {"run": str(folder)} for folder, run in found]))
    else:
        printing.results(found)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    cache: Annotated[str | None, typer.Option(help="Another cache than the run was trained on.")] = None,
    split: Annotated[str | None, typer.Option(help="Another split than train.test_split.")] = None,
    submission: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write ids and scores as Charades' official scorer reads them.")
    ] = None,
    confusion: Annotated[Path | None, typer.Option(metavar="CSV", help="Write the confusion matrix.")] = None,
    attributes: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Mean over classes by attribute; columns class,<attribute>,...")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a trained run on its test split."""
    from pipeline import scoring
    from pipeline.breakdown import by_attribute

    found = scoring.evaluate_run(run, cache, split)
    groups = by_attribute(found.per_class(), attributes, found.class_names) if attributes else []
    if submission:
        scoring.write_submission(found, submission)
    if confusion:
        scoring.write_confusion(found, confusion)
    if as_json:
        shown = {"attributes": [asdict(group) for group in groups]} if attributes else {}
        print(json.dumps(found.to_json() | shown))
    else:
        printing.evaluated(found, groups)


@app.command()
def export(
    cache: CachePath,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write.")],
    to: Annotated[str, typer.Option(metavar="|".join(TARGETS), help="A cache; npy: a file per array and video.")],
    compression: Annotated[
        str | None, typer.Option(metavar="|".join(CODECS), help="With --to zarr; as CACHE has it, if not given.")
    ] = None,
    array: Annotated[list[str], typer.Option(metavar="NAME", help="With --to npy: only this array.")] = [],
) -> int:
    """Copy a cache to another store, or its arrays to files for other tools; checks every checksum it reads."""
    from cache_schemas.cache import Cache
    from pipeline import exporting, exporting_npy

    _check_choice("--to", to, TARGETS)
    _check_choice("--compression", compression, CODECS)
    if compression and to != "zarr":
        raise UsageError(f"--compression {compression}: goes with --to zarr alone")
    if array and to != "npy":
        raise UsageError(f"--array {array[0]}: goes with --to npy; an exported cache has all arrays")
    with printing.counting() as progress:
        if to == "npy":
            files = exporting_npy.export_npy(Cache(cache), out, array, on_progress=progress)
        else:
            copied = exporting.export_cache(Cache(cache), out, kind=to, compression=compression, on_progress=progress)
    if to == "npy":
        printing.exported_files(files, out)
        return EXIT_FAILED if files.damaged else 0
    printing.exported_cache(copied)
    return EXIT_FAILED if copied.damaged else 0


@app.command("import")
def import_(
    features: Annotated[Path, typer.Argument(metavar="FEATURES", help="Folder of .npy or .npz, or an HDF5 file.")],
    into: Annotated[str, typer.Option(metavar="CACHE", help="Folder of a cache; made if it is not there.")],
    name: Annotated[str, typer.Option(help="Of the features: features/NAME, regions/NAME.")] = "imported",
    tap: Annotated[str, typer.Option(help="What to call the layer they are from.")] = "last",
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(FORMATS),
            help="Of the files, where they do not show it; bottom_up_frames: a folder of .npz per video.",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which one of each group of an HDF5 file; .: each is a video.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Columns path,label[,split]: the rows of a new cache.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, metavar="T", help="Take T frames of each video.")] = None,
) -> int:
    """Take features that others made into a cache, so that heads train on them."""
    from pipeline.imported_stages import Naming
    from pipeline.importing import import_features

    _check_choice("--kind", kind, FORMATS)
    naming = Naming(name=name, tap=tap)
    with printing.counting() as progress:
        found = import_features(
            features, into, naming=naming, kind=kind, dataset=dataset, annotations=annotations, num_frames=frames,
            on_progress=progress,
        )  # fmt: skip
    printing.imported(found)
    return EXIT_CLIPS_FAILED if found.failures else 0


@app.command("slurm-task", hidden=True)
def slurm_task(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a submission.")],
    index: Annotated[int, typer.Argument(metavar="INDEX", help="Of the task in its array.")],
) -> int:
    """One task of a job array; `extract` and `train` submit them with --executor slurm."""
    from pipeline.executors.slurm_task import run_task, tell_completion

    code = exit_code(lambda: run_task(folder, index))
    tell_completion(folder, index, code)
    return code


@app.command()
def models(
    of_heads: Annotated[bool, typer.Option("--heads", help="The heads, at the sizes of their papers.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the networks: taps, parameters and GMACs with their classifier, and where weights come from."""
    from pipeline import models as known

    rows = known.heads() if of_heads else known.models()
    if as_json:
        print(json.dumps(rows))
    else:
        printing.heads(rows) if of_heads else printing.models(rows)


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where videos, cache and runs go: out/demo, or as CONFIG says.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per head.")] = 3,
    config: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="Another config, whose variants are compared.")
    ] = None,
    overrides: Overrides = [],
) -> None:
    """Generate videos, extract, train all heads, evaluate, print one table. No network, no GPU."""
    from pipeline.demo import CONFIG, demo_config, run_demo

    printing.demo(run_demo(demo_config(config or CONFIG, out, overrides), seeds, printing.note))
