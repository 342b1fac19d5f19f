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
    """The head returned NaN or infinity although all features are finite."""


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """The scores of all V videos of a split for K classes, in the order of the data set's list.

    `scores` is [V, K] float64. A video whose clips all failed has scores of minus infinity. `labels` is int64 [V] with
    one class number per video, or multi-hot [V, K] if a video may have several labels.
    """

    video_ids: tuple[str, ...]
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The result of the evaluation of a split.

    If each video has one label, `metrics` has "top1" and "top5", and `per_class` has for each class the fraction of its
    videos that are classified correctly. If videos may have several labels, `per_class` has the average precision of
    each class. Then `metrics` has "mAP", the mean over the classes, and "wAP", the mean weighted by the number of
    videos that have the class as a label. All metrics are fractions. `per_class` is NaN for the classes in
    `classes_without_positives`.

    `loss` is the mean over clips, without class weights. `num_videos` includes the failed videos, and `num_failed` is
    their number. A failed video is a video of which every clip failed. `videos` has the scores. `seconds` is the time
    from cached features to scores. If no video has a label, `metrics` is empty, and `loss` and `per_class` are NaN.
    """

    metrics: dict[str, float]
    loss: float
    num_videos: int
    num_failed: int
    per_class: tuple[float, ...]
    videos: VideoScores
    seconds: float

    @property
    def classes_without_positives(self) -> tuple[int, ...]:
        """Returns the numbers of the classes that no video has as a label.

        The means over classes do not include these classes.
        """
        return tuple(class_index for class_index, value in enumerate(self.per_class) if math.isnan(value))


def evaluate(
    head: Head, clips: Clips, options: TrainOptions, *, device: torch.device, purpose: str = "evaluate"
) -> EvaluationResult:
    """Returns an EvaluationResult: the scores and metrics of the videos in `clips`. `options` has the batch size, and
    says how the scores of a video's clips are joined.

    If each video has one label, the metrics are top-1 and top-5 accuracy. A video of which every clip failed counts as
    wrong. If videos may have several labels, the metrics are two means of average precisions, as the official scorer of
    Charades computes them. A video of which every clip failed is ranked last. If no video has a label, the result has
    only scores.

    Raises UnusableClips if there is no clip, or if only some videos have a label although each video needs one.
    `purpose` is what the clips are for, and is part of the message. Raises FeaturesNotFinite if a feature is NaN or
    infinite, else ScoresNotFinite if a score is NaN or infinite.
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
    """Evaluates all candidates of `head` on `clips`, in one pass over the clips. A candidate is one of several sets of
    weights that a head trains side by side. Returns one entry for each candidate: its EvaluationResult, or None if
    its scores are not finite or its entry in `usable` is False.

    `clips` must be labelled. If no candidate has a result, raises FeaturesNotFinite if a feature is NaN or infinite,
    and otherwise ScoresNotFinite.
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
    """Returns the EvaluationResult of the logits [clips, K] of `clips`. `started` is the time at which the evaluation
    started, by time.perf_counter(). `labelled` says whether the clips have labels.
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
    """Returns two results for the scores `videos`: name -> metric over all videos, and one number for each of K
    classes, [K]. The number of a class is its average precision if videos may have several labels, else its accuracy.
    """
    if videos.labels.ndim == 2:
        average_precision = charades_map(videos.scores, videos.labels)
        return {"mAP": average_precision.mean, "wAP": average_precision.weighted}, average_precision.per_class
    return topk(videos.scores, videos.labels), class_accuracy(videos.scores, videos.labels)


def aggregated(logits: Tensor, clips: Clips, options: TrainOptions) -> VideoScores:
    """Joins the scores of all clips and crops of a video to one score per class. Returns the scores and the labels of
    all videos of the split as a VideoScores. Videos whose clips all failed are in it too, with the scores -inf.

    `logits` [clips, classes] are in the order of `clips`. `options.aggregate` and `options.aggregate_of` say how scores
    are joined.
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
    """Joins the `logits` [clips, K] of clips to scores of videos and returns the scores, [num_videos, K], for K
    classes. `video_of_clip` [clips] has the row of each clip's video in the result.

    The scores of a video are the maximum or the mean over its clips, as the option `aggregate` says. They are logits or
    probabilities, as the option `aggregate_of` says. A video without a clip has the scores -inf. `multi_label` says
    that a video may have several labels. Probabilities are then sigmoids, else the softmax.
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
    """Returns the probabilities [..., K] of `logits` [..., K] for K classes. They are sigmoids if a video may have
    several labels (`multi_label`), else the softmax over the classes.
    """
    return logits.sigmoid() if multi_label else logits.softmax(-1)


def clip_logits(head: Head, clips: Clips, batch_size: int, device: torch.device) -> Tensor:
    """Returns the logits that `head` computes for all of `clips`, [clips, K] float64 on the CPU, for K classes.
    `batch_size` clips are computed at a time, on `device`.

    Raises FeaturesNotFinite if a feature is NaN or infinite. Otherwise raises ScoresNotFinite if a logit is NaN or
    infinite.
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
    """Returns the results [clips, ...] of `compute` for all of `clips`, on the CPU. `compute` is called with a batch of
    the arrays that `head` reads, while `head` is in evaluation mode.
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
