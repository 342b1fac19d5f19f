"""Reads the scores of the videos of a run, which `evaluate` has kept, for `kinegraph browse`. Torch-free."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.words import sentence

PREDICTIONS = "predictions-*.parquet"
NO_ROW = -1


@dataclass(frozen=True, kw_only=True)
class ScoredVideos:
    """Scores of V videos over K classes. `video_ids` has V texts, and `scores` is float32 [V, K]. `best` [V] are the
    classes with the best scores, or -1 for a video without scores.
    """

    video_ids: Any  # pa.Array of strings
    scores: np.ndarray
    best: np.ndarray
    _predicted: dict[int, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.video_ids)

    @classmethod
    def of(cls, video_ids: Any, scores: np.ndarray) -> "ScoredVideos":
        """Returns the ScoredVideos of the texts `video_ids` and `scores` [V, K]. A video whose scores are not finite
        has none.
        """
        best = np.full(len(scores), NO_ROW, np.int64)
        if scores.size:
            told = np.isfinite(scores).all(1)
            best[told] = scores[told].argmax(1)
        return cls(video_ids=video_ids, scores=scores, best=best)

    def predicted(self, video_ids: Any) -> np.ndarray:
        """Returns the predicted class of each of `video_ids`, int64, or -1 for a video without scores. The answer is
        kept for the next call with the same object.
        """
        key = id(video_ids)
        if key not in self._predicted:
            self._predicted.clear()
            self._predicted[key] = self._looked_up(video_ids)
        return self._predicted[key]

    def _looked_up(self, video_ids: Any) -> np.ndarray:
        if not len(self):
            return np.full(len(video_ids), NO_ROW, np.int64)
        rows = pc.index_in(video_ids, value_set=self.video_ids)
        rows = as_numpy(pc.fill_null(rows, NO_ROW))
        predicted: np.ndarray = np.where(rows < 0, NO_ROW, self.best[rows])
        return predicted

    def of_video(self, video_id: str) -> np.ndarray | None:
        """Returns the scores [K] of a video, or None where it has none."""
        row = pc.index(self.video_ids, pa.scalar(video_id)).as_py() if len(self) else NO_ROW
        return None if row < 0 or self.best[row] < 0 else np.asarray(self.scores[row])


def as_numpy(column: Any, dtype: type = np.int64) -> np.ndarray:
    """Returns an Arrow column as a numpy array. Arrow's own `to_numpy` imports pandas, which takes a second."""
    return np.array(column.to_pylist(), dtype)


NO_SCORES = ScoredVideos(
    video_ids=pa.nulls(0, pa.string()), scores=np.empty((0, 0), np.float32), best=np.empty(0, np.int64)
)


def read_scored(run: Path) -> ScoredVideos:
    """Returns the scores of all splits that `evaluate` has kept in the folder of a run, or NO_SCORES.

    Raises CacheError for a file that cannot be read.
    """
    tables = [_read(path) for path in sorted(run.glob(PREDICTIONS))]
    if not tables:
        return NO_SCORES
    table = pa.concat_tables(tables).combine_chunks()
    scores = table.column("scores").combine_chunks()
    scores = scores.chunk(0) if isinstance(scores, pa.ChunkedArray) else scores
    flat = scores.flatten().cast(pa.float32())
    values = np.frombuffer(flat.buffers()[1], np.float32, len(flat), 4 * flat.offset)
    return ScoredVideos.of(table.column("video_id").combine_chunks(), values.reshape(len(table), -1))


def _read(path: Path) -> Any:
    try:
        return pq.read_table(path, columns=["video_id", "scores"], use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise CacheError(f"{path} cannot be read: {sentence(error)} Run `kinegraph evaluate {path.parent}`.") from error
