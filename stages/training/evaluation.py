"""From clips to the metrics of videos. V videos, K classes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.heads.head import Head
from stages.training.clips import Clips, read_batches, require_finite
from stages.training.metrics import charades_map, topk
from stages.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Fractions by name (top1 and top5, or mAP and wAP) over `num_videos`, which include `num_failed`."""

    metrics: dict[str, float]
    num_videos: int
    num_failed: int
    classes_without_positives: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "metrics": self.metrics,
            "num_videos": self.num_videos,
            "num_failed": self.num_failed,
            "classes_without_positives": self.classes_without_positives,
        }


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """One row per video with an ok clip, in order of first appearance: scores [V, K] float64, labels [V] or [V, K]."""

    video_ids: tuple[str, ...]
    scores: Tensor
    labels: Tensor


def evaluate(head: Head, clips: Clips, options: TrainOptions, *, device: torch.device) -> EvaluationResult:
    """Metrics of the videos in `clips`: top-k, or mAP as Charades defines it where a video may have many labels.

    A video without a single ok clip counts as wrong, or is ranked last (behind videos of equal score -inf,
    wherever the annotation file has it). Raises ValueError without a video, without labels and for NaN, and
    FeaturesNotFinite where NaN comes from what was read.
    """
    found = video_scores(head, clips, options, device=device)
    failed = torch.full((clips.num_failed_videos, clips.num_classes), -torch.inf, dtype=torch.float64)
    scores, labels = torch.cat([found.scores, failed]), torch.cat([found.labels, clips.failed_labels])
    counts = {"num_videos": len(scores), "num_failed": clips.num_failed_videos}
    if not clips.multi_label:
        return EvaluationResult(metrics=topk(scores, labels), **counts)
    result = charades_map(scores, labels)
    return EvaluationResult(
        metrics={"mAP": result.mean, "wAP": result.weighted},
        classes_without_positives=result.classes_without_positives,
        **counts,
    )


def video_scores(head: Head, clips: Clips, options: TrainOptions, *, device: torch.device) -> VideoScores:
    """Logits or probabilities of all clips of a video, aggregated by max or mean. `head` keeps its mode.

    Raises ValueError without a clip.
    """
    logits, labels = _clip_logits(head, clips, options.batch_size, device), clips.labels
    if options.aggregate_of == "probabilities":
        logits = logits.sigmoid() if clips.multi_label else logits.softmax(1)
    row = {video: index for index, video in enumerate(dict.fromkeys(clips.video_ids))}
    video_of_clip = torch.tensor([row[video] for video in clips.video_ids])
    scores = torch.zeros(len(row), logits.shape[1], dtype=logits.dtype).scatter_reduce(
        0,
        video_of_clip[:, None].expand_as(logits),
        logits,
        "amax" if options.aggregate == "max" else "mean",
        include_self=False,
    )
    labels_of_video = labels.new_empty(len(row), *labels.shape[1:])
    labels_of_video[video_of_clip] = labels  # all clips of a video have its labels
    return VideoScores(video_ids=tuple(row), scores=scores, labels=labels_of_video)


def _clip_logits(head: Head, clips: Clips, batch_size: int, device: torch.device) -> Tensor:
    """Logits [clips, K] on the CPU, in float64, where the sigmoids of large float32 logits do not tie at 1."""
    if not len(clips):
        raise ValueError("There is no ok clip to evaluate.")
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode():
            batches = read_batches(clips, torch.arange(len(clips)), batch_size, head.reads, device)
            logits = [head(batch).double() for batch in batches]
    finally:
        head.train(was_training)
    found = torch.cat(logits).cpu()
    if not found.isfinite().all():
        require_finite(clips, head.reads, batch_size)
    return found
