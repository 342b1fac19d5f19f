"""Defines the region proposal network of detectron2 (ResNet with feature pyramid), without the package detectron2.

The network loads the official checkpoints, and computes in float32 the same values as detectron2 0.6. Four things
differ from torchvision's detectors. The input is BGR in 0..255. The stride of a block is in its first 1x1 convolution.
The corners of anchors are not rounded. The strides of the maps do not depend on the padded size of the frame.

Shapes: F frames, C channels, A anchors per cell, h rows and w columns of a frame, H rows and W columns of a padded
frame or of a map.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinegraph.stages.proposals.selection import Proposals, candidates, pad_images, select

SIZE_DIVISOR = 32
STRIDES = (4, 8, 16, 32, 64)  # strides of p2 ... p6, px
ANCHOR_SIDES = (32, 64, 128, 256, 512)  # px, one side per level
ANCHOR_RATIOS = (0.5, 1.0, 2.0)  # height / width
PRE_NMS_TOP, NMS_THRESHOLD = 1000, 0.7
CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."  # prefix of a key, before the number of a level


@dataclass(frozen=True)
class Widths:
    """The numbers of channels and blocks of a network of detectron2."""

    stem: int  # the number of channels of the first convolution
    # (blocks, channels inside a block, channels of the output of a block) for each of res2 to res5
    stages: tuple[tuple[int, int, int], ...]
    pyramid: int  # the number of channels of each map of the feature pyramid

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "Widths":
        """Returns the Widths of a network, from the shapes of its tensors. `state` is {name: tensor}.

        Raises KeyError with the name of the first missing tensor if `state` belongs to another kind of network.
        """
        stages = []
        for stage in range(2, 6):
            prefix = f"backbone.bottom_up.res{stage}"
            inside, out = (len(state[f"{prefix}.0.conv{convolution}.weight"]) for convolution in (1, 3))
            blocks = sum(key.startswith(f"{prefix}.") and key.endswith(".conv1.weight") for key in state)
            stages.append((blocks, inside, out))
        stem, pyramid = "backbone.bottom_up.stem.conv1.weight", "backbone.fpn_output2.weight"
        return cls(len(state[stem]), tuple(stages), len(state[pyramid]))


RESNET50 = Widths(64, ((3, 64, 256), (4, 128, 512), (6, 256, 1024), (3, 512, 2048)), 256)


class ConvNorm(nn.Conv2d):
    """A convolution from `in_channels` to `out_channels` channels, without bias, with a batch norm behind it. The
    kernel has `size` x `size` cells. The norm is its child `norm`.
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(super().forward(x))
        return normed


class Stem(nn.Module):
    """The first layers of the ResNet. F images [F, 3, h, w] become maps [F, C, h/4, w/4], with C = `channels`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 7, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class Block(nn.Module):
    """A residual block of three convolutions: 1x1 from `in_channels` to `inside` channels, 3x3, and 1x1 to
    `out_channels` channels.

    The stride is in the first 1x1 convolution, as in the original ResNets that detectron2 starts from.
    """

    def __init__(self, in_channels: int, inside: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.shortcut = ConvNorm(in_channels, out_channels, 1, stride) if in_channels != out_channels else None
        self.conv1 = ConvNorm(in_channels, inside, 1, stride)
        self.conv2 = ConvNorm(inside, inside, 3)
        self.conv3 = ConvNorm(inside, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.conv1(x))
        out = F.relu_(self.conv2(out))
        out = self.conv3(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)


class ResNet(nn.Module):
    """The ResNet of detectron2. F images [F, 3, rows, columns] become a list of four maps, the outputs of res2, res3,
    res4 and res5. The strides of the maps are 4, 8, 16 and 32 px. `widths` has the numbers of channels and blocks.
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.stem = Stem(widths.stem)
        channels = widths.stem
        for stage, (blocks, inside, out) in enumerate(widths.stages, 2):
            first = Block(channels, inside, out, stride=1 if stage == 2 else 2)
            others = (Block(out, inside, out, stride=1) for _ in range(blocks - 1))
            self.add_module(f"res{stage}", nn.Sequential(first, *others))
            channels = out

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        outputs = []
        for stage in range(2, 6):
            x = self.get_submodule(f"res{stage}")(x)
            outputs.append(x)
        return outputs


