"""Blocks of the papers inside a residual network: behind a residual block, or at the end of its branch.

B clips, T frames, C channels, H, W. A block takes [B, T, C, H, W] and gives the same shape.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor, nn

from stages.backbones.backbone import Backbone
from stages.backbones.non_local import NonLocal
from stages.heads.atr import AtrBlock, AtrBlockOptions
from stages.heads.head import HeadError
from stages.heads.rstg import RstgBlockOptions, RstgToMap
from stages.heads.tail_options import InsertionOptions
from stages.heads.trg import TrgBlock, TrgBlockOptions
from stages.options import StageOptions

Shape = tuple[int, int, int, int]  # T, C, H, W


@dataclass(frozen=True)
class Kind:
    """How a block is built: its options, and from (options, C, H, W) the module."""

    option_model: type[StageOptions]
    build: Callable[[Any, int, int, int], nn.Module]


KINDS: dict[str, Kind] = {
    "trg": Kind(TrgBlockOptions, lambda options, c, h, w: TrgBlock(c, options)),
    "atr": Kind(AtrBlockOptions, lambda options, c, h, w: AtrBlock(c, options)),
    "rstg": Kind(RstgBlockOptions, lambda options, c, h, w: RstgToMap(c, h, w, options)),
    "non_local": Kind(StageOptions, lambda options, c, h, w: TimeFirst(NonLocal(c))),
}


def insert(network: Backbone, insertion: InsertionOptions, shapes: Mapping[str, Shape], *, by_frame: bool) -> None:
    """Put blocks with fresh weights into a network that was cut below, in place.

    shapes: of the maps of each tap that it still computes. by_frame: its submodules take frames [B*T, C, H, W], not
    clips [B, C, T, H, W].

    Raises HeadError for a place that is not there or taken, and for options that the block does not have.
    """
    kind, options = KINDS[insertion.block], block_options(insertion)
    for place in insertion.after or insertion.in_branch:
        stage, _, index = place.partition(".")
        for parent, name in _hosts(network, place, stage, index, in_branch=bool(insertion.in_branch)):
            num_frames, channels, height, width = shapes[stage]
            if insertion.block == "non_local" and min(height, width) < 2:
                raise HeadError(f"tail.blocks: non_local pools 1x2x2; the maps of {stage} are {height} x {width}.")
            block = kind.build(options, channels, height, width)
            host = parent.get_submodule(name)
            if isinstance(host, Followed):
                raise HeadError(f"tail.blocks: {place} has a block there already; one fits.")
            parent.add_module(name, Followed(host, OnFrames(block, num_frames) if by_frame else TimeFirst(block)))


class Followed(nn.Module):
    """A submodule of a network and the block that its output passes next.

    The output is a copy: networks add their shortcut to it in place, and a block that ends in a ReLU needs its own
    output for its gradient.
    """

    def __init__(self, host: nn.Module, inserted: nn.Module) -> None:
        super().__init__()
        self.host, self.inserted = host, inserted

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inserted(self.host(x))
        return found.clone()


def is_inserted(path: str) -> bool:
    """Whether a parameter or submodule, by its path in a network, is of a block that was inserted."""
    return "inserted" in path.split(".")


class TimeFirst(nn.Module):
    """A module for [B, C, T, H, W] as one for [B, T, C, H, W], and the other way round."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.block(x.transpose(1, 2))
        return found.transpose(1, 2)


class OnFrames(nn.Module):
    """A block for clips in a network of frames: [B*T, C, H, W] -> the same shape."""

    def __init__(self, block: nn.Module, num_frames: int) -> None:
        super().__init__()
        self.block, self.num_frames = block, num_frames

    def forward(self, x: Tensor) -> Tensor:
        clips: Tensor = self.block(x.view(-1, self.num_frames, *x.shape[1:]))
        return clips.flatten(0, 1)


def block_options(insertion: InsertionOptions) -> StageOptions:
    """The options of the block, complete. Raises HeadError."""
    model = KINDS[insertion.block].option_model
    try:
        return model(**insertion.options)
    except ValidationError as error:
        problems = [f"{details['loc'][0]} is {details['input']!r}: {details['msg']}" for details in error.errors()]
        known = ", ".join(model.model_fields) or "none"
        raise HeadError(f"tail.blocks: {insertion.block}: {'; '.join(problems)}. Its options: {known}.") from error


def _hosts(
    network: Backbone, place: str, stage: str, index: str, *, in_branch: bool
) -> Iterator[tuple[nn.Module, str]]:
    """What a block may follow, as (parent, name): one residual block or all of a stage, or the norms in them."""
    container = _container(network, place, stage)
    names = [name for name, _ in container.named_children() if name.isdecimal()]
    if index and index not in names:
        raise HeadError(f"tail.blocks: {place} is not there; {stage} has {', '.join(f'{stage}.{n}' for n in names)}.")
    for name in [index] if index else names:
        if not in_branch:
            yield container, name
            continue
        residual = container.get_submodule(name)
        residual = residual.host if isinstance(residual, Followed) else residual
        yield residual, "bn3" if hasattr(residual, "bn3") else "bn2"


def _container(network: Backbone, place: str, stage: str) -> nn.Module:
    """The submodule that has the residual blocks of a stage."""
    if stage in network.levels:
        return network.get_submodule(network.stages[stage][-1])
    above = ", ".join(network.levels)
    words = "is not above the cached tap" if stage in network.stages else "is no stage of the network"
    raise HeadError(
        f"tail.blocks: {place} {words}; above are {above}. Blocks go only there: to put them further down, also "
        "within the stage of the cached tap, cache a lower tap."
    )
