"""Computes the metrics of videos from clips. V videos, K classes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.clips import (
    Clips,
    is_labelled,
    read_batches,
    require_clips,
    require_finite,
    require_usable,
)
from kinegraph.stages.training.losses import clip_loss
from kinegraph.stages.training.metrics import charades_map, class_accuracy, topk
from kinegraph.stages.training.options import TrainOptions


class ScoresNotFinite(RuntimeError):
    """A head returns NaN or infinity for finite features."""


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """One row per video, in the order of the data set's list: scores [V, K] float64, labels [V] or [V, K].

    A video without an ok clip has scores -inf.
    """

    video_ids: tuple[str, ...]
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Metrics as fractions by name (top1 and top5, or mAP and wAP) over `num_videos`, which include `num_failed`.

    `loss` is the mean over clips, without class weights. `per_class` has the fraction of right videos of each class, or
    its average precision. `per_class` is NaN for `classes_without_positives`, which a mean over classes leaves out.
    Where no video has a label, there are scores but no metrics, and all other numbers are NaN.
    """

    metrics: dict[str, float]
    loss: float
    num_videos: int
    num_failed: int
    per_class: tuple[float, ...]
    videos: VideoScores

    @property
    def classes_without_positives(self) -> tuple[int, ...]:
        return tuple(class_index for class_index, value in enumerate(self.per_class) if math.isnan(value))


def evaluate(
    head: Head, clips: Clips, options: TrainOptions, *, device: torch.device, purpose: str = "evaluate"
) -> EvaluationResult:
    """Returns the metrics of the videos in `clips`: top-k, or mAP as Charades defines it for several labels per video.

    A video without an ok clip counts as wrong, or is ranked last, as the official scorer treats missing videos. Where
    no video has a label, the result has scores alone. Raises UnusableClips, which names the `purpose`, without a clip,
    or where some labels are missing. Raises FeaturesNotFinite or ScoresNotFinite for values that are not finite.
    """
    labelled = is_labelled(clips)
    if labelled:
        require_usable(clips, purpose, failed_too=True)
    else:
        require_clips(clips, purpose)
    logits = clip_logits(head, clips, options.batch_size, device)
    videos = aggregated(logits, clips, options)
    metrics, per_class = _measured(videos) if labelled else ({}, videos.scores.new_full((clips.num_classes,), math.nan))
    return EvaluationResult(
        metrics=metrics,
        loss=clip_loss(logits, clips.labels).item() if labelled else math.nan,
        num_videos=len(videos.video_ids),
        num_failed=len(clips.failed_videos),
        per_class=tuple(per_class.tolist()),
        videos=videos,
    )


def _measured(videos: VideoScores) -> tuple[dict[str, float], Tensor]:
    """Returns the metrics of all videos, and the metric of each class."""
    if videos.labels.ndim == 2:
        average_precision = charades_map(videos.scores, videos.labels)
        return {"mAP": average_precision.mean, "wAP": average_precision.weighted}, average_precision.per_class
    return topk(videos.scores, videos.labels), class_accuracy(videos.scores, videos.labels)


def aggregated(logits: Tensor, clips: Clips, options: TrainOptions) -> VideoScores:
    """Returns the scores of all videos, each joined from its clips and crops."""
    row = {video: index for index, video in enumerate(clips.videos)}
    video_of_clip = torch.tensor([row[video] for video in clips.video_ids])
    scores = joined(logits, video_of_clip, len(row), options, multi_label=clips.multi_label)
    labels = clips.labels.new_empty(len(row), *clips.labels.shape[1:])
    labels[video_of_clip] = clips.labels  # all clips of a video have the same labels
    labels[[row[video] for video in clips.failed_videos]] = clips.failed_labels
    return VideoScores(video_ids=tuple(row), scores=scores, labels=labels)


def joined(
    logits: Tensor, video_of_clip: Tensor, num_videos: int, options: TrainOptions, *, multi_label: bool
) -> Tensor:
    """Returns scores [num_videos, K]: the maximum or mean of logits [clips, K], or of their probabilities, per video.

    A video without a clip has -inf.
    """
    if options.aggregate_of == "probabilities":
        logits = probabilities(logits, multi_label=multi_label)
    return torch.full((num_videos, logits.shape[1]), -torch.inf, dtype=logits.dtype).scatter_reduce(
        0,
        video_of_clip[:, None].expand_as(logits),
        logits,
        "amax" if options.aggregate == "max" else "mean",
        include_self=False,
    )


def probabilities(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Returns probabilities of logits [..., K]: sigmoids where a video may have many labels, else the softmax."""
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def clip_logits(head: Head, clips: Clips, batch_size: int, device: torch.device) -> Tensor:
    """Returns logits [clips, K] on the CPU in float64. In float64, the sigmoids of large logits do not tie at 1."""
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode():
            batches = read_batches(clips, torch.arange(len(clips)), batch_size, head.reads, device)
            logits = [head(batch).double() for batch in batches]
    finally:
        head.train(was_training)
    joined = torch.cat(logits).cpu()
    if not joined.isfinite().all():
        require_finite(clips, head.reads, batch_size)
        raise ScoresNotFinite("The head's scores are not finite, although its inputs are. Lower train.learning_rate.")
    return joined
