"""Computes the loss of a batch of clips, and the weights of the classes and clips in the loss.

Shapes: B clips, K classes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.clips import Clips
from kinegraph.stages.training.options import TrainOptions


def clip_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Returns the loss of B clips as a scalar: the mean over the clips, or the sum if `reduction` is "sum". `logits` is
    [B, K] for K classes. `weights` None means that all weights are 1.

    - `labels` int64 [B]: softmax cross-entropy. `weights` [K] has the weight of each class, and the mean is the
      weighted mean.
    - `labels` multi-hot [B, K]: the mean of K binary cross-entropies. `weights` [K] multiplies only the terms of labels
      that are 1. With "sum", the K terms are added up too (Zhang et al. 2019, eq. 13).
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, weights, reduction=reduction)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits), pos_weight=weights, reduction=reduction)


def class_weights(clips: Clips, options: TrainOptions) -> Tensor | None:
    """Returns the weight of each class in the loss, [K], as the option `class_weights` says. Returns None for "none".

    For "balanced", rare classes get larger weights. N is the number of clips, and n is the number of clips of the
    class.

    - If each video has one label: N / (k n), where k is the number of classes with n > 0.
    - If videos may have several labels: (N - n) / n.

    If n or the result is 0, the weight is 1. Raises UsageError if a list does not have one number for each class.
    """
    if options.class_weights == "none":
        return None
    if options.class_weights != "balanced":
        if len(options.class_weights) != clips.num_classes:
            raise UsageError(
                f"{options.section}.class_weights: given {counted(len(options.class_weights), 'number')}, allowed: "
                f"one for each class of the cache, {clips.num_classes}"
            )
        return torch.tensor(options.class_weights)
    if clips.multi_label:
        positives = clips.labels.sum(0)
        weights = (len(clips) - positives) / positives
    else:
        positives = clips.labels.bincount(minlength=clips.num_classes).float()
        weights = len(clips) / ((positives > 0).sum() * positives)
    return weights.where((positives > 0) & (weights > 0), 1.0)


def clip_weights(clips: Clips, weights: Tensor | None) -> Tensor:
    """Returns the weight of each clip in the mean loss of a batch, [clips].

    `weights` [K] has the weight of each of K classes, and a clip gets the weight of its class. If `weights` is None, or
    if videos may have several labels, all clips have the weight 1.
    """
    if weights is None or clips.multi_label:
        return torch.ones(len(clips))
    return weights[clips.labels]
