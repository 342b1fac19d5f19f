"""Which frozen backbones there are, and what each expects and gives. Imports no torch: plans are made from this."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stages.weights.registry import BACKBONE_WEIGHTS
from stages.weights.sources import IMAGENET_MEAN, IMAGENET_STD, KINETICS_MEAN, KINETICS_STD, WeightSource


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A point where a backbone can be cut. `stride`: input pixels per map cell; `temporal_stride`: frames."""

    name: str
    channels: int
    stride: int
    temporal_stride: int = 1

    def shape(self, num_frames: int, size: int) -> tuple[int, int, int, int]:
        """(T, C, H, W) of this tap's map for a clip of `num_frames` frames of `size` x `size` px."""
        side = -(-size // self.stride)
        return num_frames // self.temporal_stride, self.channels, side, side


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """A backbone as it is trained: square input of `size` px, RGB in 0..1 normalised by `mean` and `std`."""

    name: str
    taps: tuple[Tap, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: Mapping[str, WeightSource] = field(default_factory=dict)

    def tap(self, name: str) -> Tap:
        """The tap of this name. Raises ValueError, listing the taps, if there is none."""
        for tap in self.taps:
            if tap.name == name:
                return tap
        known = ", ".join(tap.name for tap in self.taps)
        raise ValueError(f"backbone {self.name} has no tap {name!r}; its taps are {known}")


def _resnet2d(name: str, expansion: int) -> BackboneEntry:
    return BackboneEntry(
        name=name,
        taps=(
            Tap(name="stem", channels=64, stride=4),
            Tap(name="res2", channels=64 * expansion, stride=4),
            Tap(name="res3", channels=128 * expansion, stride=8),
            Tap(name="res4", channels=256 * expansion, stride=16),
            Tap(name="res5", channels=512 * expansion, stride=32),
        ),
        size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        weights=BACKBONE_WEIGHTS[name],
    )


_I3D_R50 = BackboneEntry(
    name="i3d_r50",
    taps=(
        Tap(name="stem", channels=64, stride=4),
        Tap(name="res2", channels=256, stride=4),
        Tap(name="res3", channels=512, stride=8, temporal_stride=2),
        Tap(name="res4", channels=1024, stride=16, temporal_stride=2),
        Tap(name="res5", channels=2048, stride=16, temporal_stride=2),
    ),
    size=224,
    mean=KINETICS_MEAN,
    std=KINETICS_STD,
    weights=BACKBONE_WEIGHTS["i3d_r50"],
)

_TINY_I3D = BackboneEntry(
    name="tiny_i3d",
    taps=(
        Tap(name="stem", channels=16, stride=2),
        Tap(name="res2", channels=32, stride=4),
        Tap(name="res3", channels=64, stride=8, temporal_stride=2),
        Tap(name="res4", channels=96, stride=8, temporal_stride=2),
    ),
    size=96,
    mean=KINETICS_MEAN,
    std=KINETICS_STD,
    weights=BACKBONE_WEIGHTS["tiny_i3d"],
)

CATALOGUE: dict[str, BackboneEntry] = {
    "resnet18": _resnet2d("resnet18", 1),
    "resnet34": _resnet2d("resnet34", 1),
    "resnet50": _resnet2d("resnet50", 4),
    "resnet101": _resnet2d("resnet101", 4),
    "i3d_r50": _I3D_R50,
    "tiny_i3d": _TINY_I3D,
}


def entry(name: str) -> BackboneEntry:
    """The entry of this name. Raises ValueError, listing the names, if there is none."""
    if name not in CATALOGUE:
        raise ValueError(f"no backbone {name!r}; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
