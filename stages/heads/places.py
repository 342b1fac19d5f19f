"""Lists the places for blocks inside a network. Each family of networks names its own blocks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from kinegraph.stages.backbones import bn_inception, inception_v3
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.resnet3d_layouts import LAYOUTS


@dataclass(frozen=True)
class Output:
    """A submodule whose output can pass a new block. The submodule's parent stays in place when a block is inserted.

    channels: the channels of each branch that lies side by side with others in the output.
    """

    parent: nn.Module
    name: str
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A block of a network. `name` is the name that users write. The maps of `tap` have the size of the block's output.

    after: the output of the block. in_branch: the outputs of the block's branches, before they are joined.
    """

    name: str
    tap: str
    after: Output
    in_branch: Output


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks that name their blocks alike. A function returns the places of (network, tap), bottom to top.

    by_frame: submodules take frames [B*T, C, H, W], not clips [B, C, T, H, W].
    """

    by_frame: bool
    places: Callable[[Backbone, str], Iterator[Place]]


def residual_places(network: Backbone, tap: str) -> Iterator[Place]:
    """Yields `res5.0`, `res5.1`, ...: residual blocks.

    A branch ends with the last norm, before the shortcut is added.
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
    """Yields `mixed_5b`, `inception_3a`, ...: Inception blocks, one per tap.

    The branches of a block lie side by side in its output.
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
