"""Losses of clips."""

import torch.nn.functional as F
from torch import Tensor


def clip_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of logits [B, K]: softmax for int64 labels [B], sigmoid per class for multi-hot labels [B, K]."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels)
    return F.binary_cross_entropy_with_logits(logits, labels)
