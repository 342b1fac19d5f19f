"""Losses of clips."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.clips import Clips
from kinegraph.stages.training.options import TrainOptions


def clip_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean loss of logits [B, K]: softmax for int64 labels [B], sigmoid per class for multi-hot labels [B, K].

    `weights` [K] weigh the clips of a class (the mean is then a weighted one), or the positives of a class.
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, weights)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits), pos_weight=weights)


def class_weights(clips: Clips, options: TrainOptions) -> Tensor | None:
    """Weights [K] of the loss; None where all are 1.

    Balanced: each class has as much weight as any other, clips / (classes present * clips of the class); or, where
    clips may have many labels, its positives as much as its negatives. A class that is not there has weight 1.

    Raises UsageError unless given weights are one per class.
    """
    if options.class_weights == "none":
        return None
    if options.class_weights != "balanced":
        if len(options.class_weights) != clips.num_classes:
            raise UsageError(
                f"train.class_weights: given {counted(len(options.class_weights), 'number')}, allowed: one for each "
                f"class of the cache, {clips.num_classes}"
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
    """How much each clip [clips] counts in the mean of `clip_loss`."""
    if weights is None or clips.multi_label:
        return torch.ones(len(clips))
    return weights[clips.labels]
