"""Lists the places of a backbone where new blocks can be inserted.

Each family of backbones has its own names for its blocks.
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
    """The output of a submodule of a network. A new block can be inserted behind the output.

    - `parent`, `name`: the submodule is `parent.<name>`. When a block is inserted, another module takes the place of
      the submodule.
    - `channels`: the number of channels of the output. For the branches of an Inception block, one number for each
      branch.
    """

    parent: nn.Module
    name: str
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A block of a backbone, behind which or in which a new block can be inserted."""

    name: str  # the name of the block in a config, such as "res5.0"
    tap: str  # the tap whose maps have the size of the block's output
    after: Output  # the output of the block
    in_branch: Output  # the output of the branches of the block, before they are joined or added to the shortcut


@dataclass(frozen=True, kw_only=True)
class Family:
    """A group of backbones that name their blocks in the same way.

    - `by_frame`: if true, the submodules take single frames [B*T, C, H, W], else clips [B, C, T, H, W].
    - `places`: `places(network, tap)` yields a Place for each block between the previous tap and `tap`, the lowest
      block first.
    """

    by_frame: bool
    places: Callable[[Backbone, str], Iterator[Place]]


def residual_places(network: Backbone, tap: str) -> Iterator[Place]:
    """Yields a Place for each residual block of the stage of `network` that ends at `tap`. The names are "res5.0",
    "res5.1" and so on for the tap "res5".

    A new block can be inserted after a residual block or in its branch. The branch ends with the last normalisation of
    the block, before the shortcut is added.
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
    """Yields a Place for the Inception block of `network` that ends at `tap`. The place has the name of the tap, such
    as "mixed_5b". Yields nothing if no Inception block ends at `tap`.

    `branches` is {name of the tap: number of channels of each branch}, for each tap with an Inception block.
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
