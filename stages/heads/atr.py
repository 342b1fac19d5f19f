"""The head ATR, "Reasoning action-centric temporal relations at rich feature hierarchies for action recognition" (Liang
et al., PLoS ONE 2025, doi 10.1371/journal.pone.0327302).

This file was written from a text of the paper without formulas. Docstrings name the formulas that are reconstructed.
Choices that the text leaves open are options.

Shapes: B clips, T frames, C channels, R = C / `reduction` channels, H rows and W columns of a map. t is a frame.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kinegraph.stages.heads.clip_graphs import FrameGraphs, outputs_of
from kinegraph.stages.heads.maps import MapHead, MapOptions, each_frame
from kinegraph.stages.options import StageOptions


class AtrBlockOptions(StageOptions):
    locator: Literal["both", "appearance", "motion", "none"] = Field(
        "both",
        description="the network that finds the action; none: ATR_sim, which averages features over "
        "positions, and the locator's other options have no effect",
    )
    locator_kernel: Literal[1, 3, 5, 7] = Field(
        3, description="side of the locator's depth-wise convolutions, in map cells"
    )
    locator_activation: bool = Field(
        False, description="BatchNorm and ReLU behind all convolutions of the locator except the last"
    )
    locator_bias: bool = Field(
        False, description="a bias in the locator's last convolution, which is added to both maps"
    )
    reduction: int = Field(16, gt=0, description="the locator works on C / reduction channels")
    last_motion: Literal["zero", "repeat", "wrap"] = Field(
        "zero", description="motion of the last frame: none, compared with itself, or compared with the first frame"
    )
    map_fusion: Literal["sum", "concat"] = Field(
        "sum", description="how the appearance map and the motion map are joined; concat: by a 1x1 convolution"
    )
    reasoner: Literal["efficient", "graph", "none"] = Field("efficient", description="how frames collect from frames")
    num_reasoners: int = Field(2, ge=1, le=3, description="reasoners in a row, LayerNorm and ReLU between them")
    activate_last: bool = Field(False, description="LayerNorm and ReLU behind the last reasoner too")
    radius: int = Field(1, gt=0, description="how many frames before and after a frame the efficient reasoner reaches")
    channel_transform: Literal["full", "bottleneck", "depthwise", "none"] = Field(
        "full",
        description="transform of the channels in a reasoner: C x C, through C / bottleneck, one factor "
        "per channel, or none",
    )
    bottleneck: int = Field(4, gt=0, description="divisor of the channels for channel_transform: bottleneck")
    distribution: Literal["adding", "scaling", "none"] = Field(
        "adding",
        description="how the result is distributed over positions; none: the same result at each "
        "position, as without a locator",
    )
    sigmoid_in_adding: bool = Field(
        True, description="distribution by adding uses sigmoid(M) in place of M; scaling always uses sigmoid(M)"
    )
    zero_init_norm: bool = Field(
        True, description="the block starts as the identity, because the last BatchNorm's gain is 0"
    )


class AtrOptions(AtrBlockOptions, MapOptions):
    num_blocks: int = Field(1, gt=0, description="blocks in a row")


class Atr(MapHead):
    """A head that runs ATR blocks on the cached maps features/<backbone>/<tap> [T, C, H, W] and classifies the mean of
    the result over frames and positions.

    Deviation from the paper: the blocks run after the cached tap. In the paper, a block lies inside a residual block of
    the backbone.
    """

    option_model = AtrOptions

    def make_blocks(self, options: AtrOptions) -> Iterable[nn.Module]:
        return (AtrBlock(self.read_maps.channels, options) for _ in range(options.num_blocks))

    def action_maps(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the maps in which the blocks locate the action: {"block1": map [B, T, H, W], "block2": ...} for B
        clips, T frames, H rows and W columns. A value is large where the action is. `batch` maps the name of each array
        in `reads` to its values.
        """
        locators = {
            f"block{number}": block.locate
            for number, block in enumerate(self.blocks, 1)
            if isinstance(block, AtrBlock) and block.locate is not None
        }
        with outputs_of(*locators.values()) as outputs:
            self(batch)
        return {name: located.squeeze(2) for name, located in zip(locators, outputs, strict=True)}


