"""`kinegraph demo`: the whole way on generated videos, and one table at the end."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeline.config import Config, load_config
from pipeline.extraction import extract
from pipeline.indexing import index
from pipeline.scoring import evaluate_run
from pipeline.training import train_runs

CONFIG = Path(__file__).with_name("demo.yaml")
ABOUT = {
    "avg_pool": "control: appearance",
    "proposal_pool": "control: objects",
    "proposal_mlp": "control: objects and capacity, no edges",
    "lstm": "control: time, no objects",
    "strg_similarity": "graph of similar regions",
    "strg_spatial_temporal": "graph of overlapping regions",
    "strg_joint": "both graphs",
}


@dataclass(frozen=True, kw_only=True)
class DemoRow:
    """One head: test accuracy and training seconds, one of each per seed."""

    name: str
    about: str
    accuracies: tuple[float, ...]
    seconds: tuple[float, ...]
    num_parameters: int


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The table, and what it took to get there, in seconds."""

    rows: tuple[DemoRow, ...]
    seeds: int
    num_videos: int
    num_test: int
    generate_seconds: float
    extract_seconds: float
    seconds: float


def demo_config(out: Path) -> Config:
    """The demo's config with everything below `out`."""
    places = {"cache": out / "cache", "dataset.root": out / "videos", "train.run": out / "runs"}
    return load_config(CONFIG, [f"{key}={path}" for key, path in places.items()])


def run_demo(out: Path, seeds: int, note: Callable[[str], None]) -> DemoResult:
    """Generate, extract, train every variant with every seed, score each on the unseen test videos."""
    begun = time.monotonic()
    config = demo_config(out)
    assert config.dataset is not None
    note(f"1/3 generating videos in {config.dataset.root}")
    indexed = index(config)
    generated = time.monotonic()
    note(f"2/3 extracting {len(indexed.cache.clips)} clips into {config.cache}")
    extract(config)
    extracted = time.monotonic()
    note(f"3/3 training {len(config.train.variants)} heads with {seeds} seeds, runs in {config.train.run}")
    names = [*config.train.variants]
    runs = train_runs(
        config,
        names,
        seeds,
        overwrite=True,
        on_run=lambda run: note(f"      {run.results.name} seed {run.results.seed}"),
    )
    rows = []
    num_test = 0
    for name, group in groupby(runs, key=lambda run: run.results.name):
        of_name = list(group)
        scores = [evaluate_run(run.folder).result for run in of_name]
        num_test = scores[0].num_videos
        rows.append(
            DemoRow(
                name=name,
                about=ABOUT[name],
                accuracies=tuple(score.metrics["top1"] for score in scores),
                seconds=tuple(run.results.seconds for run in of_name),
                num_parameters=of_name[0].results.num_parameters,
            )
        )
    return DemoResult(
        rows=tuple(rows),
        seeds=seeds,
        num_videos=indexed.num_videos,
        num_test=num_test,
        generate_seconds=generated - begun,
        extract_seconds=extracted - generated,
        seconds=time.monotonic() - begun,
    )
