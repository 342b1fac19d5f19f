"""Reads the predictions that `kinegraph evaluate` wrote for the videos of a run, for `kinegraph browse`. Torch-free."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kinegraph.pipeline.training.kept_predictions import kept_splits, read_predictions
from kinegraph.pipeline.training.results import ResultsError

NO_ROW = -1
NO_PREDICTIONS = np.empty(0, np.int64)
log = logging.getLogger("kinegraph")


@dataclass(frozen=True, kw_only=True)
class ScoredVideos:
    """The scores of a run for V videos and K classes."""

    # The V ids, as an Arrow array of texts
    video_ids: Any  # pa.Array of strings
    scores: np.ndarray  # float32 [V, K]
    best: np.ndarray  # [V], the class with the best score of each video. -1 for a video without scores.
    class_names: Sequence[str] = ()  # the K names, or an empty list if they are not known
    _asked: list[tuple[Any, np.ndarray]] = field(default_factory=list)  # of the last call of `predicted`

    def __len__(self) -> int:
        return len(self.video_ids)

    @classmethod
    def of(cls, video_ids: Any, scores: np.ndarray, class_names: Sequence[str] = ()) -> "ScoredVideos":
        """Returns a ScoredVideos with the videos `video_ids` and their `scores` [videos, classes]. If a score of a
        video is NaN or infinite, the video counts as a video without scores.
        """
        best = np.full(len(scores), NO_ROW, np.int64)
        if scores.size:
            has_scores = np.isfinite(scores).all(1)
            best[has_scores] = scores[has_scores].argmax(1)
        return cls(video_ids=video_ids, scores=scores, best=best, class_names=class_names)

    def predicted(self, video_ids: Any) -> np.ndarray:
        """Returns int64 [video ids]. Element i is the number of the class that is predicted for the video
        `video_ids[i]`, or -1 for a video without scores. A second call with the same object `video_ids` returns the
        stored answer.
        """
        last = self._asked[-1] if self._asked else (None, NO_PREDICTIONS)
        if last[0] is not video_ids:
            last = video_ids, self._looked_up(video_ids)
            self._asked[:] = [last]
        return last[1]

    def _looked_up(self, video_ids: Any) -> np.ndarray:
        if not len(self):
            return np.full(len(video_ids), NO_ROW, np.int64)
        rows = pc.index_in(video_ids, value_set=self.video_ids)
        rows = as_numpy(pc.fill_null(rows, NO_ROW))
        predicted: np.ndarray = np.where(rows < 0, NO_ROW, self.best[rows])
        return predicted

    def of_video(self, video_id: str) -> np.ndarray | None:
        """Returns the scores of a video, one per class, or None if the video has no scores."""
        row = pc.index(self.video_ids, pa.scalar(video_id)).as_py() if len(self) else NO_ROW
        return None if row < 0 or self.best[row] < 0 else np.asarray(self.scores[row])


def as_numpy(column: Any, dtype: type = np.int64) -> np.ndarray:
    """Returns an Arrow column as a numpy array of the type `dtype`. Arrow's own `to_numpy` would import pandas, which
    takes a second.
    """
    return np.array(column.to_pylist(), dtype)


NO_SCORES = ScoredVideos(video_ids=pa.nulls(0, pa.string()), scores=np.empty((0, 0), np.float32), best=NO_PREDICTIONS)


def read_scored(run: Path) -> ScoredVideos:
    """Returns the predictions that `evaluate` wrote to the folder of a run, of all splits together. Returns NO_SCORES
    if there are none. A file is left out with a warning if it is damaged, or if the weights or the clips of the run
    have changed since.
    """
    kept = []
    for split in kept_splits(run):
        try:
            kept.append(read_predictions(run, split))
        except ResultsError as error:
            log.warning("%s", error)
    if not kept:
        return NO_SCORES
    videos = [video for each in kept for video in each.video_ids]
    scores = np.concatenate([each.probabilities for each in kept]).astype(np.float32)
    return ScoredVideos.of(pa.array(videos, pa.string()), scores, kept[0].about.class_names)
