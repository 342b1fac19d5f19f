"""Lists the places inside a network where blocks can be inserted. Each family of networks names its own blocks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from kinegraph.stages.backbones import bn_inception, inception_v3
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.resnet3d_layouts import LAYOUTS


@dataclass(frozen=True)
class Output:
    """The output of a submodule, behind which a new block can be inserted.

    Inserting leaves the submodule's `parent` in place. `name` is the submodule's name in `parent`. `channels` has the
    number of channels of each branch in the output. Branches lie side by side.
    """

    parent: nn.Module
    name: str
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A block of a network, behind or in which a new block can be inserted.

    `name` is the name that users write. The maps of the tap `tap` have the size of the block's output. `after` is the
    output of the block. `in_branch` is the output of the block's branches, before they are joined or added to the
    shortcut.
    """

    name: str
    tap: str
    after: Output
    in_branch: Output


@dataclass(frozen=True, kw_only=True)
class Family:
    """A group of networks that name their blocks alike.

    `places(network, tap)` yields the places of one tap, bottom to top. `by_frame` says that submodules take frames
    [B*T, C, H, W], not clips [B, C, T, H, W], for B clips of T frames, C channels, H rows and W columns.
    """

    by_frame: bool
    places: Callable[[Backbone, str], Iterator[Place]]


def residual_places(network: Backbone, tap: str) -> Iterator[Place]:
    """Yields the residual blocks of the stage `tap` as places, with names such as `res5.0` and `res5.1`.

    A branch of such a block ends with its last norm, before the shortcut is added.
    """
    stage = network.get_submodule(network.stages[tap][-1])
    for name, block in stage.named_children():
        if name.isdecimal():
            norm = "bn3" if hasattr(block, "bn3") else "bn2"
            channels = (block.get_submodule(norm).get_parameter("weight").numel(),)
            yield Place(
                name=f"{tap}.{name}",
                tap=tap,
                after=Output(stage, name, channels),
                in_branch=Output(block, norm, channels),
            )


def inception_places(branches: Mapping[str, tuple[int, ...]], network: Backbone, tap: str) -> Iterator[Place]:
    """Yields the Inception block of `tap` as a place, with the tap's name, such as `mixed_5b`.

    Yields nothing for other taps. `branches` maps a tap to the channels of each branch. The branches lie side by side
    in the block's output.
    """
    if tap in branches:
        path, _, name = network.stages[tap][-1].rpartition(".")
        parent, channels = network.get_submodule(path), branches[tap]
        yield Place(
            name=tap,
            tap=tap,
            after=Output(parent, name, (sum(channels),)),
            in_branch=Output(parent, name, channels),
        )


FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        ("resnet18", "resnet34", "resnet50", "resnet101", "tsm_r50"), Family(by_frame=True, places=residual_places)
    ),
    **dict.fromkeys(LAYOUTS, Family(by_frame=False, places=residual_places)),
    "inception_v3": Family(by_frame=True, places=partial(inception_places, inception_v3.BRANCHES)),
    "bn_inception": Family(by_frame=True, places=partial(inception_places, bn_inception.BRANCHES)),
}
