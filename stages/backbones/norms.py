"""Finds the batch norms of a backbone that stay frozen while the backbone is trained."""

from collections.abc import Sequence

from torch import nn

NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def norms_of(network: nn.Module) -> list[str]:
    """Returns the paths of all batch norms of `network`, in the order of its modules."""
    return [path for path, module in network.named_modules() if isinstance(module, NORMS)]


def frozen_norms(norms: Sequence[str], batch_norm: str) -> list[str]:
    """Returns the names of those batch norms whose statistics are not updated in training. `norms` are the names of all
    batch norms, in the order of the network.

    `batch_norm` chooses them: all norms for "frozen" and "statistics", none for "train", and all except the first for
    "partial". "partial" is the rule of TSN (Wang et al. 2016, arXiv 1608.00859, section 3.2).
    """
    return {"frozen": [*norms], "statistics": [*norms], "partial": [*norms[1:]], "train": []}[batch_norm]
