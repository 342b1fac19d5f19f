"""Lists the networks of the authors of SlowFast and pytorchvideo: CSN, X3D and SlowFast with two pathways.

Imports no torch, because plans are made from the list.
"""

from dataclasses import replace

from kinegraph.stages.backbones.entry import BackboneEntry, Counts
from kinegraph.stages.backbones.taps import HALF_UP, Level, Tap, taps_of
from kinegraph.stages.weights.sources import KINETICS_MEAN, KINETICS_STD

_CSN_TAPS = taps_of(
    Level("stem", 64, (HALF_UP, HALF_UP)),
    Level("res2", 256),
    Level("res3", 512, (HALF_UP,), (HALF_UP,)),
    Level("res4", 1024, (HALF_UP,), (HALF_UP,)),
    Level("res5", 2048, (HALF_UP,), (HALF_UP,)),
)

_X3D_TAPS = taps_of(
    Level("stem", 24, (HALF_UP,)),
    Level("res2", 24, (HALF_UP,)),
    Level("res3", 48, (HALF_UP,)),
    Level("res4", 96, (HALF_UP,)),
    Level("res5", 192, (HALF_UP,)),
    Level("conv5", 432),
)


def _slowfast_taps(alpha: int) -> tuple[Tap, ...]:
    """Returns the taps of SlowFast, from bottom to top, the slow pathway first at each height. The slow pathway takes
    one of `alpha` frames.
    """
    pathways = [
        taps_of(
            Level(f"{pathway}_stem", width, (HALF_UP, HALF_UP), time),
            Level(f"{pathway}_res2", 4 * width),
            Level(f"{pathway}_res3", 8 * width, (HALF_UP,)),
            Level(f"{pathway}_res4", 16 * width, (HALF_UP,)),
            Level(f"{pathway}_res5", 32 * width, (HALF_UP,)),
        )
        for pathway, width, time in (("slow", 64, ((1, alpha),)), ("fast", 8, ()))
    ]
    in_order = (tap for both in zip(*pathways, strict=True) for tap in both)
    return tuple(replace(tap, frames_multiple=alpha, is_spread=bool(tap.time)) for tap in in_order)


def _entry(
    name: str, taps: tuple[Tap, ...], num_params: int, gmacs: float, *, num_frames: int, size: int
) -> BackboneEntry:
    """Returns the BackboneEntry of a network that SlowFast's authors trained. `num_params` is the number of parameters.
    `gmacs` are billions of multiplications for a clip of `num_frames` frames of `size` px.
    """
    return BackboneEntry(
        name=name,
        taps=taps,
        size=size,
        mean=KINETICS_MEAN,
        std=KINETICS_STD,
        counts=Counts(num_params=num_params, gmacs=gmacs, num_frames=num_frames, size=size, num_classes=400),
    )


def _csn(name: str, num_params: int, gmacs: float) -> BackboneEntry:
    return replace(_entry(name, _CSN_TAPS, num_params, gmacs, num_frames=32, size=256), size=224)


def _x3d(name: str, num_params: int, gmacs: float, *, num_frames: int, size: int) -> BackboneEntry:
    entry = _entry(name, _X3D_TAPS, num_params, gmacs, num_frames=num_frames, size=size)
    return replace(entry, head_channels=2048)


def _slowfast(name: str, num_params: int, gmacs: float, *, alpha: int) -> BackboneEntry:
    """Returns the BackboneEntry of a SlowFast whose slow pathway takes one of `alpha` frames."""
    entry = _entry(name, _slowfast_taps(alpha), num_params, gmacs, num_frames=32, size=256)
    return replace(entry, size=224, head_channels=2048 + 256)


SLOWFAST_ENTRIES = (
    _csn("csn_r101", 22_213_776, 73.754),
    _x3d("x3d_xs", 3_794_322, 0.605, num_frames=4, size=160),
    _x3d("x3d_s", 3_794_322, 1.963, num_frames=13, size=160),
    _x3d("x3d_m", 3_794_322, 4.732, num_frames=16, size=224),
    _x3d("x3d_l", 6_153_432, 18.368, num_frames=16, size=312),
    _slowfast("slowfast_r50_4x16", 34_480_216, 36.099, alpha=8),
    _slowfast("slowfast_r50_8x8", 34_566_488, 65.709, alpha=4),
    _slowfast("slowfast_r101_8x8", 62_826_968, 125.906, alpha=4),
)