class Pyramid(nn.Module):
    """A feature pyramid (Lin et al. 2017, arXiv 1612.03144) on a ResNet. F images [F, 3, H, W] become a list of the
    maps p2 to p6.

    Map p<n> is 2^n times smaller than the images. Each map has `widths.pyramid` channels.
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.bottom_up = ResNet(widths)
        for level, (_, _, channels) in enumerate(widths.stages, 2):
            self.add_module(f"fpn_lateral{level}", nn.Conv2d(channels, widths.pyramid, 1))
            self.add_module(f"fpn_output{level}", nn.Conv2d(widths.pyramid, widths.pyramid, 3, padding=1))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        above: Tensor | None = None
        for level, below in reversed([*enumerate(self.bottom_up(images), 2)]):
            merged: Tensor = self.get_submodule(f"fpn_lateral{level}")(below)
            if above is not None:
                merged = merged + F.interpolate(above, scale_factor=2.0, mode="nearest")
            maps.insert(0, self.get_submodule(f"fpn_output{level}")(merged))
            above = merged
        return [*maps, F.max_pool2d(maps[-1], kernel_size=1, stride=2)]


class RpnHead(nn.Module):
    """The head of detectron2's proposal network. `forward` takes a list with the map of each pyramid level. It returns
    two lists with one tensor for each level: objectness logits [F, A, H, W] and box deltas [F, 4A, H, W], for F frames
    and A anchors per cell.

    `channels` is the number of channels of each map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        num_anchors = len(ANCHOR_RATIOS)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness_logits = nn.Conv2d(channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(channels, 4 * num_anchors, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [F.relu_(self.conv(x)) for x in maps]
        return [self.objectness_logits(x) for x in hidden], [self.anchor_deltas(x) for x in hidden]


def buffers_of_old_files(mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    """Returns {name: tensor} of the constants that only older detectron2 files contain: `mean` and `std` of the pixels
    (three values each), and the anchors of each pyramid level.
    """
    anchors = {f"{CELL_ANCHORS}{level}": cell_anchors(side) for level, side in enumerate(ANCHOR_SIDES)}
    return {"pixel_mean": torch.tensor(mean), "pixel_std": torch.tensor(std), **anchors}


class Detectron2Proposer(nn.Module):
    """The region proposal network of detectron2, which finds boxes without classes. The second stage of a detector,
    which classifies the boxes, is missing.

    `widths` has the numbers of channels and blocks. `mean` and `std` normalise pixel values from 0 to 255. Both have
    three values, in the order B, G, R.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, widths: Widths, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = Pyramid(widths)
        self.proposal_generator = nn.ModuleDict({"rpn_head": RpnHead(widths.pyramid)})
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def box_deltas(self) -> nn.Conv2d:
        """Returns the layer that computes the box deltas: the shift and the scaling that turn an anchor into a box."""
        return self.head.anchor_deltas

    @property
    def head(self) -> RpnHead:
        head = self.proposal_generator["rpn_head"]
        assert isinstance(head, RpnHead)
        return head

    def forward(self, frames: Tensor, top: int) -> Proposals:
        """Returns the `top` best boxes of each of F frames, with their scores, as Proposals. `frames` are [F, 3, h, w]
        uint8 RGB. Boxes are (x1, y1, x2, y2) in pixels of `frames`.

        The caller must first resize the frames to the size (h, w) that `ProposalEntry.input_size` returns.
        """
        maps = self.backbone(self.images(frames))
        logits, deltas = self.head(maps)
        anchors = list(level_anchors([x.shape[-2:] for x in maps], frames.device))
        boxes, scores, levels = candidates(logits, deltas, anchors, PRE_NMS_TOP)
        return select(boxes, scores, levels, (frames.shape[2], frames.shape[3]), NMS_THRESHOLD, top)

    def images(self, frames: Tensor) -> Tensor:
        """Converts F frames [F, 3, h, w] RGB to the input of the network: float32 [F, 3, H, W], BGR, normalised, padded
        with zeros.

        H and W are h and w, rounded up to multiples of 32.
        """
        return pad_images((frames.flip(1).contiguous().float() - self.mean) / self.std, SIZE_DIVISOR)


def level_anchors(grids: Sequence[Sequence[int]], device: torch.device) -> Iterator[Tensor]:
    """Yields the anchors of each pyramid level, [H*W*A, 4] on `device`, for A anchors per cell. An anchor is (x1, y1,
    x2, y2) in pixels of the network's input. `grids` has (H, W) of each level, from the finest to the coarsest.

    Anchors are ordered by row, then by column, then by their number in the cell. The centre of an anchor is (column,
    row) times the stride of the level. As in detectron2, corners are not rounded.
    """
    for (rows, columns), stride, side in zip(grids, STRIDES, ANCHOR_SIDES, strict=True):
        y, x = (torch.arange(0, n * stride, stride, dtype=torch.float32, device=device) for n in (rows, columns))
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([x, y, x, y], dim=-1)  # [H, W, 4]
        yield (centres[:, :, None] + cell_anchors(side).to(device)).flatten(0, 2)


def cell_anchors(side: float) -> Tensor:
    """Returns the A anchors of one cell, [A, 4]. An anchor is (x1, y1, x2, y2) in px, with the centre (0, 0).

    `side` is one of ANCHOR_SIDES, which has one side in px for each pyramid level.
    """
    return torch.tensor([_centred(side, ratio) for ratio in ANCHOR_RATIOS])


def _centred(side: float, ratio: float) -> list[float]:
    """Returns one anchor (x1, y1, x2, y2) with the centre (0, 0), computed in double precision as in detectron2.

    The area of the anchor is `side` * `side`. `ratio` is its height divided by its width.
    """
    width = math.sqrt(side**2 / ratio)
    height = ratio * width
    return [-width / 2, -height / 2, width / 2, height / 2]
