"""What every frozen backbone is: a chain of named taps that can be cut."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

# B clips, T frames, C channels, H, W; T' H' W' as the catalogue's Tap.shape says.


class Backbone(nn.Module):
    """Clips in, maps of the wanted taps out.

    A subclass sets `stages`, from bottom to top: tap name -> names (dotted paths) of the submodules that lead to it
    from the tap below, in the order in which they run; where they branch, it overrides `step`. Until `cut`, all taps
    are wanted. `levels` are the taps that the submodules still here lead to: all, until a cut from above or below.
    """

    stages: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(self) -> None:
        super().__init__()
        self.levels = self.taps = tuple(self.stages)

    def cut(self, taps: Sequence[str]) -> None:
        """Want only `taps`, and drop the submodules above the highest of them.

        Raises ValueError if `taps` is empty or names a tap that this network does not have (any more).
        """
        known = [name for name in self.stages if name in self.taps]
        unknown = [name for name in taps if name not in known]
        if unknown or not taps:
            raise ValueError(f"cannot cut {type(self).__name__} at {list(taps)}; its taps are {known}")
        self.taps = tuple(name for name in known if name in taps)
        self._keep(self.levels[: self.levels.index(self.taps[-1]) + 1])

    def cut_below(self, tap: str) -> None:
        """Drop the submodules up to `tap`: from then on, the network takes the maps of `tap` in place of clips.

        Raises ValueError where there is no such tap or nothing is wanted above it.
        """
        if tap not in self.levels or tap == self.taps[-1]:
            known = [name for name in self.levels if name != self.taps[-1]]
            raise ValueError(f"{type(self).__name__} has nothing above the tap {tap!r}; it has above {known}")
        above = self.levels[self.levels.index(tap) + 1 :]
        self.taps = tuple(name for name in self.taps if name in above)
        self._keep(above)

    def _keep(self, levels: tuple[str, ...]) -> None:
        """Drop the submodules of all other levels."""
        present = {path for path, _ in self.named_modules()}
        for name in set(self.levels).difference(levels):
            for path in present.intersection(self.stages[name]):
                parent, _, child = path.rpartition(".")
                delattr(self.get_submodule(parent), child)
        self.levels = levels

    def adopt(self, network: nn.Module) -> None:
        """Take the submodules that `stages` names, and with them their parameter names, from another network."""
        for path in (path for paths in self.stages.values() for path in paths):
            child = path.partition(".")[0]
            self.add_module(child, network.get_submodule(child))

    def is_classifier(self, name: str) -> bool:
        """Whether a public file's tensor of this name, which no table of formats knows, is of its classifier."""
        return False

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """clips [B, 3, T, H, W], normalised -> wanted tap -> [B, C, T', H', W'].

        After `cut_below`, maps [B, C, T, H, W] of that tap take the place of clips.
        """
        return self.run(clips)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """The outputs of the wanted taps for the input `x` of the first submodule."""
        maps: dict[str, Tensor] = {}
        for tap in self.levels:
            x = self.step(tap, x)
            if tap in self.taps:
                maps[tap] = x
        return maps

    def step(self, tap: str, x: Tensor) -> Tensor:
        """From the tap below to `tap`."""
        for path in self.stages[tap]:
            x = self.get_submodule(path)(x)
        return x


def frame_by_frame(run: Callable[[Tensor], dict[str, Tensor]], clips: Tensor) -> dict[str, Tensor]:
    """clips [B, 3, T, H, W] -> what `run` gives for frames [B*T, 3, H, W], as tap -> [B, C, T, H', W'].

    Clips that lie in memory as [B, T, H, W, 3] (decoded frames, permuted) are neither copied nor reordered: `run`
    sees them as channels_last.
    """
    num_clips = clips.shape[0]
    maps = run(clips.transpose(1, 2).flatten(0, 1))
    return {tap: x.view(num_clips, -1, *x.shape[1:]).transpose(1, 2) for tap, x in maps.items()}
