"""Writes and reads results.json, the file with the training options, clips, machine and scores of a run. Torch-free."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from kinegraph.cache_schemas.documents import RESTORE, parsed
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.files import write_whole
from kinegraph.cache_schemas.regular import NotRegularError, read_regular
from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.options import FREE, TrainOptions
from kinegraph.stages.training.records import RECORD_FILE, STATE_FILE

if TYPE_CHECKING:
    from kinegraph.stages.training.videos import Samples

RESULTS_FILE = "results.json"
OLDER = (
    f"is a run of an older version without {RESULTS_FILE}, so no table has it. `kinegraph evaluate` scores it. "
    "To add it to tables, train it again with --overwrite."
)
log = logging.getLogger("kinegraph")


class ResultsError(UsageError):
    """Raised if the results of a run are missing or cannot be read."""


class SplitCounts(BaseModel):
    """The numbers of videos and clips of a split that was scored."""

    model_config = ConfigDict(frozen=True)

    num_videos: int  # the number of videos
    num_failed: int  # the number of videos whose clips all failed. Such a video counts as wrong.
    num_unsealed_clips: int  # the number of clips that are not extracted yet. Scores leave them out.
    digest: str = ""  # identifies the clips and labels of the split. "" in results of earlier versions.

    @classmethod
    def of(cls, clips: "Samples", digest: str) -> Self:
        return cls(
            num_videos=len(clips.videos),
            num_failed=len(clips.failed_videos),
            num_unsealed_clips=clips.num_unsealed,
            digest=digest,
        )


class RunResults(BaseModel):
    """The results of one training run, which results.json contains."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = 1
    # `name`, `seed`: the name of the head or variant, and the seed
    name: str
    seed: int
    # `cache`, `cache_fingerprint`: the cache, and the fingerprint of the arrays that the run reads
    cache: str
    cache_fingerprint: str
    recipe: TrainOptions  # the training options
    # Digests of the clips, labels and classes. Empty for a run of an earlier version.
    trained_on: dict[str, Any] = Field(default_factory=dict)
    # The keys of the stages with random weights that the run reads. None for a run of an earlier version.
    random_weights: tuple[str, ...] | None = None
    environment: dict[str, str]  # the versions of packages, the device and the number of threads
    num_parameters: int  # the number of parameters of the head
    num_train_clips: int  # the number of clips of the training split
    num_failed_videos: int  # the number of training videos whose clips all failed
    metric: str | None  # the validation metric by which the best epoch was chosen. None without a validation split.
    best_epoch: int  # the number of the best epoch
    seconds: float  # the training time, summed over all parts of an interrupted run
    history: list[dict[str, Any]]  # a record for each epoch
    scores: dict[str, dict[str, float]]  # split -> metric -> value, a fraction from 0 to 1
    counts: dict[str, SplitCounts] = Field(default_factory=dict)  # split -> its numbers of videos and clips
    # The candidate that validation chose, or None for a head without candidates. A candidate is a set of weights with
    # its own learning rate and weight decay.
    candidate: str | None = None
    # Candidate -> its best validation metric, or None if its training diverged
    of_candidates: dict[str, float | None] = Field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Returns a dict of all values on which the scores depend, except the seed.

        Runs with equal dicts form one row of a table, which shows their mean score.
        """
        compared = comparable(self.recipe, self.cache_fingerprint, self.trained_on)
        return {key: value for key, value in compared.items() if key != "seed"}


def comparable(recipe: TrainOptions, features: str, trained_on: dict[str, Any]) -> dict[str, Any]:
    """Returns a dict of all values on which the scores of a run depend. The scores of two runs may be compared if their
    dicts are equal.

    `recipe` has the training options. `features` is the fingerprint of the arrays that the run reads. `trained_on`
    identifies its clips and classes.
    """
    return recipe.model_dump(mode="json", exclude=FREE) | {"features": features, "trained_on": trained_on}


def write_results(folder: Path, results: RunResults) -> None:
    """Writes `results` to results.json in `folder`, the folder of a run. An existing file is replaced."""
    write_whole(folder / RESULTS_FILE, [results.model_dump_json(indent=2).encode()])


def read_results(folder: Path) -> RunResults:
    """Reads results.json in `folder`, the folder of a run, and returns the results.

    Raises ResultsError if there is no such file, or if this version of kinegraph cannot read it.
    """
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
    """Writes the scores of one split into results.json of the run in `folder`. Earlier scores of the split are
    replaced.

    `metrics` maps names of metrics to values. `counts` has the numbers of videos and clips of the split.
    """
    results = read_results(folder)
    added = {"scores": results.scores | {split: metrics}, "counts": results.counts | {split: counts}}
    write_results(folder, results.model_copy(update=added))


def find_results(root: Path) -> list[tuple[Path, RunResults]]:
    """Returns a pair (folder, results) for each run in `root` or below, sorted by folder.

    Raises ResultsError if there is no run with results, or if results cannot be read.
    """
    folders = sorted(path.parent for path in root.rglob(RESULTS_FILE))
    older = sorted({path.parent for path in root.rglob(RECORD_FILE)}.difference(folders))
    for folder in older:
        log.warning("%s %s", folder, OLDER)
    if not folders:
        if older:
            raise ResultsError(f"There is no {RESULTS_FILE} in {root} or below, only runs of older versions.")
        raise ResultsError(f"There is no {RESULTS_FILE} in {root} or below: train with train.run={root} first.")
    return [(folder, read_results(folder)) for folder in folders]


def unfinished_runs(root: Path) -> list[Path]:
    """Returns the sorted folders in `root` or below that have a training that was begun and is not finished."""
    return sorted(path.parent for path in root.rglob(STATE_FILE) if not (path.parent / RESULTS_FILE).exists())
