"""What tells the networks of the ResNet-3D family apart. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from stages.backbones.taps import HALF_DOWN, HALF_UP, Level, Tap, taps_of

STAGES = ("res2", "res3", "res4", "res5")

# How far each block's first convolution reaches in time; the pattern repeats over the blocks of a stage.
TEMPORAL_KERNELS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "alternate": {"res2": (3,), "res3": (3, 1), "res4": (3, 1), "res5": (1, 3)},
    "all": dict.fromkeys(STAGES, (3,)),
    "upper": {"res2": (1,), "res3": (1,), "res4": (3,), "res5": (3,)},
    "none": dict.fromkeys(STAGES, (1,)),
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One network of the family.

    blocks: how many each of res2 ... res5 has. stem_frames: temporal kernel of the first convolution.
    temporal_kernels: a key of TEMPORAL_KERNELS. temporal_pool: pairs of frames are joined between res2 and res3.
    non_local: stage -> the residual blocks, from 0, that a non-local block follows.
    """

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    stem_frames: int
    temporal_kernels: str
    temporal_pool: bool
    res5_stride: int
    non_local: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[Tap, ...]:
        pairs = (HALF_DOWN,) if self.temporal_pool else ()
        return taps_of(
            Level("stem", 64, (HALF_UP, HALF_UP)),
            Level("res2", 256),
            Level("res3", 512, (HALF_UP,), pairs),
            Level("res4", 1024, (HALF_UP,)),
            Level("res5", 2048, (HALF_UP,) if self.res5_stride == 2 else ()),
        )

    def kernels(self, stage: str) -> tuple[int, ...]:
        """Temporal kernel of each block of a stage."""
        pattern = TEMPORAL_KERNELS[self.temporal_kernels][stage]
        return tuple(pattern[i % len(pattern)] for i in range(self.blocks[STAGES.index(stage)]))


# The table of Wang and Gupta 2018 (arXiv 1806.01810) reads as 3x1x1 in every block; only the alternating pattern of
# the authors' non-local code (arXiv 1711.07971) gives the published 28.0 M parameters and 153 GMAC. res5 keeps res4's
# size there; the public checkpoints of all these networks were trained with res5_stride 2, and fit either.
_I3D_R50 = Layout(stem_frames=5, temporal_kernels="alternate", temporal_pool=True, res5_stride=1)

LAYOUTS: dict[str, Layout] = {
    "c2d_r50": Layout(stem_frames=1, temporal_kernels="none", temporal_pool=True, res5_stride=2),
    "i3d_r50": _I3D_R50,
    "i3d_r101": replace(_I3D_R50, blocks=(3, 4, 23, 3)),
    "nonlocal_i3d_r50": replace(_I3D_R50, non_local={"res3": (1, 3), "res4": (1, 3, 5)}),
    "nonlocal_i3d_r101": replace(_I3D_R50, blocks=(3, 4, 23, 3), non_local={"res3": (1, 3), "res4": (6, 13, 20)}),
    "slowonly_r50": Layout(stem_frames=1, temporal_kernels="upper", temporal_pool=False, res5_stride=2),
}
