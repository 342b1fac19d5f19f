"""Computes the metrics of videos from the logits of their clips.

Shapes: V videos, K classes.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinegraph.stages.heads.candidates import CandidateHead
from kinegraph.stages.heads.head import Head
from kinegraph.stages.training.clips import (
    Batch,
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
    """Raised if a head returns NaN or infinity although all features are finite."""


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """The scores and labels of all V videos of a split, in the order of the data set's list."""

    video_ids: tuple[str, ...]  # the ids of the videos
    scores: Tensor  # float64 [V, K] for K classes. A video of which every clip failed has -inf.
    labels: Tensor  # int64 [V], one class number for each video, or multi-hot [V, K]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The result of the evaluation of a head on a split."""

    # {name: fraction from 0 to 1}. If each video has one label, the names are "top1" and "top5". If videos may have
    # several labels, the names are "mAP", the mean average precision, and "wAP", the mean weighted by the number of
    # videos with the label. If no video has a label, the dictionary is empty.
    metrics: dict[str, float]
    loss: float  # the mean loss over the clips, without class weights. It is NaN if no video has a label.
    # The number of videos, including the failed videos. A failed video has no clip that could be extracted.
    num_videos: int
    num_failed: int  # the number of failed videos
    # One number for each class: the accuracy, or the average precision if videos may have several labels. It is NaN for
    # a class that no video has as a label.
    per_class: tuple[float, ...]
    videos: VideoScores  # the scores and labels of the videos
    seconds: float  # the time from cached features to scores

    @property
    def classes_without_positives(self) -> tuple[int, ...]:
        """Returns the numbers of the classes that no video has as a label. Means over the classes leave these classes
        out.
        """
        return tuple(class_index for class_index, value in enumerate(self.per_class) if math.isnan(value))


def evaluate(
    head: Head, clips: Clips, options: TrainOptions, *, device: torch.device, purpose: str = "evaluate"
) -> EvaluationResult:
    """Computes the scores and metrics of `head` for the videos of `clips`, and returns them as an EvaluationResult.

    `options` has the batch size, and says how the scores of a video's clips are joined. `purpose` says in error
    messages what the clips are for.

    If each video has one label, the metrics are top-1 and top-5 accuracy. If videos may have several labels, the
    metrics are mAP and wAP, as the official scorer of Charades computes them. A video of which every clip failed counts
    as wrong or is ranked last. Without any label, the result has only scores.

    Raises UnusableClips if there is no clip or a label is missing. Raises FeaturesNotFinite if a feature is NaN or
    infinite, and ScoresNotFinite if only a score is.
    """
    labelled = is_labelled(clips)
    if labelled:
        require_usable(clips, purpose, failed_too=True)
    else:
        require_clips(clips, purpose)
    started = time.perf_counter()
    logits = clip_logits(head, clips, options.batch_size, device)
    return _result_of(logits, clips, options, started, labelled=labelled)


def evaluate_candidates(
    head: CandidateHead, clips: Clips, options: TrainOptions, usable: Sequence[bool], *, device: torch.device
) -> list[EvaluationResult | None]:
    """Evaluates all candidates of `head` in one pass over `clips`. Returns a list with the EvaluationResult of each
    candidate. A candidate is one of several copies of the head's layers that are trained together.

    `usable` has one bool for each candidate. The list has None for a candidate that is not usable or has a score that
    is not finite. `clips` must have labels. If no candidate has a result, raises FeaturesNotFinite if a feature is NaN
    or infinite, else ScoresNotFinite.
    """
    started = time.perf_counter()
    logits = _in_batches(head.candidate_logits, head, clips, options.batch_size, device)  # [clips, candidates, K]
    finite = logits.isfinite().all(2).all(0).tolist()
    kept = [is_finite and is_usable for is_finite, is_usable in zip(finite, usable, strict=True)]
    if not any(kept):
        require_finite(clips, head.reads, options.batch_size)
        raise ScoresNotFinite("No candidate of the head has finite scores, although its inputs are.")
    return [
        _result_of(logits[:, number].double(), clips, options, started, labelled=True) if is_kept else None
        for number, is_kept in enumerate(kept)
    ]


