"""Runs the demo: generates videos, extracts features, trains all heads, and returns a table of their test scores."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.clusters.wanted_run import WantedRun
from kinegraph.pipeline.config import Config, load_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.results import RunResults
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import RunsDiverged, TrainedRun, train_runs, wanted_runs
from kinegraph.stages.device import is_slow_at, pick_device
from kinegraph.stages.training.checkpoint import is_trained
from kinegraph.stages.training.clips import require_usable
from kinegraph.stages.training.evaluation import EvaluationResult
from kinegraph.stages.training.train import on_threads

if TYPE_CHECKING:
    from kinegraph.pipeline.training.joint_comparison import JointComparison

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
    """The row of one head in the table of the demo."""

    name: str  # the key of the head in `train.variants` of the config
    about: str  # a few words about the head
    scores: tuple[float, ...]  # the test score for each seed
    seconds: tuple[float, ...]  # the training time for each seed
    num_parameters: int  # the number of trained parameters


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The result of the demo: a table of test scores, and the times."""

    rows: tuple[DemoRow, ...]  # one row for each head
    metric: str  # the name of the metric of all scores
    seeds: int  # the number of seeds of each head
    # `num_videos`, `num_test`: the numbers of all videos and of the test videos
    num_videos: int
    num_test: int
    # `generate_seconds`, `extract_seconds`, `seconds`: the times of generating videos, of the extraction and of the
    # whole demo
    generate_seconds: float
    extract_seconds: float
    seconds: float
    diverged: RunsDiverged | None = None  # the error that names the runs that diverged and have no score, or None


@dataclass(frozen=True, kw_only=True)
class FinetuneDemoResult:
    """The result of the demo of fine-tuning."""

    comparisons: "tuple[JointComparison, ...]"  # for each seed, the test scores after different trainings
    start: str  # a text that says from which runs the fine-tuning started
    epochs: int  # the number of epochs of fine-tuning
    seconds: float  # the duration of the demo


def demo_config(path: Path, out: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads the config of a demo from the file `path` and returns it. If `out` is a folder, the cache, the videos and
    the runs are put into it.

    If the device is slow at bf16, networks compute in float32 instead, and a log line says so. Values in `overrides`
    ("section.key=value") replace all other values. Raises ConfigError if the config has no section `dataset` or no
    variants in the section `train`.
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
    """Returns the precision of each backbone and of the training, as a dict {config key: precision}."""
    return {
        **{f"backbones.{name}.precision": backbone.precision for name, backbone in config.backbones.items()},
        "train.precision": config.train.precision,
    }


def run_demo(config: Config, seeds: int, note: Callable[[str], None], *, overwrite: bool = False) -> DemoResult:
    """Generates videos, extracts features, trains each head in `train.variants` with `seeds` seeds, and scores each run
    on the test videos. Returns the table of scores as a DemoResult.

    Runs that an earlier, stopped call finished are kept, unless `overwrite` is true. `note` is called with a line of
    text at each step.

    Raises UnusableClips before the extraction if test videos lack labels. Raises RunExists if a kept run had other
    options or clips than `config`. Raises RunsDiverged if all runs diverged.
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
    """Trains the head TUNED for TUNED_EPOCHS epochs with `seeds` seeds. Then compares fine-tuning of these runs with
    more training of the head alone. Returns a FinetuneDemoResult.

    The videos, the cache and the runs of an earlier call are used again. `note` is called with a line of text at each
    step. Raises ConfigError if the config has no variant TUNED.
    """
    from kinegraph.pipeline.training.joint_comparison import compare  # torchvision, which takes as long as torch

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
    """Raises UnusableClips if the test split of a run in `wanted` has no clips or lacks labels in `cache`, because
    heads could not be compared.
    """
    for split in {run.options.test_split for run in wanted}:
        require_usable(CachedClips(cache, [], split), f"compare heads on in split {split!r}")


def _trained(
    config: Config, names: Sequence[str], seeds: int, *, overwrite: bool, note: Callable[[str], None]
) -> tuple[list[tuple[TrainedRun, EvaluationResult]], RunsDiverged | None]:
    """Trains each head in `names` with `seeds` seeds. Returns a list of (finished run, its scores on the test videos),
    and the error that names the runs that diverged, or None if no run diverged.

    Each run is scored when it has ended, while other processes train. Runs that are finished already are kept, unless
    `overwrite` is True. `note` is called with a line of text for each finished run. Raises RunsDiverged if all runs
    diverged.
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
    """Returns the name of the metric for the table: `train.metric` if `result` has this metric, otherwise the first
    metric of `result`.
    """
    wanted = config.train.metric
    return wanted if wanted and wanted in result.metrics else next(iter(result.metrics))


def _row(config: Config, scored: Sequence[tuple[RunResults, float]]) -> DemoRow:
    """Returns the row of one head in the table. `scored` has a pair (results, score) for each of its runs."""
    name = scored[0][0].name
    return DemoRow(
        name=name,
        about=ABOUT.get(name, config.train.variant(name).head),
        scores=tuple(score for _, score in scored),
        seconds=tuple(results.seconds for results, _ in scored),
        num_parameters=scored[0][0].num_parameters,
    )
