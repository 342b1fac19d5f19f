"""`kinegraph evaluate`: a trained run on a split, and the files that others ask for."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from cache_schemas.cache import Cache
from cache_schemas.files import write_whole
from pipeline.results import RESULTS_FILE, SplitCounts, add_scores
from pipeline.training import opened_clips, spec_of
from stages.errors import UsageError
from stages.training.checkpoint import load_run, require_fit, require_same_features
from stages.training.evaluation import EvaluationResult, evaluate
from stages.training.metrics import confusion


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """How well a run does on one split."""

    result: EvaluationResult
    class_names: tuple[str, ...]
    split: str
    counts: SplitCounts

    @property
    def absent_classes(self) -> list[str]:
        """Classes without a positive: they have no score, and no part in a mean over classes."""
        return [self.class_names[number] for number in self.result.classes_without_positives]

    def per_class(self) -> dict[str, float]:
        """Accuracy, or average precision, of each class that has a positive."""
        values = zip(self.class_names, self.result.per_class, strict=True)
        return {name: value for name, value in values if not math.isnan(value)}

    def to_json(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "metrics": self.result.metrics,
            "loss": self.result.loss,
            **self.counts.model_dump(),
            "per_class": self.per_class(),
            "classes_without_positives": self.absent_classes,
        }


def evaluate_run(folder: Path | str, cache: Path | str | None = None, split: str | None = None) -> RunScores:
    """Score a trained run on the test split of its cache, or of another that fits.

    Scores on its own cache are added to the run's results.json.
    """
    head, record = load_run(Path(folder))
    opened, split = Cache(cache or record.cache), split or record.train.test_split
    require_fit(record, spec_of(opened), tuple(opened.classes))
    clips = opened_clips(opened, head, split)
    require_same_features(record, clips)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    counts = SplitCounts.of(clips)
    result = evaluate(head.to(device), clips, record.train, device=device)
    if cache is None and (Path(folder) / RESULTS_FILE).exists():
        add_scores(Path(folder), split, result.metrics, counts)
    return RunScores(result=result, class_names=tuple(opened.classes), split=split, counts=counts)


def write_submission(found: RunScores, path: Path) -> int:
    """The file that Charades' official scorer reads: per line a video's id and a score per class; gives the lines.

    Ids are names of video files without folder and suffix. Videos without an ok clip have no line: the scorer ranks
    them last. Raises UsageError where two videos have one id.
    """
    videos = found.result.videos
    scored = (videos.scores > -torch.inf).any(1).tolist()
    lines: dict[str, str] = {}
    for video, row, has_scores in zip(videos.video_ids, videos.scores.tolist(), scored, strict=True):
        name = PurePosixPath(video).stem
        if name in lines:
            raise UsageError(f"--submission: two videos have the id {name!r}, one of them is {video}; ids must differ")
        if has_scores:
            lines[name] = " ".join([name, *map(repr, row)]) + "\n"
    write_whole(path, ["".join(lines.values()).encode()])
    return len(lines)


def write_confusion(found: RunScores, path: Path) -> None:
    """A csv with a line per class and a column per predicted class, and `failed` for videos without an ok clip.

    Raises UsageError where videos may have many labels.
    """
    videos = found.result.videos
    if videos.labels.ndim == 2:
        raise UsageError("--confusion: videos of this cache may have many labels; it takes one label a video")
    counts = confusion(videos.scores, videos.labels).tolist()
    header = ["class", *found.class_names, "failed"]
    write_whole(path, [_csv([header, *([name, *row] for name, row in zip(found.class_names, counts, strict=True))])])


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
