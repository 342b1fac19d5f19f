"""The losses of clips."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.clips import Clips
from kinegraph.stages.training.options import TrainOptions


def clip_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Returns the mean loss of logits [B, K].

    int64 labels [B] have a softmax loss. Multi-hot labels [B, K] have a sigmoid loss per class. `weights` [K] weight
    the clips of a class (the mean is then weighted), or the positives of a class.
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, weights)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits), pos_weight=weights)


def class_weights(clips: Clips, options: TrainOptions) -> Tensor | None:
    """Returns the weights [K] of the loss, or None where all are 1.

    Balanced weights count each class equally: clips / (classes present * clips of the class). Where clips may have
    several labels, the positives of a class count as much as its negatives. A class without clips has weight 1.

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
    """Returns the weight of each clip [clips] in the mean of `clip_loss`."""
    if weights is None or clips.multi_label:
        return torch.ones(len(clips))
    return weights[clips.labels]