def _result_of(
    logits: Tensor, clips: Clips, options: TrainOptions, started: float, *, labelled: bool
) -> EvaluationResult:
    """Returns the EvaluationResult of `logits` [clips, K], the logits of `clips` for K classes. `started` is the
    time.perf_counter() at the start of the evaluation. `labelled` says whether the clips have labels.
    """
    videos = aggregated(logits, clips, options)
    seconds = time.perf_counter() - started
    metrics, per_class = _measured(videos) if labelled else ({}, videos.scores.new_full((clips.num_classes,), math.nan))
    return EvaluationResult(
        metrics=metrics,
        loss=clip_loss(logits, clips.labels).item() if labelled else math.nan,
        num_videos=len(videos.video_ids),
        num_failed=len(clips.failed_videos),
        per_class=tuple(per_class.tolist()),
        videos=videos,
        seconds=seconds,
    )


def _measured(videos: VideoScores) -> tuple[dict[str, float], Tensor]:
    """Returns (metrics as {name: value}, one number for each of K classes [K]) of the scores of `videos`. The number of
    a class is its accuracy, or its average precision if videos may have several labels.
    """
    if videos.labels.ndim == 2:
        average_precision = charades_map(videos.scores, videos.labels)
        return {"mAP": average_precision.mean, "wAP": average_precision.weighted}, average_precision.per_class
    return topk(videos.scores, videos.labels), class_accuracy(videos.scores, videos.labels)


def aggregated(logits: Tensor, clips: Clips, options: TrainOptions) -> VideoScores:
    """Joins the scores of all clips of each video to one score per class, and returns the VideoScores of the split. The
    scores have a row for every video, also for a video of which every clip failed.

    `logits` [clips, classes] are in the order of `clips`. The options `aggregate` and `aggregate_of` say how scores are
    joined.
    """
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
    """Returns the scores of videos, [num_videos, K] for K classes. The scores of a video are the maximum or the mean
    over its clips, as the option `aggregate` says. A video without clips has -inf.

    `logits` [clips, K] has the logits of each clip. `video_of_clip` [clips] has the row of the clip's video in the
    result. With the option `aggregate_of: probabilities`, logits become probabilities first. `multi_label` says whether
    a video may have several labels.
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
    """Returns the probabilities [..., K] of `logits` [..., K] for K classes. If each video has one label, the result is
    the softmax over the classes. If a video may have several labels (`multi_label`), the result is the sigmoid of each
    logit.
    """
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def clip_logits(head: Head, clips: Clips, batch_size: int, device: torch.device) -> Tensor:
    """Returns the logits that `head` computes for all of `clips`, float64 [clips, K] on the CPU, for K classes. The
    head computes `batch_size` clips at a time on `device`.

    Raises FeaturesNotFinite if a logit is not finite because a feature is NaN or infinite. Raises ScoresNotFinite if
    all features are finite and a logit is not.
    """
    # in float64 the sigmoids of large logits do not become equal to 1
    logits = _in_batches(lambda batch: head(batch).double(), head, clips, batch_size, device)
    if not logits.isfinite().all():
        require_finite(clips, head.reads, batch_size)
        raise ScoresNotFinite("The head's scores are not finite, although its inputs are. Lower train.learning_rate.")
    return logits


def _in_batches(
    compute: Callable[[Batch], Tensor], head: Head, clips: Clips, batch_size: int, device: torch.device
) -> Tensor:
    """Calls `compute` for each batch of `clips` and returns the joined results, [clips, ...] on the CPU. A batch has
    the arrays that `head` reads. `head` is in evaluation mode during the calls.
    """
    was_training = head.training
    head.eval()
    try:
        with torch.inference_mode():
            batches = read_batches(clips, torch.arange(len(clips)), batch_size, head.reads, device)
            results = [compute(batch) for batch in batches]
    finally:
        head.train(was_training)
    return torch.cat(results).cpu()
