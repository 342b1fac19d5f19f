"""Computes the loss of a batch of clips, and the weights of classes and clips in it.

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
    """Returns the mean loss over B clips, a scalar. `logits` [B, K] has one number for each of K classes.

    If `labels` is int64 [B], the loss of a clip is the softmax cross-entropy. `weights` [K] then has the weight of each
    class, and the result is the weighted mean over the clips. If `labels` is multi-hot [B, K], the loss of a clip is
    the mean over K binary cross-entropies. `weights` [K] then multiplies only the terms of the labels that are 1. If
    `weights` is None, all weights are 1. With the reduction `sum`, all terms are added: over the clips, and over the K
    cross-entropies of a clip (Zhang et al. 2019, eq. 13).
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, weights, reduction=reduction)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits), pos_weight=weights, reduction=reduction)


def class_weights(clips: Clips, options: TrainOptions) -> Tensor | None:
    """Returns the weights [K] of the classes in the loss, or None if the option `class_weights` is `none`. If the
    option is a list, the result has the numbers of the list.

    If the option is `balanced`, rare classes get larger weights. Of the N clips in `clips`, n have the class. If each
    video has one label, the weight of the class is N / (k n), where k is the number of classes that occur. All classes
    then have the same total weight. If videos may have several labels, the weight is (N - n) / n, so that clips with
    and without the label weigh the same. A weight that would be 0 or infinite is 1.

    Raises UsageError if the list does not have one number for each class.
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
    """Returns the weight of each clip in the mean loss of a batch, one number per clip of `clips`.

    `weights` [K] has one weight for each of K classes, and a clip gets the weight of its class. All clips have weight 1
    if `weights` is None, or if videos may have several labels.
    """
    if weights is None or clips.multi_label:
        return torch.ones(len(clips))
    return weights[clips.labels]
