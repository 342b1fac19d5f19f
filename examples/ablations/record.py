"""Trains the rows of the ablations and measures them. Finished runs are not repeated."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.ablations.measures import measures_of
from examples.ablations.rows import ACCURACY, Ablation
from kinegraph.cache_schemas.files import write_whole
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.demo import demo_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.results import read_results
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import train_runs, untrained, wanted_runs

MEASURED = "ablation.json"  # beside the run.json of a run
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class MeasuredRow:
    """The figures of one row. `values` is {measure: value for each seed}."""

    name: str
    values: dict[str, list[float]]
    seconds: float
    num_parameters: int

    def mean(self, measure: str) -> float:
        return statistics.fmean(self.values[measure])

    def spread(self, measure: str) -> float:
        """Returns the sample standard deviation of `measure` over the seeds, or 0 for one seed."""
        values = self.values[measure]
        return statistics.stdev(values) if len(values) > 1 else 0.0


def prepared(path: Path, overrides: Sequence[str], say: Say) -> Config:
    """Generates the videos of the config in the file `path` and extracts its cache. Returns the Config.

    `overrides` are texts such as `section.key=value`. `say` prints a line.
    """
    config = demo_config(path, None, overrides)
    say(f"videos and features in {config.cache}")
    index(config)
    extract(config)
    return config


def measured_rows(config: Config, ablation: Ablation, seeds: int, say: Say) -> list[MeasuredRow]:
    """Trains the rows of `ablation`, which are variants of `config`, with `seeds` seeds and measures each run. Returns
    one MeasuredRow for each row.

    Finished runs and their measures are not repeated. `say` is called with a line for each run that was measured.
    Raises RunsDiverged, at the end, if a run diverged.
    """
    names = [*ablation.rows]
    wanted = wanted_runs(config, names, seeds)
    if untrained(wanted):
        train_runs(config, names, seeds)
    rows = []
    for name in names:
        folders = [run.folder for run in wanted if run.name == name]
        values = [_measured(folder, say) for folder in folders]
        trained = [read_results(folder) for folder in folders]
        rows.append(
            MeasuredRow(
                name=name,
                values={measure: [of_run[measure] for of_run in values] for measure in values[0]},
                seconds=statistics.fmean(run.seconds for run in trained),
                num_parameters=trained[0].num_parameters,
            )
        )
    return rows


def _measured(folder: Path, say: Say) -> dict[str, float]:
    kept = folder / MEASURED
    if not kept.exists():
        scores = evaluate_run(folder)
        values = {ACCURACY: scores.result.metrics["top1"], **measures_of(folder, scores)}
        write_whole(kept, [json.dumps(values).encode()])
        say(f"{folder}: {ACCURACY} {values[ACCURACY]:.3f}, {read_results(folder).seconds:.0f} s")
    values = json.loads(kept.read_bytes())
    return {name: float(value) for name, value in values.items()}


def document(rows: Sequence[MeasuredRow]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]
