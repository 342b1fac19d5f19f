"""Describes how the networks of the ResNet-3D family differ. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from kinegraph.stages.backbones.taps import HALF_DOWN, HALF_UP, Level, Tap, Window, taps_of

STAGES = ("res2", "res3", "res4", "res5")

# Temporal kernel of each block's first convolution. The pattern repeats over the blocks of a stage.
TEMPORAL_KERNELS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "alternate": {"res2": (3,), "res3": (3, 1), "res4": (3, 1), "res5": (1, 3)},
    "all": dict.fromkeys(STAGES, (3,)),
    "upper": {"res2": (1,), "res3": (1,), "res4": (3,), "res5": (3,)},
    "none": dict.fromkeys(STAGES, (1,)),
}


# Options that the shapes of weights do not show. Each value was used to train some published network.
CHOICES: Mapping[str, tuple[int | str, ...]] = {
    "stem_time_stride": (1, 2),
    "pool1_time_stride": (1, 2),
    "pool1_padding": (0, 1),
    "pool2_time_stride": (1, 2),
    "res3_attention_frames": ("all", 4),
    "res5_stride": (1, 2),
}


@dataclass(frozen=True, kw_only=True)
class ResNetLayout:
    """The layout of one network of the ResNet-3D family."""

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)  # number of residual blocks in each of res2 to res5
    stem_frames: int  # length in frames of the kernel of the first convolution
    temporal_kernels: str  # a key of TEMPORAL_KERNELS, for example "alternate"
    # {stage: indices of residual blocks, from 0}, such as {"res3": (1, 3)}. A non-local block follows each of these
    # blocks.
    non_local: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    # `stem_time_stride`, `pool1_time_stride`, `pool2_time_stride`: strides in time. The kernels of pool1 and pool2 span
    # as many frames as their strides.
    stem_time_stride: int = 1
    pool1_time_stride: int = 1
    pool1_padding: int = 1  # padding of pool1 in space
    pool2_time_stride: int
    # Number of frames in a group of the non-local blocks of res3. Positions attend to positions in the same group.
    # "all" means that the group is the whole clip.
    res3_attention_frames: int | Literal["all"] = "all"
    res5_stride: int  # stride of res5 in space

    @property
    def options(self) -> dict[str, tuple[int | str, ...]]:
        """Returns {option: allowed values} of networks with this layout. The first of the values is the default."""
        choices = dict(CHOICES)
        if self.temporal_kernels == "alternate":
            choices["temporal_kernels"] = ("alternate", "all")
        if "res3" not in self.non_local:
            del choices["res3_attention_frames"]
        own = {key: getattr(self, key) for key in choices}
        return {key: (own[key], *(x for x in values if x != own[key])) for key, values in choices.items()}

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Returns the taps of the network, from bottom to top."""
        pool1 = HALF_UP if self.pool1_padding else (3, 2)
        joined = _if_2(self.stem_time_stride, HALF_UP) + _if_2(self.pool1_time_stride)
        group = 1 if self.res3_attention_frames == "all" else self.res3_attention_frames
        return taps_of(
            Level("stem", 64, (HALF_UP, pool1), joined),
            Level("res2", 256),
            Level("res3", 512, (HALF_UP,), _if_2(self.pool2_time_stride), frames_multiple=group),
            Level("res4", 1024, (HALF_UP,)),
            Level("res5", 2048, _if_2(self.res5_stride, HALF_UP)),
        )

    def kernels(self, stage: str) -> tuple[int, ...]:
        """Returns the length in frames of the first kernel of each residual block of the stage `stage`: "res2", "res3",
        "res4" or "res5".
        """
        pattern = TEMPORAL_KERNELS[self.temporal_kernels][stage]
        return tuple(pattern[i % len(pattern)] for i in range(self.blocks[STAGES.index(stage)]))


def _if_2(stride: int, window: Window = HALF_DOWN) -> tuple[Window, ...]:
    return (window,) if stride == 2 else ()


# The table of Wang and Gupta 2018 (arXiv 1806.01810) states 3x1x1 in every block. Only the alternating pattern of the
# authors' non-local code (arXiv 1711.07971) has the published 28.0 M parameters and 153 GMAC. In the paper, res5 has
# the size of res4; the public checkpoints of all these networks were trained with res5_stride 2.
_I3D_R50 = ResNetLayout(stem_frames=5, temporal_kernels="alternate", pool2_time_stride=2, res5_stride=1)

LAYOUTS: dict[str, ResNetLayout] = {
    "c2d_r50": ResNetLayout(stem_frames=1, temporal_kernels="none", pool2_time_stride=2, res5_stride=2),
    "i3d_r50": _I3D_R50,
    "i3d_r101": replace(_I3D_R50, blocks=(3, 4, 23, 3)),
    "nonlocal_i3d_r50": replace(_I3D_R50, non_local={"res3": (1, 3), "res4": (1, 3, 5)}),
    "nonlocal_i3d_r101": replace(_I3D_R50, blocks=(3, 4, 23, 3), non_local={"res3": (1, 3), "res4": (6, 13, 20)}),
    "slowonly_r50": ResNetLayout(stem_frames=1, temporal_kernels="upper", pool2_time_stride=1, res5_stride=2),
}
