"""Inserts new blocks, such as the block of TRG, into the tail of a head. A tail has the layers of a backbone above a
cached tap. A new block runs after a block of the backbone, or at the end of each of its branches.

Shapes: B clips, T frames, C channels, H rows and W columns of a map. A new block maps [B, T, C, H, W] to the same
shape.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from kinegraph.cache_schemas.documents import said
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.non_local import NonLocal
from kinegraph.stages.heads.atr import AtrBlock, AtrBlockOptions
from kinegraph.stages.heads.conv3d import Conv3dBlock, Conv3dBlockOptions
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.heads.maps import TimeFirst
from kinegraph.stages.heads.places import Family, Place
from kinegraph.stages.heads.rstg import RstgToMap
from kinegraph.stages.heads.rstg_graph import RstgBlockOptions
from kinegraph.stages.heads.tail_options import InsertionOptions
from kinegraph.stages.heads.trg import TrgBlock, TrgBlockOptions
from kinegraph.stages.options import StageOptions

Shape = tuple[int, int, int, int]  # (T, C, H, W)


@dataclass(frozen=True)
class Kind:
    """A kind of block that can be inserted into a network. `option_model` is the class of the options of the block.

    `build(options, channels, rows, columns)` returns the new block as a module. The block runs on maps with these
    numbers of channels, rows and columns.
    """

    option_model: type[StageOptions]
    build: Callable[[Any, int, int, int], nn.Module]


KINDS: dict[str, Kind] = {
    "trg": Kind(TrgBlockOptions, lambda options, c, h, w: TrgBlock(c, options)),
    "atr": Kind(AtrBlockOptions, lambda options, c, h, w: AtrBlock(c, options)),
    "rstg": Kind(RstgBlockOptions, lambda options, c, h, w: RstgToMap(c, h, w, options)),
    "non_local": Kind(StageOptions, lambda options, c, h, w: TimeFirst(NonLocal(c))),
    "conv3d": Kind(Conv3dBlockOptions, lambda options, c, h, w: TimeFirst(Conv3dBlock(c, options))),
}


def insert(
    network: Backbone, family: Family, insertions: Sequence[InsertionOptions], shapes: Mapping[str, Shape]
) -> None:
    """Inserts new blocks with random weights into `network`, in place.

    - `network`: the layers of a backbone above a cached tap.
    - `family`: lists the places of the network where blocks can be inserted.
    - `insertions`: the new blocks and their places.
    - `shapes`: {name of the tap: shape (T, C, H, W) of its maps}, for each tap of the network.

    Raises HeadError if a named block does not exist, if two new blocks have the same place, or if an option is wrong.
    """
    places = [place for tap in network.levels for place in family.places(network, tap)]
    for insertion in insertions:
        for name in insertion.after or insertion.in_branch:
            for place in _named(name, places, network):
                output = place.after if insertion.after else place.in_branch
                block = _block(insertion, output.channels, place, shapes[place.tap])
                host = output.parent.get_submodule(output.name)
                if isinstance(host, Followed):
                    raise HeadError(f"tail.blocks: {place.name} has an inserted block already. One place takes one.")
                inserted = OnFrames(block, shapes[place.tap][0]) if family.by_frame else TimeFirst(block)
                output.parent.add_module(output.name, Followed(host, inserted))


def _block(insertion: InsertionOptions, channels: Sequence[int], place: Place, shape: Shape) -> nn.Module:
    """Returns the new module to insert at `place`, of the kind that `insertion` names. If the network has parallel
    branches at this place, the module has one block for each branch.

    `channels` has the number of channels of each branch. `shape` is the shape (T, C, H, W) of the maps at the place.
    Raises HeadError if the maps are too small for a non-local block.
    """
    kind, options, (_, _, height, width) = KINDS[insertion.block], block_options(insertion), shape
    if insertion.block == "non_local" and min(height, width) < 2:
        raise HeadError(f"tail.blocks: non_local pools 1x2x2; the maps of {place.tap} are {height} x {width}.")
    blocks = [kind.build(options, branch_channels, height, width) for branch_channels in channels]
    return blocks[0] if len(blocks) == 1 else Branches(blocks, channels)


class Followed(nn.Module):
    """Runs the module `host` of a network, and then the new block `inserted` on its output."""

    def __init__(self, host: nn.Module, inserted: nn.Module) -> None:
        super().__init__()
        self.host, self.inserted = host, inserted

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inserted(self.host(x))
        # The network adds its shortcut in place, but a last ReLU needs its own output unchanged for the gradient.
        return output.clone()


def is_inserted(path: str) -> bool:
    """Returns whether a parameter or submodule of a network belongs to a block that `insert` has inserted. `path` is
    the name of the parameter or submodule in the network, with dots, such as "res5.0.inserted.conv.weight".
    """
    return "inserted" in path.split(".")


class Branches(nn.Module):
    """Runs one inserted block on the output of each branch of an Inception block. `forward` maps x [B, T, C, H, W] to
    the same shape. x has the channels of all branches, one branch after the other.

    `blocks` has the inserted block of each branch. `channels` has the number of channels of each branch, in the same
    order.
    """

    def __init__(self, blocks: Iterable[nn.Module], channels: Sequence[int]) -> None:
        super().__init__()
        self.blocks, self.channels = nn.ModuleList(blocks), list(channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split_with_sizes(self.channels, 2)
        return torch.cat([block(part) for block, part in zip(self.blocks, parts, strict=True)], 2)


class OnFrames(nn.Module):
    """Runs the block `block`, which takes clips [B, T, C, H, W], inside a network that takes single frames. `forward`
    maps frames [B*T, C, H, W] to the same shape, for B clips of T = `num_frames` frames, C channels, H rows and W
    columns.
    """

    def __init__(self, block: nn.Module, num_frames: int) -> None:
        super().__init__()
        self.block, self.num_frames = block, num_frames

    def forward(self, x: Tensor) -> Tensor:
        clips: Tensor = self.block(x.view(-1, self.num_frames, *x.shape[1:]))
        return clips.flatten(0, 1)


def block_options(insertion: InsertionOptions) -> StageOptions:
    """Returns the options of the new block that `insertion` describes, as an object of the options class of this kind
    of block. Options that `insertion` does not set have their defaults.

    Raises HeadError if an option does not exist or has a wrong value.
    """
    model = KINDS[insertion.block].option_model
    try:
        return model(**insertion.options)
    except ValidationError as error:
        problems = [f"{details['loc'][0]} is {details['input']!r}: {said(details)}" for details in error.errors()]
        names = ", ".join(model.model_fields) or "none"
        raise HeadError(f"tail.blocks: {insertion.block}: {'; '.join(problems)}. Its options: {names}.") from error


def _named(name: str, places: Sequence[Place], network: Backbone) -> list[Place]:
    """Returns the places where new blocks are inserted for the option value `name`. The name of a block ("res5.0")
    stands for one place. The name of a stage ("res5") stands for all places of the stage.

    `places` are all places of `network` where a block can be inserted. `network` has the layers of a backbone above a
    cached tap. Raises HeadError if `places` has no place with this name.
    """
    if named := [place for place in places if name in (place.name, place.tap)]:
        return named
    stage = name.partition(".")[0]
    if stage in network.levels:
        there = ", ".join(place.name for place in places if place.tap == stage)
        raise HeadError(f"tail.blocks: {name} is not there; {stage} has {there or 'no block that another can follow'}.")
    above = ", ".join(network.levels)
    words = "is not above the cached tap" if stage in network.stages else "is no stage of the network"
    raise HeadError(
        f"tail.blocks: {name} {words}; above are {above}. Blocks go only there: to put them further down, also "
        "within the stage of the cached tap, cache a lower tap."
    )
