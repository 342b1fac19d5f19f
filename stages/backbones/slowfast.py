"""Defines SlowFast (Feichtenhofer et al. 2019, arXiv 1812.03982): a network with a slow pathway of few frames and a
fast pathway of all frames.

The layers are the same as in pytorchvideo and in the authors' code. Parameters have the names of the ResNet-3D family,
after `slow.` or `fast.`.

Shapes: B clips, T frames, C channels, H rows and W columns of a map.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from kinegraph.cache_schemas.arrays import HEAD
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.backbones.backbone import Backbone
from kinegraph.stages.backbones.resnet3d import EXPANSION, Bottleneck3D, ResidualStage
from kinegraph.stages.backbones.taps import spread_frames
from kinegraph.stages.weights.random import initialise

STAGES = ("res2", "res3", "res4", "res5")
PARTS = ("stem", *STAGES)
WIDTH_RATIO = 8  # of the slow pathway's channels to the fast pathway's
TEMPORAL_KERNELS: Mapping[str, tuple[int, int, int, int]] = {"slow": (1, 1, 3, 3), "fast": (3, 3, 3, 3)}
STEM_FRAMES: Mapping[str, int] = {"slow": 1, "fast": 5}


def _paths(pathway: str, part: str) -> tuple[str, ...]:
    """Returns the paths of the submodules of one part of a pathway. In the slow pathway, the layer `fuse<n>` comes
    first, which adds maps of the fast pathway.
    """
    if part == "stem":
        return tuple(f"{pathway}.{name}" for name in ("conv1", "bn1", "relu", "pool1"))
    fusion = (f"fuse{PARTS.index(part)}",) if pathway == "slow" else ()
    return (*fusion, f"{pathway}.{part}")


class SlowFast(Backbone):
    """SlowFast without its classifier. `blocks` has the numbers of residual blocks of res2, res3, res4 and res5.

    The slow pathway takes one of `alpha` frames, so the number of frames must be a multiple of `alpha`. Before each
    residual stage, a convolution over `fusion_frames` frames of the fast pathway adds channels to the slow pathway
    (fusion). A tap returns its maps before the next fusion. The output `head` has the mean of the last slow maps, then
    the mean of the last fast maps.
    """

    stages: ClassVar = {f"{pathway}_{part}": _paths(pathway, part) for part in PARTS for pathway in ("slow", "fast")}

    def __init__(self, blocks: Sequence[int], *, alpha: int, fusion_frames: int) -> None:
        super().__init__()
        self.alpha = alpha
        self.slow, self.fast = _pathway("slow", 64, blocks), _pathway("fast", 64 // WIDTH_RATIO, blocks)
        for number, channels in enumerate((64, 256, 512, 1024), start=1):
            self.add_module(f"fuse{number}", _fusion(channels // WIDTH_RATIO, fusion_frames, alpha))

    def draw(self, seed: int) -> None:
        """Fills the network with random weights. The weights of a layer depend on `seed` alone, not on where the
        network is cut.
        """
        paths = [(level, path) for level, paths in self.stages.items() for path in paths]
        for number, (level, path) in enumerate(paths):
            if level in self.levels:
                initialise(self.get_submodule(path), len(paths) * seed + number)

    def _keep(self, levels: tuple[str, ...]) -> None:
        """Removes the parts of each pathway that no wanted tap needs. A part of the slow pathway needs the fast pathway
        up to the part below it.
        """
        top = {"slow": -1, "fast": -1}
        for pathway, number in map(_place, self.taps):
            top[pathway] = max(top[pathway], number)
        top["fast"] = max(top["fast"], top["slow"] - 1)
        super()._keep(tuple(level for level in levels if _place(level)[1] <= top[_place(level)[0]]))

    def cut_below(self, tap: str) -> None:
        """Always raises ValueError, because layers above a tap of one pathway need the other pathway too."""
        raise ValueError(f"cannot go on from maps of {tap}: above it, SlowFast needs maps of both pathways")

    def run(self, x: Tensor) -> dict[str, Tensor]:
        num_frames = x.shape[2]
        if num_frames % self.alpha:
            raise ValueError(f"{counted(num_frames, 'frame')}: SlowFast needs a multiple of {self.alpha}")
        newest, maps = {"slow": x, "fast": x}, {}
        if "slow_stem" in self.levels:
            chosen = spread_frames(num_frames, num_frames // self.alpha)
            newest["slow"] = torch.stack([x[:, :, frame] for frame in chosen], 2)
        for level in self.levels:  # at each height, the slow pathway first
            pathway = _place(level)[0]
            out = newest[pathway]
            for path in self.stages[level]:
                layer = self.get_submodule(path)
                out = torch.cat([out, layer(newest["fast"])], 1) if path.startswith("fuse") else layer(out)
            newest[pathway] = out
            if level in self.taps:
                maps[level] = out
        if self.wants_head:
            maps[HEAD] = torch.cat([newest[pathway].mean((2, 3, 4)) for pathway in ("slow", "fast")], 1)
        return maps


def _place(tap: str) -> tuple[str, int]:
    """Returns the pathway of a tap and its height in the pathway: `slow_res2` -> ("slow", 1)."""
    pathway, part = tap.split("_")
    return pathway, PARTS.index(part)


def _pathway(name: str, width: int, blocks: Sequence[int]) -> nn.Module:
    """Returns the submodules of one pathway. `width` is the number of channels of its stem."""
    frames = STEM_FRAMES[name]
    pathway = nn.Module()
    pathway.conv1 = nn.Conv3d(3, width, (frames, 7, 7), (1, 2, 2), (frames // 2, 3, 3), bias=False)
    pathway.bn1 = nn.BatchNorm3d(width)
    pathway.relu = nn.ReLU(inplace=True)
    pathway.pool1 = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
    channels = width
    for stage, kernel, num_blocks in zip(STAGES, TEMPORAL_KERNELS[name], blocks, strict=True):
        fused = 2 * channels // WIDTH_RATIO if name == "slow" else 0
        inputs = [channels + fused, *[EXPANSION * width] * (num_blocks - 1)]
        strides = [1 if stage == "res2" else 2, *[1] * (num_blocks - 1)]
        pathway.add_module(
            stage,
            ResidualStage(
                Bottleneck3D(block_input, width, kernel, stride)
                for block_input, stride in zip(inputs, strides, strict=True)
            ),
        )
        channels, width = EXPANSION * width, 2 * width
    return pathway


def _fusion(channels: int, frames: int, alpha: int) -> nn.Sequential:
    """Returns the layer that brings maps of the fast pathway, with `channels` channels, to the slow pathway. It takes
    one of `alpha` frames and doubles the channels.
    """
    conv = nn.Conv3d(channels, 2 * channels, (frames, 1, 1), (alpha, 1, 1), (frames // 2, 0, 0), bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm3d(2 * channels), relu=nn.ReLU(inplace=True)))
