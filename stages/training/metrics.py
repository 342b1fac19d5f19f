"""Computes metrics from the scores and labels of videos. A video without scores has the score -inf for every class.

Shapes: V videos, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinegraph.cache_schemas.words import counted


def topk(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Returns the top-k accuracy for each k in `ks`, as {"top1": accuracy, "top5": accuracy}. It is the fraction, from
    0 to 1, of the videos whose label is among the k classes with the largest scores.

    `scores` is [V, K] for V videos and K classes. `labels` is int64 [V]. Among equal scores, the lower class number
    comes first. A label with the score -inf is never a hit.

    Raises ValueError if there is no video, if a label is not a class number, or if a score is NaN.
    """
    rank = _rank_of_label(scores, labels)
    return {f"top{k}": (rank < k).double().mean().item() for k in ks}


def class_accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the accuracy of each of K classes, float64 [K]: the fraction, from 0 to 1, of the videos of the class
    that get the right class. It is NaN for a class without videos.

    `scores` is [V, K] for V videos. `labels` is int64 [V]. Raises ValueError if there is no video, if a label is not a
    class number, or if a score is NaN.
    """
    hits = (_rank_of_label(scores, labels) < 1).double()
    num_classes = scores.shape[1]
    return hits.new_zeros(num_classes).index_add(0, labels, hits) / labels.bincount(minlength=num_classes)


def confusion(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the confusion matrix of K classes, int64 [K, K + 1]. Entry (i, j) is the number of videos of class i that
    are classified as class j. The last column counts the videos without scores (-inf for all classes).

    `scores` is [V, K] for V videos. `labels` is int64 [V]. Among equal scores, the lower class number wins. Raises
    ValueError if there is no video, if a label is not a class number, or if a score is NaN.
    """
    _rank_of_label(scores, labels)  # called for its checks
    num_classes = scores.shape[1]
    predicted = scores.sort(dim=1, descending=True, stable=True).indices[:, 0]
    predicted = predicted.masked_fill(scores.amax(1) == -torch.inf, num_classes)
    cells = labels * (num_classes + 1) + predicted
    return cells.bincount(minlength=num_classes * (num_classes + 1)).view(num_classes, num_classes + 1)


def _rank_of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns the rank of the label of each video among the classes, int64 [V]. The class with the largest score has
    rank 0.

    `scores` is [V, K] for V videos and K classes. `labels` is int64 [V]. Among equal scores, the class with the lower
    number is ranked first. If the score of the label is -inf, the rank is the largest int64. Raises ValueError if there
    is no video, if a label is not a class number, or if a score is NaN.
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
    """The average precisions of K classes, and two means over the classes."""

    per_class: Tensor  # float64 [K]. It is NaN for a class without videos. The two means leave such classes out.
    mean: float  # the mean over the classes (mAP)
    weighted: float  # the mean in which each class counts by its number of videos (wAP)


def charades_map(scores: Tensor, labels: Tensor) -> CharadesMap:
    """Returns the average precision of each class and the means over the classes, as a CharadesMap. The results equal
    those of Charades_v1_classify.m, the official scorer of the data set Charades.

    `scores` is [V, K] and `labels` is multi-hot [V, K]. For each class, the videos are ranked by descending score.
    Videos with equal scores keep their order. Videos without any label come last. The average precision of a class is
    the mean of precision(r) over the ranks r of its videos.

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
