"""What a part of `make gpu` finds: a number, and how large it may be."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Check:
    """`what` was found to be `found`. It must not be above `allowed`; None: it is a measurement."""

    what: str
    found: float
    allowed: float | None = None
    unit: str = ""

    @property
    def is_ok(self) -> bool:
        return self.allowed is None or self.found <= self.allowed

    def document(self) -> dict[str, Any]:
        return asdict(self)


# A part: the device to try, and whether it is done on the smallest things alone.
Part = Callable[[torch.device, bool], Iterator[Check]]


def apart(found: Tensor, expected: Tensor) -> float:
    """The root mean square of the difference, in standard deviations of what is expected."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).square().mean().sqrt() / expected.std())
