"""Computes the loss of a batch of clips, and the weights in this loss.

Shapes: B clips, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.errors import UsageError
from kinegraph.stages.training.clips import Clips
from kinegraph.stages.training.options import TrainOptions


def clip_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Returns the mean loss over the clips, a scalar. `logits` is [B, K].

    For `labels` int64 [B], the loss is the softmax cross-entropy. For multi-hot `labels` [B, K], it is a binary
    cross-entropy per class. `weights` [K] are factors on the clips of each class, and the mean is weighted too. For
    multi-hot labels, `weights` are factors on the positives of each class.
    """
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, weights)
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits), pos_weight=weights)


def class_weights(clips: Clips, options: TrainOptions) -> Tensor | None:
    """Returns the weights [K] of the classes in the loss, or None if all weights are 1.

    With `balanced`, each class has the same total weight. The weight is clips / (classes present * clips of the class).
    If clips may have several labels, the positives of a class weigh as much as its negatives. A class without clips has
    weight 1.

    Raises UsageError if the options list weights, but not one for each class.
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
    """Returns the weight of each clip in the mean of `clip_loss`: one number for each clip of `clips`."""
    if weights is None or clips.multi_label:
        return torch.ones(len(clips))
    return weights[clips.labels]
