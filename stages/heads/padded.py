"""Reduces padded sequences of vectors to one vector or a few vectors each.

Shapes: B sequences, N vectors of the longest sequence, C channels. A mask bool [B, N] is false for padding, which
follows shorter sequences. A mask None means that there is no padding. Each sequence has at least one vector. Padding
does not change a result.
"""

import torch
from torch import Tensor


def mean_over_time(x: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the mean over the vectors of each sequence: `x` [B, N, C] -> [B, C], for B sequences of up to N vectors
    of C numbers. `mask` [B, N] is false for padding, or None if there is no padding.
    """
    if mask is None:
        return x.mean(1)
    return torch.where(mask[..., None], x, 0.0).sum(1) / mask.sum(1, keepdim=True)


def max_over_time(x: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the maximum over the vectors of each sequence, channel by channel: `x` [B, N, C] -> [B, C], for B
    sequences of up to N vectors of C numbers. `mask` [B, N] is false for padding, or None if there is no padding.
    """
    return x.amax(1) if mask is None else x.masked_fill(~mask[..., None], -torch.inf).amax(1)


def last_of(x: Tensor, mask: Tensor) -> Tensor:
    """Returns the last vector of each sequence: `x` [B, N, C] -> [B, C], for B sequences of up to N vectors of C
    numbers. `mask` [B, N] is false for padding, which follows the last vector.
    """
    return x[torch.arange(len(x), device=x.device), mask.sum(1) - 1]


def evenly(x: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """Returns `count` evenly spaced vectors of each sequence: `x` [B, N, C] -> [B, count, C], for sequences of at most
    N vectors. `mask` [B, N] is false for padding. `mask` None means that there is no padding.

    From a sequence of L vectors, vector i of the result is the vector floor((i + 0.5) L / count). For example, L = 6
    and `count` 3 select the vectors 1, 3 and 5. If L is less than `count`, some vectors occur several times.
    """
    lengths = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(1)
    chosen = middle_index(lengths[:, None], torch.arange(count, device=x.device), count)
    return x[torch.arange(len(x), device=x.device)[:, None], chosen]


def middle_index(length: Tensor, part: Tensor, count: int) -> Tensor:
    """Returns the index of the middle vector of a part of a sequence: floor((part + 0.5) length / count). A sequence of
    `length` vectors is divided into `count` equal parts. `part` is the number of the part, counted from 0. `length` and
    `part` are int64 tensors.
    """
    return torch.div((2 * part + 1) * length, 2 * count, rounding_mode="floor")
