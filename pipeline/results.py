"""results.json of a run: what was trained on what, where, and how well. Torch-free."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cache_schemas.files import write_whole
from stages.errors import UsageError

RESULTS_FILE = "results.json"


class ResultsError(UsageError):
    """Results that are not there or cannot be read."""


class RunResults(BaseModel):
    """`recipe` is the config's section `train` for this run; `scores` are metrics by split, fractions.

    `metric` chose the epoch on the validation split, None where nothing did. `seconds` of a run that was
    killed and went on are those of both parts.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    seed: int
    cache: str
    cache_fingerprint: str
    recipe: dict[str, Any]
    environment: dict[str, str]
    num_parameters: int
    num_train_clips: int
    num_failed_videos: int
    metric: str | None
    best_epoch: int
    seconds: float
    history: list[dict[str, Any]]
    scores: dict[str, dict[str, float]]


def write_results(folder: Path, results: RunResults) -> None:
    """Replace the results of the run in `folder`."""
    write_whole(folder / RESULTS_FILE, [results.model_dump_json(indent=2).encode()])


def read_results(folder: Path) -> RunResults:
    """Raises ResultsError where there are none, or others than this kinegraph writes."""
    path = folder / RESULTS_FILE
    try:
        return RunResults.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ResultsError(f"{folder} has no {RESULTS_FILE}: no run was finished there. Train one.") from error
    except ValidationError as error:
        raise ResultsError(
            f"{path} is not what this kinegraph writes: {error}. Train again with --overwrite."
        ) from error


def add_scores(folder: Path, split: str, metrics: dict[str, float]) -> None:
    """Write the metrics of another split into the results of a run."""
    results = read_results(folder)
    write_results(folder, results.model_copy(update={"scores": results.scores | {split: metrics}}))


def find_results(root: Path) -> list[tuple[Path, RunResults]]:
    """All runs in `root` or below, by folder. Raises ResultsError without any."""
    folders = sorted(path.parent for path in root.rglob(RESULTS_FILE))
    if not folders:
        raise ResultsError(f"There is no {RESULTS_FILE} in {root} or below: train with train.run={root} first.")
    return [(folder, read_results(folder)) for folder in folders]