class AtrBlock(nn.Module):
    """The block of ATR. It adds features of the action to its input: `forward` maps X [B, T, C, H, W] to X + Y.

    Y is computed in three steps. A locator finds the action in each frame. Reasoners mix the features of the action
    over time. The result is distributed over the positions of the map.

    With the default options and C = `channels`, the locator has C^2 / 16 + 19 C / 16 parameters. The reasoners and
    their LayerNorm have 2 (C^2 + 3) + 2 C parameters. BatchNorm has 2 C parameters.
    """

    def __init__(self, channels: int, options: AtrBlockOptions) -> None:
        super().__init__()
        self.locate = Locator(channels, options) if options.locator != "none" else None
        self.reason = _reasoners(channels, options)
        self.distribution, self.sigmoid = options.distribution, options.sigmoid_in_adding
        self.norm = nn.BatchNorm2d(channels)
        if options.zero_init_norm:
            nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        located = None if self.locate is None else self.locate(x)  # [B, T, 1, H, W]
        summary = x.mean((3, 4)) if located is None else aggregate(x, located)
        y = self.distribute(self.reason(summary), located)
        return x + each_frame(self.norm, y.expand_as(x))

    def distribute(self, z: Tensor, located: Tensor | None) -> Tensor:
        """Distributes the features `z` [B, T, C] over the positions of the map. Returns [B, T, C, H, W], or [B, T, C,
        1, 1] if all positions get equal values.

        `located` is the map M [B, T, 1, H, W], which is large where the action is, or None. The option `distribution`
        chooses the formula. The formulas are reconstructed, because the text of the paper that we had shows none.

        - "scaling": sigmoid(M) z.
        - "adding": z + sigmoid(M), or z + M if `sigmoid_in_adding` is false.
        - "none", or `located` is None: z.
        """
        z = z[..., None, None]
        if located is None or self.distribution == "none":
            return z
        if self.distribution == "scaling":
            return located.sigmoid() * z
        return z + (located.sigmoid() if self.sigmoid else located)


def aggregate(x: Tensor, located: Tensor) -> Tensor:
    """Returns the features of the action in each frame, [B, T, C]: s_t = sum over positions of softmax(M_t) X_t (ATR
    paper, eq. 5, reconstructed).

    `x` is X [B, T, C, H, W]. `located` is M [B, T, 1, H, W], a map that is large where the action is.
    """
    shares = located.flatten(3).softmax(3)  # [B, T, 1, HW]
    return (x.flatten(3) @ shares.transpose(2, 3)).squeeze(3)


