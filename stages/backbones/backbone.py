"""The base class of frozen backbones. A backbone is a chain of named taps, and can be cut at each tap.

A tap is a place in the network whose maps can be cached.

Shapes: B clips, T frames, C channels, H rows and W columns of a frame. T', H' and W' are the sizes of a map, which
`Tap.shape` in taps.py computes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn


class Backbone(nn.Module):
    """Takes clips and returns the maps of the wanted taps.

    A subclass sets `stages`, a mapping from each tap to the names (dotted paths) of the submodules between the tap
    below and this tap, in the order in which they run. The taps go from bottom to top. A subclass whose submodules
    branch overrides `step`. `taps` are the wanted taps, which are all taps until `cut` is called. `levels` are the taps
    whose submodules are still in the network.
    """

    stages: ClassVar[Mapping[str, tuple[str, ...]]]

    def __init__(self) -> None:
        super().__init__()
        self.levels = self.taps = tuple(self.stages)

    def cut(self, taps: Sequence[str]) -> None:
        """Limits the wanted taps to `taps`, and removes the submodules above the highest of them.

        Raises ValueError if `taps` is empty, or if one of them is not a wanted tap now.
        """
        present = [name for name in self.stages if name in self.taps]
        unknown = [name for name in taps if name not in present]
        if unknown or not taps:
            raise ValueError(f"cannot cut {type(self).__name__} at {list(taps)}; its taps are {present}")
        self.taps = tuple(name for name in present if name in taps)
        self._keep(self.levels[: self.levels.index(self.taps[-1]) + 1])

    def cut_below(self, tap: str) -> None:
        """Removes the submodules up to `tap`. After this, the network takes maps of `tap` as input, not clips.

        Raises ValueError if the network has no such tap, or if no wanted tap is above it.
        """
        if tap not in self.levels or tap == self.taps[-1]:
            below = [name for name in self.levels if name != self.taps[-1]]
            raise ValueError(f"{type(self).__name__} has nothing above the tap {tap!r}; it has above {below}")
        above = self.levels[self.levels.index(tap) + 1 :]
        self.taps = tuple(name for name in self.taps if name in above)
        self._keep(above)

    def _keep(self, levels: tuple[str, ...]) -> None:
        """Removes the submodules of all taps that are not in `levels`."""
        present = {path for path, _ in self.named_modules()}
        for name in set(self.levels).difference(levels):
            for path in present.intersection(self.stages[name]):
                parent, _, child = path.rpartition(".")
                delattr(self.get_submodule(parent), child)
        self.levels = levels

    def adopt(self, network: nn.Module) -> None:
        """Takes the submodules that `stages` names from `network`. Their parameters keep their names."""
        for path in (path for paths in self.stages.values() for path in paths):
            child = path.partition(".")[0]
            self.add_module(child, network.get_submodule(child))

    def is_classifier(self, name: str) -> bool:
        """Returns whether the tensor `name` of a weights file belongs to the classifier, which this network lacks.

        The method is called only for names that no known file format explains.
        """
        return False

    def forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Returns the maps [B, C, T', H', W'] of each wanted tap by name, for normalised `clips` [B, 3, T, H, W].

        After `cut_below`, `clips` are the maps of that tap, [B, C, T, H, W].
        """
        return self.run(clips)

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of the wanted taps by name. `x` is the input of the first submodule."""
        maps: dict[str, Tensor] = {}
        for tap in self.levels:
            x = self.step(tap, x)
            if tap in self.taps:
                maps[tap] = x
        return maps

    def step(self, tap: str, x: Tensor) -> Tensor:
        """Returns the output of `tap`. `x` is the output of the tap below."""
        for path in self.stages[tap]:
            x = self.get_submodule(path)(x)
        return x


def frame_by_frame(run: Callable[[Tensor], dict[str, Tensor]], clips: Tensor) -> dict[str, Tensor]:
    """Calls `run` on the frames [B*T, 3, H, W] of `clips` [B, 3, T, H, W], and returns its maps as maps of clips.

    The result is tap -> maps [B, C, T, H', W']. Clips that lie in memory as [B, T, H, W, 3] (decoded frames, permuted)
    are neither copied nor reordered. In that case `run` gets the frames in the memory format channels_last.
    """
    num_clips = clips.shape[0]
    maps = run(clips.transpose(1, 2).flatten(0, 1))
    return {tap: x.view(num_clips, -1, *x.shape[1:]).transpose(1, 2) for tap, x in maps.items()}
