"""From what a cache holds to what a head reads: choosing arrays, and regions with their mask.

B clips, T frames, N regions a frame, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.heads.head import KINDS, HeadError, HeadOptions, Source, Spec

BOXES = "proposals/boxes"
COUNT = "proposals/count"


def choose_source(spec: Spec, kinds: Sequence[str], options: HeadOptions) -> Source:
    """The one tap that has every kind of array in `kinds` and is the backbone and tap asked for, if any.

    Raises HeadError where none fits (with the missing array and the command that makes it), and where several do.
    """
    asked = Source(options.backbone or "<backbone>", options.tap or "<tap>")
    found = {kind: _sources(spec, kind, options) for kind in kinds}
    fitting = [source for source in found[kinds[0]] if all(source in found[kind] for kind in kinds)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        choices = ", ".join(f"backbone={source.backbone} tap={source.tap}" for source in fitting)
        raise HeadError(f"Several arrays fit; choose one by the options backbone and tap: {choices}.")
    partial = next((source for kind in kinds for source in found[kind]), asked)
    missing = [partial.array(kind) for kind in kinds if partial not in found[kind]]
    raise _missing(missing, spec)


def _sources(spec: Spec, kind: str, options: HeadOptions) -> list[Source]:
    prefix, suffix, rank = KINDS[kind]  # regions/.../<tap>_grid has rank 5
    sources = []
    for name, shape in spec.items():
        if not (name.startswith(prefix) and name.endswith(suffix) and len(shape) == rank):
            continue
        backbone, _, tap = name.removeprefix(prefix).removesuffix(suffix).partition("/")
        if options.backbone in (None, backbone) and options.tap in (None, tap):
            sources.append(Source(backbone, tap))
    return sources


def _missing(names: Sequence[str], spec: Spec) -> HeadError:
    stage = names[0].partition("/")[0]
    kind = "pooled" if names[0].endswith("_pooled") else "maps"
    hint = f", with `store: [{kind}]` for the backbone" if stage == "features" else ""
    return HeadError(
        f"Missing {' and '.join(names)}. Make it by `kinegraph extract CONFIG --stage {stage}`{hint}. "
        f"Available: {', '.join(sorted(spec)) or 'no array'}."
    )


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Region features [B, T, N, C], 0 where not valid; valid [B, T, N] bool; boxes [B, T, N, 4] as stored."""

    features: Tensor
    valid: Tensor
    boxes: Tensor | None


class RegionReader:
    """Reads the regions of one tap from a batch, at the times of the features, without what padding holds.

    Boxes may be cached for more frames than regions: with T_boxes = k * T, every k-th is taken.
    """

    def __init__(self, spec: Spec, source: Source, *, boxes: bool) -> None:
        needed = (COUNT, BOXES) if boxes else (COUNT,)
        if absent := [name for name in needed if name not in spec]:
            raise _missing(absent, spec)
        num_frames, self.num_regions, self.channels = spec[source.regions]
        box_frames = spec[COUNT][0]
        self.box_step, remainder = divmod(box_frames, num_frames)
        if remainder or not self.box_step:
            raise HeadError(
                f"{COUNT} has {box_frames} frames, {source.regions} has {num_frames}; a multiple is needed."
            )
        if boxes and spec[BOXES] != (box_frames, self.num_regions, 4):
            raise HeadError(
                f"{BOXES} has shape {spec[BOXES]}; {(box_frames, self.num_regions, 4)} is needed "
                f"beside {source.regions} {spec[source.regions]}."
            )
        self.features, self.boxes = source.regions, BOXES if boxes else None
        self.reads = (source.regions, *reversed(needed))

    def __call__(self, batch: Mapping[str, Tensor], dtype: torch.dtype) -> Regions:
        count = batch[COUNT][:, :: self.box_step]  # [B, T]; -1 in a failed row
        valid = torch.arange(self.num_regions, device=count.device) < count[..., None]
        features = batch[self.features].to(dtype)
        return Regions(
            # not a product: 0 * NaN is NaN
            features=torch.where(valid[..., None], features, 0.0),
            valid=valid,
            boxes=batch[self.boxes][:, :: self.box_step].to(dtype) if self.boxes else None,
        )


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Mean of x [B, T, N, C] over the valid [B, T, N] regions: [B, C]; 0 for a clip that has none."""
    total = torch.where(valid[..., None], x, 0.0).sum((1, 2))
    return total / valid.sum((1, 2)).clamp_min(1)[:, None]