class Locator(nn.Module):
    """Finds the action in each frame. `forward` maps features x [B, T, C, H, W] to a map M [B, T, 1, H, W] that is
    large where the action is.

    A 1 x 1 convolution reduces x to features r with fewer channels. With the default options, M_t = phi2(phi3(r_t)) +
    phi2(phi1(r_{t+1}) - r_t). The first term is the appearance of frame t. The second term is the motion. phi1 and phi3
    are depth-wise 3 x 3 convolutions, and phi2 is a 1 x 1 convolution. The formula is reconstructed, because the text
    of the paper that we had shows none.
    """

    def __init__(self, channels: int, options: AtrBlockOptions) -> None:
        super().__init__()
        reduced = max(1, channels // options.reduction)
        self.last_motion = options.last_motion
        self.reduce = _activated(nn.Conv2d(channels, reduced, 1, bias=False), options)
        self.phi1 = _depthwise(reduced, options) if options.locator != "appearance" else None
        self.phi2 = nn.Conv2d(reduced, 1, 1, bias=options.locator_bias)
        self.phi3 = _depthwise(reduced, options) if options.locator != "motion" else None
        self.fuse: nn.Conv2d | None = None
        if options.locator == "both" and options.map_fusion == "concat":
            self.fuse = nn.Conv2d(2, 1, 1, bias=False)
            nn.init.ones_(self.fuse.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = each_frame(self.reduce, x)  # [B, T, R, H, W]
        parts = []
        if self.phi3 is not None:
            parts.append(each_frame(self.phi2, each_frame(self.phi3, x)))
        if self.phi1 is not None:
            parts.append(each_frame(self.phi2, self._motion(self.phi1, x)))
        if self.fuse is not None:
            return each_frame(self.fuse, torch.cat(parts, 2))
        return torch.stack(parts).sum(0)

    def _motion(self, phi1: nn.Module, x: Tensor) -> Tensor:
        """Returns the motion of each frame, [B, T, R, H, W] for B clips, T frames, R channels, H rows and W columns.
        The motion of frame t is phi1(x_{t+1}) - x_t. `x` has the features, in the same shape, and `phi1` is a learned
        layer.

        The last frame of a clip has no next frame. The option `last_motion` chooses its motion. With "zero", the motion
        is 0. With "repeat", the last frame is its own next frame. With "wrap", the first frame of the clip is the next
        frame.
        """
        if self.last_motion == "zero":
            return F.pad(each_frame(phi1, x[:, 1:]) - x[:, :-1], (0, 0) * 3 + (0, 1))
        following = x[:, :1] if self.last_motion == "wrap" else x[:, -1:]
        return each_frame(phi1, torch.cat([x[:, 1:], following], 1)) - x


class EfficientReasoner(nn.Module):
    """Mixes each frame with its neighbours in time: z_t = sum over |i| <= radius of w_i g(s_{t+i}) (ATR paper, eq. 8
    and 9). `forward` maps s [B, T, C] to z of the same shape.

    g is the learned module `transform`. Frames outside the clip count as 0. w has 2 `radius` + 1 learned numbers. For
    `radius` 1, w starts as (0, 1, 0), which mixes no frames.
    """

    def __init__(self, radius: int, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform
        self.w = nn.Parameter(F.one_hot(torch.tensor(radius), 2 * radius + 1).to(torch.get_default_dtype()))

    def forward(self, s: Tensor) -> Tensor:
        radius = len(self.w) // 2
        g = F.pad(self.transform(s), (0, 0, radius, radius))
        return g.unfold(1, len(self.w), 1) @ self.w  # [B, T, C, 2 radius + 1] times w


class GraphReasoner(nn.Module):
    """Mixes the frames of a clip with attention: Z = W g(S) (ATR paper, eq. 6 and 7). `forward` maps S [B, T, C] to Z
    of the same shape.

    `theta`, `phi` and `g` are learned modules, which map the vector of each frame. Row p of W is the softmax over the
    frames q of theta(s_p) . phi(s_q).
    """

    def __init__(self, theta: nn.Module, phi: nn.Module, g: nn.Module) -> None:
        super().__init__()
        self.theta, self.phi, self.g = theta, phi, g
        self.graphs = FrameGraphs(1)

    def forward(self, s: Tensor) -> Tensor:
        collected: Tensor = self.weights(s) @ self.g(s)
        return collected

    def weights(self, s: Tensor) -> Tensor:
        """Returns the attention weights W [B, T, T] for B clips of T frames. `forward` computes a new vector for frame
        p as a weighted sum over all frames. Row p of W has the weights of this sum. `s` [B, T, C] has the vectors of
        the frames, with C channels.
        """
        affinity: Tensor = self.theta(s) @ self.phi(s).transpose(1, 2)
        weights: Tensor = self.graphs(affinity.softmax(2)[:, None])
        return weights[:, 0]


class ChannelFactors(nn.Module):
    """Multiplies each channel by a learned factor, which starts at 1. `forward` maps x [..., C] to the same shape, for
    C = `channels`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


def _reasoners(channels: int, options: AtrBlockOptions) -> nn.Module:
    """Returns a module that runs the reasoners of an ATR block one after the other, with LayerNorm and ReLU between two
    reasoners. A reasoner mixes the frames of a clip. The module maps [B, T, C] to the same shape, for C = `channels`.

    With the option `activate_last`, LayerNorm and ReLU follow the last reasoner too.
    """

    def transform() -> nn.Module:
        return TRANSFORMS[options.channel_transform](channels, max(1, channels // options.bottleneck))

    layers: list[nn.Module] = []
    for _ in range(options.num_reasoners if options.reasoner != "none" else 0):
        layers += [nn.LayerNorm(channels), nn.ReLU()] if layers else []
        if options.reasoner == "efficient":
            layers.append(EfficientReasoner(options.radius, transform()))
        else:
            layers.append(GraphReasoner(transform(), transform(), transform()))
    layers += [nn.LayerNorm(channels), nn.ReLU()] if layers and options.activate_last else []
    return nn.Sequential(*layers)


def _depthwise(channels: int, options: AtrBlockOptions) -> nn.Module:
    kernel = options.locator_kernel
    convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    return _activated(convolution, options)


def _activated(convolution: nn.Conv2d, options: AtrBlockOptions) -> nn.Module:
    if not options.locator_activation:
        return convolution
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


def _full(channels: int, narrow: int) -> nn.Module:
    return nn.Linear(channels, channels, bias=False)


def _bottleneck(channels: int, narrow: int) -> nn.Module:
    return nn.Sequential(nn.Linear(channels, narrow, bias=False), nn.Linear(narrow, channels, bias=False))


TRANSFORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "full": _full,
    "bottleneck": _bottleneck,
    "depthwise": lambda channels, narrow: ChannelFactors(channels),
    "none": lambda channels, narrow: nn.Identity(),
}
