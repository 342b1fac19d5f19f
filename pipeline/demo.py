"""`kinegraph demo` runs a config from videos to scores, and returns one table of the scores of all heads."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.joint_comparison import JointComparison, compare
from kinegraph.pipeline.training.results import RunResults
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import RunsDiverged, TrainedRun, train_runs, wanted_runs
from kinegraph.pipeline.wanted_run import WantedRun
from kinegraph.stages.device import is_slow_at, pick_device
from kinegraph.stages.training.checkpoint import is_trained
from kinegraph.stages.training.clips import require_usable
from kinegraph.stages.training.evaluation import EvaluationResult
from kinegraph.stages.training.train import on_threads

log = logging.getLogger("kinegraph")
CONFIG = Path(__file__).with_name("demo.yaml")
TUNED, TUNED_EPOCHS = "strg_spatial_temporal", 100  # after 20 epochs this head has not converged
ABOUT = {  # by variant; other variants show the name of their head
    "avg_pool": "control: appearance",
    "proposal_pool": "control: objects",
    "proposal_mlp": "control: objects and capacity, no edges",
    "lstm": "control: time, no objects",
    "trn": "control: relations of frames, no objects",
    "conv_lstm": "control: time on maps, no objects",
    "non_local": "control: attention on maps, no objects",
    "strg_similarity": "graph of similar regions",
    "strg_spatial_temporal": "graph of overlapping regions",
    "strg_joint": "both graphs",
    "trg": "graphs of frames, on maps",
    "atr": "graph of frames, where the action is",
    "rstg": "recurrent graph of cells, on maps",
    "relation_matrix": "true positions: relations, no graph",
    "st_sgn": "true positions: scene graphs",
}


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """The row of one head in the table of the demo. `name` is the head's name in `train.variants` of the config.
    `about` says in words what the head is.

    `scores` has the test score for each seed. `seconds` has the duration of the training for each seed.
    `num_parameters` is the number of trained parameters.
    """

    name: str
    about: str
    scores: tuple[float, ...]
    seconds: tuple[float, ...]
    num_parameters: int


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The table of scores: `rows` has one entry per head, each with `seeds` seeds. `metric` is the name of the metric
    of all scores.

    `num_videos` counts all videos and `num_test` the test videos. `generate_seconds`, `extract_seconds` and `seconds`
    are the times of generating videos, of extraction and of the whole demo. `diverged` is the error that names the
    diverged runs, which have no score in the table. It is None if no run diverged.
    """

    rows: tuple[DemoRow, ...]
    metric: str
    seeds: int
    num_videos: int
    num_test: int
    generate_seconds: float
    extract_seconds: float
    seconds: float
    diverged: RunsDiverged | None = None


@dataclass(frozen=True, kw_only=True)
class FinetuneDemoResult:
    """The results of the fine-tuning demo: `comparisons` has one JointComparison per seed. `epochs` is the number of
    epochs of fine-tuning, and `seconds` is the duration of the demo.

    `start` is a text for the output. It says from which runs the fine-tuning started.
    """

    comparisons: tuple[JointComparison, ...]
    start: str
    epochs: int
    seconds: float


