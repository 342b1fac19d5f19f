"""Writes and reads predictions-<split>.parquet, a file in the folder of a run with the scores of all videos of a split.
Torch-free.

docs/training.md describes the columns. V is the number of videos and K the number of classes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from kinegraph.cache_schemas.documents import RESTORE, parsed
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.files import remove_durably, write_whole
from kinegraph.cache_schemas.fingerprint import fingerprint
from kinegraph.cache_schemas.regular import NotRegularError, read_regular
from kinegraph.cache_schemas.words import on_one_line, sentence
from kinegraph.pipeline.training.results import ResultsError, comparable, read_results
from kinegraph.stages.training.options import TrainOptions
from kinegraph.stages.training.records import RECORD_FILE

KEY = b"kinegraph"  # of the document in the file's metadata
START = "predictions-"  # of the names of the files


class PredictionsDocument(BaseModel):
    """A JSON document in the metadata of predictions-<split>.parquet, under the key "kinegraph"."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_version: Literal[1] = 1
    split: str
    class_names: tuple[str, ...]
    multi_label: bool
    scores_are: Literal["logits", "probabilities"]  # "logits" or "probabilities", the content of the column `scores`
    clips: str  # the digest of the clips and labels of the split, as in `counts` of results.json
    recipe: str  # the fingerprint of the training options, the features and the training clips
    weights_sha256: str | None  # the digest of the head's weights, or None for a run of an earlier version
    kinegraph_version: str


@dataclass(frozen=True, kw_only=True)
class KeptPredictions:
    """The scores of the V videos of a split, for K classes. The videos have the order of the data set's list."""

    about: PredictionsDocument  # facts about the scores, for example whether they are logits or probabilities
    video_ids: Sequence[str]
    clip_ids: Sequence[str | None]  # one item for each video: the id of its clip if `num_clips` is 1, otherwise None
    num_clips: np.ndarray  # int32 [V], the number of clips of each video whose extraction did not fail
    labels: Sequence[Sequence[int]]  # the class numbers of each video
    scores: np.ndarray  # float32 [V, K]. NaN for a video whose clips all failed.

    @property
    def probabilities(self) -> np.ndarray:
        """Returns the class probabilities of all videos, float64 [V, K]. A video without scores has NaN.

        If the scores are logits, they are converted by the sigmoid if a video may have several labels, otherwise by the
        softmax.
        """
        scores = self.scores.astype(np.float64)
        if self.about.scores_are == "probabilities":
            return scores
        if self.about.multi_label:
            return np.asarray(0.5 + 0.5 * np.tanh(scores / 2))
        powers = np.exp(scores - scores.max(1, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(1, keepdims=True))


def predictions_path(folder: Path, split: str) -> Path:
    """Returns the path of the predictions of the split `split` in `folder`, the folder of a run. Letters that a file
    name cannot have are escaped as in a URL.
    """
    return folder / f"{START}{quote(split, safe=' ')}.parquet"


def kept_splits(folder: Path) -> list[str]:
    """Returns the names of the splits whose predictions are in `folder`, the folder of a run."""
    return [unquote(path.stem.removeprefix(START)) for path in sorted(folder.glob(f"{START}*.parquet"))]


def recipe_digest(recipe: TrainOptions, features: str, trained_on: dict[str, Any]) -> str:
    """Returns a fingerprint of everything on which the weights of a run depend: its training options, features and
    clips.

    `features` is the fingerprint of the arrays that the run reads, and `trained_on` identifies its clips and classes.
    """
    return fingerprint(comparable(recipe, features, trained_on))


def write_predictions(folder: Path, predictions: KeptPredictions) -> Path:
    """Writes `predictions` to predictions-<split>.parquet in `folder`, the folder of a run, and returns the path. An
    interrupted call leaves no incomplete file.
    """
    num_classes = len(predictions.about.class_names)
    scores = predictions.scores.astype(np.float32)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), num_classes)
    columns = {
        "video_id": pa.array(predictions.video_ids, pa.string()),
        "clip_id": pa.array(predictions.clip_ids, pa.string()),
        "num_clips": pa.array(predictions.num_clips, pa.int32()),
        "labels": pa.array([[*labels] for labels in predictions.labels], pa.list_(pa.int32())),
        "scores": rows,
    }
    table = pa.table(columns).replace_schema_metadata({KEY: predictions.about.model_dump_json()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    path = predictions_path(folder, predictions.about.split)
    write_whole(path, [memoryview(sink.getvalue())])
    return path


def read_predictions(folder: Path, split: str) -> KeptPredictions:
    """Reads the predictions of the run in `folder` for the split `split` and returns them.

    Raises ResultsError if the file is missing or damaged, or if the record of the run cannot be read. Raises
    ResultsError also if the file was made with other clips, training options or weights than the run now has. The
    message says what to do.
    """
    path = predictions_path(folder, split)
    again = f"`kinegraph evaluate {folder} --split {split}` writes it."
    try:
        table = pq.read_table(pa.BufferReader(read_regular(path)))
        document = (table.schema.metadata or {}).get(KEY, b"{}")
        about = parsed(str(path), document, PredictionsDocument, again)
    except FileNotFoundError as error:
        raise ResultsError(f"{folder} has no {path.name}. {again}") from error
    except (NotRegularError, CacheError) as error:
        raise ResultsError(str(error)) from error
    except (OSError, pa.ArrowException) as error:
        raise ResultsError(f"{path} is damaged: {sentence(on_one_line(str(error)))} {again}") from error
    if changed := _differs(about, folder):
        raise ResultsError(f"{path} is of {changed} than the run has now. {again}")
    scores = table["scores"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return KeptPredictions(
        about=about,
        video_ids=table["video_id"].to_pylist(),
        clip_ids=table["clip_id"].to_pylist(),
        num_clips=table["num_clips"].to_numpy(),
        labels=table["labels"].to_pylist(),
        scores=scores.reshape(len(table), -1),
    )


def remove_predictions(folder: Path) -> None:
    """Removes the predictions of all splits from `folder`, the folder of a run."""
    for path in folder.glob(f"{START}*.parquet"):
        remove_durably(path)


def _differs(about: PredictionsDocument, folder: Path) -> str:
    """Returns a text that says how the run in `folder` differs from the run that made the predictions: "other weights",
    for example. Returns "" if it does not differ.
    """
    results = read_results(folder)
    if about.recipe != recipe_digest(results.recipe, results.cache_fingerprint, results.trained_on):
        return "another recipe or other features"
    if about.weights_sha256 != _weights_of(folder):
        return "other weights"
    counts = results.counts.get(about.split)
    return "other clips or labels" if counts and about.clips != counts.digest else ""


def _weights_of(folder: Path) -> str | None:
    """Returns the digest of the weights of the run in `folder`, or None if an earlier version did not record it. Raises
    ResultsError if the record of the run cannot be read.
    """
    path = folder / RECORD_FILE
    try:
        weights: str | None = json.loads(read_regular(path)).get("weights_sha256")
        return weights
    except (OSError, ValueError, AttributeError) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({on_one_line(str(error))})"
        raise ResultsError(
            f"{path} {why}, so nobody knows whether the predictions beside it are of this run. {RESTORE}"
        ) from error
