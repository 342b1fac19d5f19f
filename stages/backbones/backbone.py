"""What every frozen backbone is: a chain of named taps that can be cut."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

# B clips, T frames, C channels, H, W; T' H' W' as the catalogue's Tap.shape says.


class Backbone(nn.Module):
    """Clips in, maps of the wanted taps out.

    A subclass sets `stages`, from bottom to top: tap name -> names of the submodules that lead to it from the
    tap below, in the order in which they run. Until `cut`, all taps are wanted.
    """

    stages: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(self) -> None:
        super().__init__()
        self.taps = tuple(self.stages)

    def cut(self, taps: Sequence[str]) -> None:
        """Want only `taps`, and drop the submodules above the highest of them.

        Raises ValueError if `taps` is empty or names a tap that this network does not have (any more).
        """
        known = [name for name in self.stages if name in self.taps]
        unknown = [name for name in taps if name not in known]
        if unknown or not taps:
            raise ValueError(f"cannot cut {type(self).__name__} at {list(taps)}; its taps are {known}")
        self.taps = tuple(name for name in known if name in taps)
        names = list(self.stages)
        for name in names[names.index(self.taps[-1]) + 1 :]:
            for module in self.stages[name]:
                if hasattr(self, module):
                    delattr(self, module)

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """clips [B, 3, T, H, W], normalised -> wanted tap -> [B, C, T', H', W']."""
        return self.run(clips)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """The outputs of the wanted taps for the input `x` of the first submodule."""
        maps: dict[str, Tensor] = {}
        for tap, modules in self.stages.items():
            for module in modules:
                x = getattr(self, module)(x)
            if tap in self.taps:
                maps[tap] = x
            if tap == self.taps[-1]:
                break
        return maps
