"""The contract of a frozen backbone: a chain of named taps. The network can be cut at each tap."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

# B clips, T frames, C channels, H height, W width; Tap.shape of the catalogue computes T' H' W'.


class Backbone(nn.Module):
    """Takes clips and returns the maps of the wanted taps.

    A subclass sets `stages`: tap name -> names (dotted paths) of the submodules that lead from the tap below to this
    tap, in the order in which they run. The taps go from bottom to top. A subclass whose submodules branch overrides
    `step`. All taps are wanted until `cut` is called. `levels` are the taps whose submodules are still in the network.
    A cut from above or below removes some.
    """

    stages: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(self) -> None:
        super().__init__()
        self.levels = self.taps = tuple(self.stages)

    def cut(self, taps: Sequence[str]) -> None:
        """Limits the network to `taps` and drops the submodules above the highest of them.

        Raises ValueError if `taps` is empty or names a tap that the network does not have, or no longer has.
        """
        present = [name for name in self.stages if name in self.taps]
        unknown = [name for name in taps if name not in present]
        if unknown or not taps:
            raise ValueError(f"cannot cut {type(self).__name__} at {list(taps)}; its taps are {present}")
        self.taps = tuple(name for name in present if name in taps)
        self._keep(self.levels[: self.levels.index(self.taps[-1]) + 1])

    def cut_below(self, tap: str) -> None:
        """Drops the submodules up to `tap`. Afterwards the network takes maps of `tap` in place of clips.

        Raises ValueError where there is no such tap, or no wanted tap above it.
        """
        if tap not in self.levels or tap == self.taps[-1]:
            below = [name for name in self.levels if name != self.taps[-1]]
            raise ValueError(f"{type(self).__name__} has nothing above the tap {tap!r}; it has above {below}")
        above = self.levels[self.levels.index(tap) + 1 :]
        self.taps = tuple(name for name in self.taps if name in above)
        self._keep(above)

    def _keep(self, levels: tuple[str, ...]) -> None:
        """Drops the submodules of all other levels."""
        present = {path for path, _ in self.named_modules()}
        for name in set(self.levels).difference(levels):
            for path in present.intersection(self.stages[name]):
                parent, _, child = path.rpartition(".")
                delattr(self.get_submodule(parent), child)
        self.levels = levels

    def adopt(self, network: nn.Module) -> None:
        """Takes the submodules that `stages` names from another network. Parameters keep their names."""
        for path in (path for paths in self.stages.values() for path in paths):
            child = path.partition(".")[0]
            self.add_module(child, network.get_submodule(child))

    def is_classifier(self, name: str) -> bool:
        """Returns whether a tensor of a public file belongs to the classifier, by its name.

        The method is asked only about names that no table of formats knows.
        """
        return False

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Returns wanted tap -> maps [B, C, T', H', W'] for normalised clips [B, 3, T, H, W].

        After `cut_below`, the input is maps [B, C, T, H, W] of that tap in place of clips.
        """
        return self.run(clips)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of the wanted taps for the input `x` of the first submodule."""
        maps: dict[str, Tensor] = {}
        for tap in self.levels:
            x = self.step(tap, x)
            if tap in self.taps:
                maps[tap] = x
        return maps

    def step(self, tap: str, x: Tensor) -> Tensor:
        """Returns the output of `tap` for the output `x` of the tap below."""
        for path in self.stages[tap]:
            x = self.get_submodule(path)(x)
        return x


def frame_by_frame(run: Callable[[Tensor], dict[str, Tensor]], clips: Tensor) -> dict[str, Tensor]:
    """Calls `run` on the frames [B*T, 3, H, W] of clips [B, 3, T, H, W]. Returns tap -> maps [B, C, T, H', W'].

    Clips that lie in memory as [B, T, H, W, 3] (decoded frames, permuted) are neither copied nor reordered. In that
    case `run` sees the frames as channels_last.
    """
    num_clips = clips.shape[0]
    maps = run(clips.transpose(1, 2).flatten(0, 1))
    return {tap: x.view(num_clips, -1, *x.shape[1:]).transpose(1, 2) for tap, x in maps.items()}
