"""Computes the metrics of videos in float64. A video without scores has a row of -inf."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinegraph.cache_schemas.words import counted


def topk(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, float]:
    """Returns the fraction of videos whose label is among the k largest scores, as {"top1": ..., "top5": ...}.

    scores [V, K], labels int64 [V]. Among equal scores the lower class counts as larger, so constant scores are no hit
    for every class. A score of -inf is never a hit.

    Raises ValueError without a video, for a label that is no class, and for NaN.
    """
    rank = _rank_of_label(scores, labels)
    return {f"top{k}": (rank < k).double().mean().item() for k in ks}


def class_accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns for each class [K] the fraction of its videos whose label has the largest score.

    A class without a video has NaN.
    """
    hits = (_rank_of_label(scores, labels) < 1).double()
    num_classes = scores.shape[1]
    return hits.new_zeros(num_classes).index_add(0, labels, hits) / labels.bincount(minlength=num_classes)


def confusion(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns counts [K, K + 1] of videos by class and by largest score. The last column counts videos without scores.

    Ties are resolved as in `topk`. Raises the errors of `topk`.
    """
    _rank_of_label(scores, labels)  # called for its checks
    num_classes = scores.shape[1]
    predicted = scores.sort(dim=1, descending=True, stable=True).indices[:, 0]
    predicted = predicted.masked_fill(scores.amax(1) == -torch.inf, num_classes)
    cells = labels * (num_classes + 1) + predicted
    return cells.bincount(minlength=num_classes * (num_classes + 1)).view(num_classes, num_classes + 1)


def _rank_of_label(scores: Tensor, labels: Tensor) -> Tensor:
    """Returns how many classes [V] stand before a video's label.

    Where the label's score is -inf, it is the largest integer.
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
    """Average precision per class [K] (NaN without a positive), its mean, and its mean weighted by class size."""

    per_class: Tensor
    mean: float
    weighted: float


def charades_map(scores: Tensor, labels: Tensor) -> CharadesMap:
    """Returns mean average precision as in the official Charades_v1_classify.m.

    scores [V, K], multi-hot labels [V, K], videos in the order of the annotation file. For each class, videos are
    sorted by descending score (stable) and AP = 1 / N_pos * sum over ranks r of precision(r) * [r is positive], without
    interpolation. Videos without any label are ranked as if their scores were -inf. Classes without a positive are left
    out of the mean.

    Raises ValueError without a video or a positive, and for NaN.
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