def demo_config(path: Path, out: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Returns the config of a demo, read from the file `path`. With `out`, the cache, the videos and the runs are put
    below the folder `out`.

    If the device is slow at bf16, backbones and heads compute in float32 instead, and a log line names them. Values in
    `overrides` (`section.key=value`) replace all others. Raises ConfigError if the config has no section `dataset` or
    no variants in the section `train`.
    """
    names = {"cache": "cache", "dataset.root": "videos", "train.run": "runs"} if out else {}
    places = [f"{key}={out}/{name}" for key, name in names.items()]
    config = load_config(path, [*places, *overrides])
    device = pick_device(config.run.device)
    precisions = _precisions(config)
    slow = [key for key, precision in precisions.items() if is_slow_at(precision, device)]
    if slow:
        config = load_config(path, [*places, *(f"{key}=fp32" for key in slow), *overrides])
    if changed := [key for key in slow if _precisions(config)[key] == "fp32"]:
        log.info("%s: fp32. This CPU has no instructions for bf16", ", ".join(changed))
    if config.dataset is None or not config.train.variants:
        raise ConfigError(f"{path}: a demo needs the sections dataset and train.variants")
    return config


def _precisions(config: Config) -> dict[str, str]:
    """Returns key of the config -> precision, for each backbone and for the training of heads."""
    return {
        **{f"backbones.{name}.precision": backbone.precision for name, backbone in config.backbones.items()},
        "train.precision": config.train.precision,
    }


def run_demo(config: Config, seeds: int, note: Callable[[str], None], *, overwrite: bool = False) -> DemoResult:
    """Generates videos, extracts, trains every head in `train.variants` with every seed, and scores each run on the
    unseen test videos. The number of seeds is `seeds`.

    Returns a DemoResult, the table of the scores. If an earlier call was cut off, its finished runs are kept, unless
    `overwrite` is set. If an earlier call finished, all runs are trained again. `note` is called with a line of text at
    each step.

    Raises UnusableClips before extraction if test videos lack labels. Raises RunExists if a finished run that is kept
    had other options or clips than `config` now has. Raises RunsDiverged if all runs diverged.
    """
    begun = time.monotonic()
    assert config.dataset is not None
    note(f"1/3 generating videos in {config.dataset.root}")
    indexed = index(config)
    names = [*config.train.variants]
    wanted = wanted_runs(config, names, seeds)
    _require_test_labels(indexed.cache, wanted)
    generated = time.monotonic()
    note(f"2/3 extracting {counted(len(indexed.cache.clips), 'clip')} into {config.cache}")
    extract(config)
    extracted = time.monotonic()
    note(f"3/3 training {counted(len(names), 'head')} with {counted(seeds, 'seed')}, runs in {config.train.run}")
    finished = all(is_trained(run.folder) for run in wanted)
    trained, diverged = _trained(config, names, seeds, overwrite=overwrite or finished, note=note)
    runs, results = zip(*trained, strict=True)
    metric = _metric(config, results[0])
    scored = [(run.results, result.metrics[metric]) for run, result in zip(runs, results, strict=True)]
    return DemoResult(
        rows=tuple(_row(config, list(group)) for _, group in groupby(scored, key=lambda each: each[0].name)),
        metric=metric,
        seeds=seeds,
        num_videos=indexed.num_videos,
        num_test=results[0].num_videos,
        generate_seconds=generated - begun,
        extract_seconds=extracted - generated,
        seconds=time.monotonic() - begun,
        diverged=diverged,
    )


def run_finetune_demo(config: Config, seeds: int, note: Callable[[str], None]) -> FinetuneDemoResult:
    """Trains the variant TUNED for TUNED_EPOCHS epochs with `seeds` seeds, then compares fine-tuning with more training
    of the head alone. Returns a FinetuneDemoResult.

    Videos, cache and runs that exist are kept. `note` is called with a line of text at each step. Raises ConfigError if
    the config has no variant TUNED.
    """
    begun = time.monotonic()
    if TUNED not in config.train.variants:
        raise ConfigError(f"demo --finetune: the config needs the variant {TUNED} in train.variants")
    assert config.dataset is not None
    note(f"1/3 generating videos in {config.dataset.root}")
    indexed = index(config)
    note(f"2/3 extracting {counted(len(indexed.cache.clips), 'clip')} into {config.cache}")
    extract(config)
    note(f"3/3 training {TUNED} for {TUNED_EPOCHS} epochs with {counted(seeds, 'seed')}, then comparing")
    compared = compare(config, TUNED, TUNED_EPOCHS, seeds, note)
    return FinetuneDemoResult(
        comparisons=tuple(compared),
        start=f"{TUNED}, {TUNED_EPOCHS} epochs on the cache",
        epochs=config.finetune.epochs,
        seconds=time.monotonic() - begun,
    )


def _require_test_labels(cache: Cache, wanted: Sequence[WantedRun]) -> None:
    """Raises UnusableClips if the test split in `cache` of a run in `wanted` has no clips or lacks labels. Heads could
    not be compared then.
    """
    for split in {run.options.test_split for run in wanted}:
        require_usable(CachedClips(cache, [], split), f"compare heads on in split {split!r}")


def _trained(
    config: Config, names: Sequence[str], seeds: int, *, overwrite: bool, note: Callable[[str], None]
) -> tuple[list[tuple[TrainedRun, EvaluationResult]], RunsDiverged | None]:
    """Trains each head in `names` with each of `seeds` seeds. Returns the finished runs with their scores on the test
    videos, and the error that names the runs that diverged. The error is None if no run diverged.

    A run is scored as soon as it has ended, while other processes train. Runs that are finished already are kept,
    unless `overwrite` is true. `note` is called with a line of text for each finished run. Raises RunsDiverged if all
    runs diverged.
    """
    numbers = count(1)
    results: dict[Path, EvaluationResult] = {}

    def score(run: TrainedRun) -> None:
        how = "kept" if run.kept else f"{run.results.seconds:.0f} s"
        of_all = f"run {next(numbers)} of {len(names) * seeds}"
        note(f"      {of_all} ({run.results.name}, seed {run.results.seed}): {how}")
        with on_threads(config.run.worker_threads):  # as many as a process that trains
            results[run.folder] = evaluate_run(run.folder).result

    diverged = None
    try:
        runs: Sequence[TrainedRun] = train_runs(config, names, seeds, overwrite=overwrite, on_run=score)
    except RunsDiverged as error:
        if not error.finished:
            raise
        runs, diverged = error.finished, error
    return [(run, results[run.folder]) for run in runs], diverged


def _metric(config: Config, result: EvaluationResult) -> str:
    """Returns the name of `train.metric` if `result` has that metric, else the first metric of `result`."""
    wanted = config.train.metric
    return wanted if wanted and wanted in result.metrics else next(iter(result.metrics))


def _row(config: Config, scored: Sequence[tuple[RunResults, float]]) -> DemoRow:
    """Returns the DemoRow, a row of the table, for the runs of one variant. `scored` has one pair (results, score in
    the table) for each run.
    """
    name = scored[0][0].name
    return DemoRow(
        name=name,
        about=ABOUT.get(name, config.train.variant(name).head),
        scores=tuple(score for _, score in scored),
        seconds=tuple(results.seconds for results, _ in scored),
        num_parameters=scored[0][0].num_parameters,
    )
