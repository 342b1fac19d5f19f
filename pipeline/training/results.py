"""results.json of a run: what was trained on what, where, and how well. Torch-free."""

import logging
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from kinegraph.cache_schemas.documents import RESTORE, parsed
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.regular import NotRegularError, read_regular
from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.options import FREE, TrainOptions
from kinegraph.stages.training.records import RECORD_FILE

RESULTS_FILE = "results.json"
OLDER = (
    f"is a run of before runs had a {RESULTS_FILE}, so it stands in no table. `kinegraph evaluate` scores it. "
    "To have it in tables, train it again with --overwrite."
)
log = logging.getLogger("kinegraph")


class ResultsError(UsageError):
    """Results that are not there or cannot be read."""


class SplitCounts(BaseModel):
    """What scores of a split stand on: its videos, those of them without an ok clip (counted as wrong), and clips that
    were not extracted yet, which have no part in them.

    `digest` tells its clips and labels from others; empty in results of before it was written.
    """

    model_config = ConfigDict(frozen=True)

    num_videos: int
    num_failed: int
    num_unsealed_clips: int
    digest: str = ""

    @classmethod
    def of(cls, clips: CachedClips, digest: str) -> Self:
        return cls(
            num_videos=len(clips.videos),
            num_failed=len(clips.failed_videos),
            num_unsealed_clips=clips.num_unsealed,
            digest=digest,
        )


class RunResults(BaseModel):
    """`recipe` is the config's section `train` for this run; `scores` are metrics by split, fractions, of `counts`.

    `random_weights` are the stages with random weights that the run reads; None in runs of before it was written.
    `trained_on` tells the clips, labels and classes of its splits from others; empty in runs of before it was written.

    `metric` chose the epoch on the validation split, None where nothing did. `seconds` of a run that was
    killed and went on are those of both parts.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    seed: int
    cache: str
    cache_fingerprint: str
    recipe: TrainOptions
    trained_on: dict[str, Any] = Field(default_factory=dict)
    random_weights: tuple[str, ...] | None = None
    environment: dict[str, str]
    num_parameters: int
    num_train_clips: int
    num_failed_videos: int
    metric: str | None
    best_epoch: int
    seconds: float
    history: list[dict[str, Any]]
    scores: dict[str, dict[str, float]]
    counts: dict[str, SplitCounts] = Field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """What runs have in common whose scores may be averaged: all that numbers depend on but the seed."""
        found = comparable(self.recipe, self.cache_fingerprint, self.trained_on)
        return {key: value for key, value in found.items() if key != "seed"}


def comparable(recipe: TrainOptions, features: str, trained_on: dict[str, Any]) -> dict[str, Any]:
    """All that a run's numbers depend on; `features` is the fingerprint of what it reads."""
    return recipe.model_dump(mode="json", exclude=FREE) | {"features": features, "trained_on": trained_on}


def write_results(folder: Path, results: RunResults) -> None:
    """Replace the results of the run in `folder`."""
    write_whole(folder / RESULTS_FILE, [results.model_dump_json(indent=2).encode()])


def read_results(folder: Path) -> RunResults:
    """Raises ResultsError where there are none, or others than this kinegraph writes."""
    path = folder / RESULTS_FILE
    try:
        return parsed(str(path), read_regular(path), RunResults, f"{RESTORE} Or train again with --overwrite.")
    except FileNotFoundError as error:
        if (folder / RECORD_FILE).exists():
            raise ResultsError(f"{folder} {OLDER}") from error
        raise ResultsError(f"{folder} has no {RESULTS_FILE}: no run was finished there. Train one.") from error
    except (NotRegularError, CacheError) as error:
        raise ResultsError(str(error)) from error


def add_scores(folder: Path, split: str, metrics: dict[str, float], counts: SplitCounts) -> None:
    """Write the metrics of another split into the results of a run."""
    results = read_results(folder)
    added = {"scores": results.scores | {split: metrics}, "counts": results.counts | {split: counts}}
    write_results(folder, results.model_copy(update=added))


def find_results(root: Path) -> list[tuple[Path, RunResults]]:
    """All runs in `root` or below, by folder. Raises ResultsError without any."""
    folders = sorted(path.parent for path in root.rglob(RESULTS_FILE))
    older = sorted({path.parent for path in root.rglob(RECORD_FILE)}.difference(folders))
    for folder in older:
        log.warning("%s %s", folder, OLDER)
    if not folders:
        if older:
            raise ResultsError(f"There is no {RESULTS_FILE} in {root} or below, only runs of before it was written.")
        raise ResultsError(f"There is no {RESULTS_FILE} in {root} or below: train with train.run={root} first.")
    return [(folder, read_results(folder)) for folder in folders]
