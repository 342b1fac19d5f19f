"""Chooses the cached arrays that a head reads, and reads regions with their mask.

Shapes: B clips, T frames, N regions a frame, D cached channels, C channels, H rows and W columns of a map.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from kinegraph.cache_schemas.words import counted
from kinegraph.stages.heads.head import KINDS, FeatureSource, HeadError, Spec, TapOptions
from kinegraph.stages.regions.geometry import on_input

BOXES = "proposals/boxes"
COUNT = "proposals/count"
CROP = "clips/crop"
ROI_SIZE = 7
ANY_BACKBONE = "<backbone>"  # placeholder for the user to fill in


class TapMissing(HeadError):
    """The cache lacks the features or regions of a tap that a head reads."""


def choose_source(spec: Spec, kinds: Sequence[str], options: TapOptions) -> FeatureSource:
    """Returns the one tap that has every kind of array in `kinds` and fits the options `backbone` and `tap`.

    Raises TapMissing if no tap fits. The message names the missing array and the command that makes it. Raises
    HeadError if several taps fit.
    """
    sources = {kind: _sources(spec, kind, options) for kind in kinds}
    fitting = [source for source in sources[kinds[0]] if all(source in sources[kind] for kind in kinds)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        choices = ", ".join(f"backbone={source.backbone} tap={source.tap}" for source in fitting)
        raise HeadError(
            f"Several arrays fit; choose one by backbone and tap in the options of train or of a variant: {choices}."
        )
    nearest = next((source for kind in kinds for source in sources[kind]), _known(spec, options))
    raise missing([nearest.array(kind) for kind in kinds if nearest not in sources[kind]], spec, kinds)


def _sources(spec: Spec, kind: str, options: TapOptions) -> list[FeatureSource]:
    prefix, suffix, rank = KINDS[kind]  # regions/.../<tap>_grid has rank 5
    sources = []
    for name, shape in spec.items():
        if not (name.startswith(prefix) and name.endswith(suffix) and len(shape) == rank):
            continue
        backbone, _, tap = name.removeprefix(prefix).removesuffix(suffix).partition("/")
        if options.backbone in (None, backbone) and options.tap in (None, tap):
            sources.append(FeatureSource(backbone, tap))
    return sources


def _known(spec: Spec, options: TapOptions) -> FeatureSource:
    """Returns the backbone and the tap to name in an error message.

    The names are those of the options. In place of an option that is not set, the name is the only one in the cache, or
    a placeholder if the cache has several or none.
    """
    sources = [source for kind in KINDS for source in _sources(spec, kind, TapOptions(backbone=options.backbone))]
    backbones, taps = {source.backbone for source in sources}, {source.tap for source in sources}
    return FeatureSource(
        options.backbone or (backbones.pop() if len(backbones) == 1 else ANY_BACKBONE),
        options.tap or (taps.pop() if len(taps) == 1 else "<tap>"),
    )


def missing(names: Sequence[str], spec: Spec, kinds: Sequence[str] = ()) -> HeadError:
    """Returns the error for arrays that the cache lacks.

    The message says what the config needs, and the command that makes the arrays. `names` are the missing arrays.
    `kinds` has all kinds of arrays that the head reads from one tap. Arrays of all these kinds must come from one entry
    of the config.
    """
    if names == [CROP]:
        return HeadError(
            f"{CROP} is missing. A cache has it after frames were extracted. The crop of imported features is unknown."
        )
    needs = dict([_need(name, spec) for name in names])
    if "features" in needs and "regions" in kinds:
        needs["regions"] = "its name in `regions.backbones`"
    command = " ".join(["kinegraph extract CONFIG", *(f"--stage {stage}" for stage in needs)])
    error = TapMissing if kinds else HeadError
    return error(
        f"{_unknown_backbone(names, spec)}Missing {' and '.join(names)}. The config needs "
        f"{', and '.join(needs.values())}; then run `{command}`. Available: {', '.join(sorted(spec)) or 'no array'}."
    )


def _unknown_backbone(names: Sequence[str], spec: Spec) -> str:
    """Returns a sentence for an error message about a backbone that the cache lacks.

    The sentence names the backbones of `names`, the missing arrays, and the backbones in the cache. Returns "" if the
    cache has no backbone at all, or if it has every backbone of `names`.
    """
    asked, cached = _backbones(names) - {ANY_BACKBONE}, _backbones(spec)
    if not cached or asked <= cached:
        return ""
    return f"There is no backbone {', '.join(asked)}; cached are {', '.join(sorted(cached))}. "


def _backbones(names: Iterable[str]) -> set[str]:
    """Returns the backbones whose features or regions are among the arrays `names`."""
    return {name.split("/")[1] for name in names if name.startswith(("features/", "regions/"))}


def _need(name: str, spec: Spec) -> tuple[str, str]:
    """Returns the stage that makes the array `name`, and words for the part of a config that asks for the array."""
    stage, entry, tap = [*name.split("/"), ""][:3]
    if stage == "regions":
        return stage, f"{entry} in `regions.backbones`"
    if stage != "features":
        return stage, f"a section `{stage}:`"
    kind = "pooled" if tap.endswith("_pooled") else "maps"
    words = f"with `taps: [{tap.removesuffix('_pooled')}]` and `store: [{kind}]`"
    if any(other.split("/")[:2] == [stage, entry] for other in spec):  # the arrays of a cached entry cannot change
        return stage, f"a copy of {entry} under another name in `backbones:`, as {entry}_{kind}, {words}"
    return stage, f"a new entry {entry} in `backbones:`, {words}"


def seen_by(source: FeatureSource, spec: Spec) -> str:
    """Returns the name of the array with the rectangle that the backbone of `source` sees of each frame."""
    own = f"{CROP}/{source.backbone}"
    return own if own in spec else CROP


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The regions of a batch: `features` [B, T, N, C], their mask `valid` bool [B, T, N], `boxes` [B, T, N, 4].

    Features are 0 where `valid` is false. Boxes have the type and the units of the cache. `boxes` is None if the head
    does not read boxes.
    """

    features: Tensor
    valid: Tensor
    boxes: Tensor | None


