"""Lists the places inside a network where blocks can be inserted.

Each family of networks has its own names for its blocks.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from kinegraph.stages.backbones import bn_inception, inception_v3
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.resnet3d_layouts import LAYOUTS


@dataclass(frozen=True)
class Output:
    """An output in the network behind which a new block can be inserted. The output is that of the submodule `name` of
    `parent`.

    The block is inserted by replacing this submodule. `channels` has one number for each of the branches of the output.
    """

    parent: nn.Module
    name: str
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A block of a network. A new block can be inserted behind it, or at the end of its branches.

    `name` is the name that users write, such as `res5.0`. `tap` is the tap whose maps have the size of the block's
    output. `after` is the output of the block. `in_branch` is the output of its branches, before they are joined or
    added to the shortcut.
    """

    name: str
    tap: str
    after: Output
    in_branch: Output


@dataclass(frozen=True, kw_only=True)
class Family:
    """A group of networks that name their blocks in the same way.

    `places(network, tap)` yields the places where blocks can be inserted in the part of the network that ends at `tap`,
    from bottom to top. If `by_frame` is true, the submodules of the networks take frames [B*T, C, H, W], else clips [B,
    C, T, H, W]. B is the number of clips, T of frames, C of channels, H of rows and W of columns.
    """

    by_frame: bool
    places: Callable[[Backbone, str], Iterator[Place]]


def residual_places(network: Backbone, tap: str) -> Iterator[Place]:
    """Yields a Place for each residual block in the part of `network` that ends at `tap`, with names such as `res5.0`
    and `res5.1`. A Place says where a new block can be inserted: after the block, or in the block's branch.

    The branch of a residual block ends with its last normalisation, before the shortcut is added.
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
    """Yields the Inception block of `tap` in `network` as a `Place`, behind which a new block can be inserted. Yields
    nothing if `tap` has no Inception block.

    The place has the name of the tap, such as `mixed_5b`. `branches` maps each tap with an Inception block to a tuple
    with the number of channels of each branch. The output of the block has the channels of all branches, side by side.
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
