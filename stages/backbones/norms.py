"""Finds the batch norms of a backbone that stay frozen while the backbone is trained."""

import logging
from collections.abc import Sequence

from torch import nn

from kinegraph.cache_schemas.words import counted, few_of

NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
SHOWN = 3  # names of norms in a message
log = logging.getLogger("kinegraph")


def norms_of(network: nn.Module) -> list[str]:
    """Returns the dotted paths of all batch norms in `network`, in the order of its modules."""
    return [path for path, module in network.named_modules() if isinstance(module, NORMS)]


def frozen_norms(norms: Sequence[str], batch_norm: str) -> list[str]:
    """Returns the names of those batch norms whose statistics are not updated in training. `norms` are the names of all
    batch norms, in the order of the network.

    `batch_norm` is an option of the config. "frozen" and "statistics" choose all norms, and "train" chooses none.
    "partial" chooses all norms except the first, as TSN does (Wang et al. 2016, arXiv 1608.00859, section 3.2).
    """
    return {"frozen": [*norms], "statistics": [*norms], "partial": [*norms[1:]], "train": []}[batch_norm]


def warn_of_gains_at_0(network: nn.Module, frozen: Sequence[str]) -> None:
    """Logs a warning if a norm with a frozen gain has a gain of 0 in all channels. `frozen` are the paths of the norms
    in `network` whose gains are frozen.

    The layers below such a norm add nothing to the network and get no gradient. New non-local blocks end with such a
    norm. So with frozen norms they always return their input.
    """
    parameters = dict(network.named_parameters())
    gains = {path: parameters.get(f"{path}.weight") for path in frozen}
    idle = [path for path, gain in gains.items() if gain is not None and not gain.any()]
    if idle:
        log.warning(
            "batch_norm: %s of the backbone keep their gain of 0 (%s). The layers below them add nothing and are not "
            "trained. `finetune.batch_norm: statistics` trains the gains.",
            counted(len(idle), "frozen norm"),
            few_of(idle, SHOWN),
        )