class ProposalReader:
    """Reads boxes and their mask from a batch, at the times of the features in the array `features`.

    With `top`, only the `top` best boxes of each frame are read. Boxes may be cached for more frames than features. If
    there are k times as many, every k-th frame of the boxes is read. If the backbone sees less than the crop of the
    clip, boxes outside of what the backbone sees are not valid.

    Raises HeadError if an array is missing, if the numbers of frames do not fit, or if `top` is more than the cached
    boxes of a frame.
    """

    def __init__(
        self, spec: Spec, source: FeatureSource, features: str, num_stored: int, *, boxes: bool, top: int | None
    ) -> None:
        self.seen = seen_by(source, spec)
        narrowed = self.seen != CROP
        needed = (BOXES, COUNT, *([self.seen] if narrowed else [])) if boxes or narrowed else (COUNT,)
        if absent := [name for name in needed if name not in spec]:
            raise missing(absent, spec)
        num_frames, box_frames = spec[features][0], spec[COUNT][0]
        self.step, remainder = divmod(box_frames, num_frames)
        if remainder or not self.step:
            raise HeadError(
                f"{COUNT} has {counted(box_frames, 'frame')}, {features} has {num_frames}; a multiple is needed."
            )
        if top is not None and top > num_stored:
            raise HeadError(
                f"num_regions: given {top}, allowed: up to {num_stored}, the boxes of a frame that are cached."
            )
        self.top, self.reads = top, needed

    def valid(self, batch: Mapping[str, Tensor], num_stored: int) -> Tensor:
        """Returns the mask of the boxes that exist and that the backbone sees: [B, T, N] bool.

        N is the number of cached boxes of a frame, or `top` if that is smaller.
        """
        count = batch[COUNT][:, :: self.step]  # [B, T]; -1 in a failed row
        valid = torch.arange(num_stored, device=count.device)[: self.top] < count[..., None]
        if self.seen == CROP:
            return valid
        boxes, seen = self.boxes(batch), batch[self.seen][:, None, None]
        start, end = torch.minimum(seen[..., :2], seen[..., 2:]), torch.maximum(seen[..., :2], seen[..., 2:])
        return valid & (torch.minimum(boxes[..., 2:], end) > torch.maximum(boxes[..., :2], start)).all(-1)

    def boxes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the boxes [B, T, N, 4] of a batch, in the type in which they are cached.

        A conversion to a narrower type would do harm. bfloat16 rounds pixels past 256, and areas past 65504 square
        pixels overflow float16.
        """
        return self.of_boxes(BOXES, batch)

    def of_boxes(self, array: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the values [B, T, N, ...] of `array`, a cached array with one value for each cached box."""
        return batch[array][:, :: self.step, : self.top]


class RegionReader:
    """Reads the cached regions of one tap from a batch. Features in padding become 0."""

    def __init__(self, spec: Spec, source: FeatureSource, *, boxes: bool, top: int | None = None) -> None:
        _, stored, self.channels = spec[source.regions]
        self.proposals = ProposalReader(spec, source, source.regions, stored, boxes=boxes, top=top)
        if boxes and spec[BOXES][1:] != (stored, 4):
            raise HeadError(
                f"{BOXES} has shape {spec[BOXES]}; {(spec[COUNT][0], stored, 4)} is needed "
                f"beside {source.regions} {spec[source.regions]}."
            )
        self.features, self.has_boxes = source.regions, boxes
        self.reads = (source.regions, *self.proposals.reads)

    def __call__(self, batch: Mapping[str, Tensor], dtype: torch.dtype) -> Regions:
        features = batch[self.features]
        valid = self.proposals.valid(batch, features.shape[2])
        features = features[:, :, : valid.shape[2]].to(dtype)
        return Regions(
            # a product would not do, because 0 * NaN is NaN
            features=torch.where(valid[..., None], features, 0.0),
            valid=valid,
            boxes=self.proposals.boxes(batch) if self.has_boxes else None,
        )


