"""Computes the metrics of videos in float64. A video without scores has a row of -inf.

Shapes: V videos, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinegraph.cache_schemas.words import counted


def topk(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Returns the fraction of V videos whose label is among the k largest scores, as {"top1": ..., "top5": ...}.

    `ks` has the numbers k. `scores` is [V, K] for K classes, and `labels` is int64 [V]. Among equal scores, the class
    with the lower number is ranked first, so that constant scores are not a hit for every class. A score of -inf is
    never a hit.

    Raises ValueError if there is no video, if a label is not a class, or if a score is NaN.
    """
    rank = _rank_of_label(scores, labels)
    return {f"top{k}": (rank < k).double().mean().item() for k in ks}


def class_accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the accuracy of each of K classes, float64 [K]: the fraction of the class's videos whose label has the
    largest score.

    `scores` is [V, K] for V videos, and `labels` is int64 [V]. A class without a video has NaN. Raises ValueError if
    there is no video, if a label is not a class, or if a score is NaN.
    """
    hits = (_rank_of_label(scores, labels) < 1).double()
    num_classes = scores.shape[1]
    return hits.new_zeros(num_classes).index_add(0, labels, hits) / labels.bincount(minlength=num_classes)


def confusion(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the confusion matrix of K classes, int64 [K, K + 1]. An entry is a number of videos.

    `scores` is [V, K] for V videos, and `labels` is int64 [V]. Entry (i, j) counts the videos of class i whose largest
    score is the score of class j. The last column counts videos without scores, which have -inf for all classes. Among
    equal scores, the class with the lower number counts as the largest. Raises ValueError if there is no video, if a
    label is not a class, or if a score is NaN.
    """
    _rank_of_label(scores, labels)  # called for its checks
    num_classes = scores.shape[1]
    predicted = scores.sort(dim=1, descending=True, stable=True).indices[:, 0]
    predicted = predicted.masked_fill(scores.amax(1) == -torch.inf, num_classes)
    cells = labels * (num_classes + 1) + predicted
    return cells.bincount(minlength=num_classes * (num_classes + 1)).view(num_classes, num_classes + 1)


def _rank_of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the rank of each video's label among the classes, int64 [V], for V videos and K classes. Rank 0 is the
    largest score.

    `scores` is [V, K] and `labels` is int64 [V]. Among equal scores, the class with the lower number is ranked first.
    If the score of the label is -inf, the rank is the largest int64. Raises ValueError if there is no video, if a label
    is not a class, or if a score is NaN.
    """
    _check(scores)
    num_classes = scores.shape[1]
    if not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(f"A label is outside 0..{num_classes - 1}: top-k needs one class for every video.")
    own = scores.gather(1, labels[:, None])  # [V, 1]
    lower_class = torch.arange(num_classes, device=scores.device) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & lower_class)).sum(1)
    return rank.masked_fill(own[:, 0] == -torch.inf, torch.iinfo(torch.int64).max)


@dataclass(frozen=True, kw_only=True)
class CharadesMap:
    """The average precision of each of K classes, `per_class` [K], and two means over the classes.

    A video is positive for a class if the class is among its labels. The average precision of a class without a
    positive video is NaN, and the two means leave the class out. In `mean`, all classes have the same weight. In
    `weighted`, the weight of a class is its number of positive videos.
    """

    per_class: Tensor
    mean: float
    weighted: float


def charades_map(scores: Tensor, labels: Tensor) -> CharadesMap:
    """Returns a CharadesMap: the average precision of each class, and two means over the classes. The results equal
    those of Charades_v1_classify.m, the official scorer of the data set Charades.

    `scores` is [V, K] and `labels` is multi-hot [V, K], for V videos and K classes. A video is positive for a class if
    it has the class as a label. The average precision of a class is 1 / N_pos * sum over ranks r of precision(r) *
    [video at r is positive]. N_pos is the number of positive videos. For each class, videos are ranked by descending
    score. Videos of equal score keep their order, so pass the videos in the order of the annotation file. Videos
    without any label are ranked last.

    Raises ValueError if there is no video, if no video has a label, or if a score is NaN.
    """
    _check(scores)
    positive = labels > 0
    if not positive.any():
        raise ValueError(f"None of {counted(len(scores), 'video')} has a label: mAP is undefined.")
    ranked = scores.masked_fill(~positive.any(1, keepdim=True), -torch.inf)
    order = ranked.sort(stable=True, dim=0, descending=True).indices
    hits = positive.gather(0, order).double()  # [V, K], best first
    ranks = torch.arange(1, len(scores) + 1, device=scores.device)[:, None]
    num_positives = positive.sum(0)
    per_class = (hits.cumsum(0) / ranks * hits).sum(0) / num_positives
    present = num_positives > 0
    weights = num_positives[present].double()
    return CharadesMap(
        per_class=per_class,
        mean=per_class[present].mean().item(),
        weighted=((per_class[present] * weights).sum() / weights.sum()).item(),
    )


def _check(scores: Tensor) -> None:
    if not len(scores):
        raise ValueError("There is no video to score.")
    if scores.isnan().any():
        raise ValueError("Scores contain NaN: the head or its inputs are not finite.")
