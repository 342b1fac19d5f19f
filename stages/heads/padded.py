"""Reduces sequences of vectors to one vector each. The sequences of a batch are filled up to one length.

Shapes: B sequences, N vectors of the longest sequence, C channels. A mask [B, N] bool is true for the vectors of a
sequence and false for the places after its end. Each sequence has at least one vector. Values at the other places may
be anything, and have no influence. Without a mask (None), all sequences have N vectors.
"""

import torch
from torch import Tensor


def mean_over_time(x: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the mean of each sequence, [B, C]. `x` is [B, N, C]. `mask` [B, N] is true for the vectors of a sequence,
    or None if all N vectors belong to it.
    """
    if mask is None:
        return x.mean(1)
    return torch.where(mask[..., None], x, 0.0).sum(1) / mask.sum(1, keepdim=True)


def max_over_time(x: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the maximum of each sequence for each channel, [B, C]. `x` is [B, N, C]. `mask` [B, N] is true for the
    vectors of a sequence, or None if all N vectors belong to it.
    """
    return x.amax(1) if mask is None else x.masked_fill(~mask[..., None], -torch.inf).amax(1)


def last_of(x: Tensor, mask: Tensor) -> Tensor:
    """Returns the last vector of each sequence, [B, C]. `x` is [B, N, C]. `mask` [B, N] is true for the vectors of a
    sequence.
    """
    return x[torch.arange(len(x), device=x.device), mask.sum(1) - 1]


def evenly(x: Tensor, mask: Tensor | None, count: int) -> Tensor:
    """Returns `count` vectors of each sequence in the order of time, [B, count, C]. `x` is [B, N, C]. `mask` [B, N] is
    true for the vectors of a sequence, or None if all N vectors belong to it.

    A sequence of L vectors is cut into `count` parts of equal length, and the middle of each part is taken. For L = 6
    and 3 parts these are the vectors 1, 3 and 5. The rule is floor((i + 0.5) L / count) for part i. If L is less than
    `count`, vectors occur several times.
    """
    lengths = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(1)
    chosen = even_places(lengths[:, None], torch.arange(count, device=x.device), count)
    return x[torch.arange(len(x), device=x.device)[:, None], chosen]


def even_places(length: Tensor, part: Tensor, count: int) -> Tensor:
    """Returns the index of the vector in the middle of a part: floor((part + 0.5) length / count). A sequence of
    `length` vectors is cut into `count` equal parts, and `part` is the number of the part, from 0. Both tensors are
    int64.
    """
    return torch.div((2 * part + 1) * length, 2 * count, rounding_mode="floor")