class MapRegionReader:
    """Computes region features from maps that a head made.

    RoIAlign cuts each cached box out of its map, and the maximum over the box is taken. The head made the maps [B, T,
    C, H, W] from the cached maps. The maps show the crop of the clip, resized to the network's square input. So boxes
    are transformed from the frame to the rectangle in `clips/crop`, or to the smaller rectangle that the network sees.
    The boxes are clipped to that rectangle, and mirrored where it is mirrored (x1 > x2). Each box has 7 x 7 bins. A bin
    takes as many samples as it covers cells of the map (Wang and Gupta 2018, section 3.1).
    """

    def __init__(self, spec: Spec, source: FeatureSource, *, top: int | None = None) -> None:
        if absent := [name for name in (BOXES, CROP) if name not in spec]:
            raise missing(absent[:1], spec)
        self.proposals = ProposalReader(spec, source, source.maps, spec[BOXES][1], boxes=True, top=top)
        self.crop = self.proposals.seen
        self.reads = tuple(dict.fromkeys((source.maps, *self.proposals.reads, self.crop)))

    def __call__(self, batch: Mapping[str, Tensor], maps: Tensor) -> Regions:
        """Returns the regions of a batch, with features cut out of `maps` [B, T, C, H, W].

        Only the features are rounded to the type of `maps`. Boxes and frame numbers keep their precision.
        """
        valid = self.proposals.valid(batch, batch[BOXES].shape[2])  # [B, T, N]
        boxes = torch.where(valid[..., None], self.proposals.boxes(batch), 0.0)
        crop = batch[self.crop][:, None, None].double()  # [B, 1, 1, 4]
        on_map = on_input(boxes.double(), crop, maps.shape[4]).to(boxes.dtype)  # maps are square, as the input is
        frame = torch.arange(valid[..., 0].numel(), device=maps.device).to(boxes.dtype)
        rois = torch.cat([frame.repeat_interleave(valid.shape[2])[:, None], on_map.flatten(0, 2)], 1)  # [B*T*N, 5]
        frames = maps.flatten(0, 1).to(boxes.dtype)
        grids = roi_align(frames, rois, ROI_SIZE, sampling_ratio=0, aligned=True)  # [B*T*N, C, 7, 7]
        features = grids.amax((2, 3)).view(*valid.shape, -1)
        features = torch.where(valid[..., None], features, 0.0).to(maps.dtype)
        return Regions(features=features, valid=valid, boxes=boxes)


def project_maps(linear: nn.Module, maps: Tensor) -> Tensor:
    """Applies a linear layer to every position of `maps` [B, T, D, H, W], as a 1x1 convolution.

    Returns [B, T, C, H, W]. If `linear` is the identity, returns `maps` unchanged.
    """
    if not isinstance(linear, nn.Linear):
        return maps
    projected = F.conv2d(maps.flatten(0, 1), linear.weight[:, :, None, None], linear.bias)
    return projected.view(*maps.shape[:2], *projected.shape[1:])


def mean_over_tracks(x: Tensor, valid: Tensor, tracks: Tensor, most: int) -> Tensor:
    """Returns the mean [B, C] over the tracks of a clip.

    The value of a track is the mean of `x` over the boxes of that track. `x` is [B, T, N, C] and `valid` is bool [B, T,
    N]. `tracks` [B, T, N] has the track number of each valid box. Track numbers are below `most`. Boxes that are not
    valid do not count. A clip without tracks gets 0.
    """
    is_in = valid.flatten(1)
    track = torch.where(is_in, tracks.flatten(1).long(), 0)  # [B, T*N]
    length = track.new_zeros(len(track), most).scatter_add_(1, track, is_in.long())  # boxes of each track
    weight = (1 / length.gather(1, track).clamp_min(1)).view_as(valid).to(x.dtype)
    total = torch.where(valid[..., None], x * weight[..., None], 0.0).sum((1, 2))
    return total / (length > 0).sum(1).clamp_min(1)[:, None]


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean [B, C] of `x` [B, T, N, C] over the regions that are true in `valid` [B, T, N].

    A clip without valid regions gets 0.
    """
    total = torch.where(valid[..., None], x, 0.0).sum((1, 2))
    return total / valid.sum((1, 2)).clamp_min(1)[:, None]
