"""Chooses the cached arrays that a head reads, and reads regions with their mask.

Shapes: B clips, T frames, N regions a frame, D channels in the cache, C channels that the head uses, H rows and W
columns of a map.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinegraph.cache_schemas.arrays import CLASS_SUFFIX, HEAD
from kinegraph.cache_schemas.box_frames import BOX_FRAMES
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.heads.head import KINDS, FeatureSource, HeadError, Spec, TapOptions
from kinegraph.stages.regions.geometry import on_input, overlaps
from kinegraph.stages.regions.roi import region_features

BOXES = "proposals/boxes"
COUNT = "proposals/count"
CROP = "clips/crop"
ROI_SIZE = 7
ANY_BACKBONE = "<backbone>"  # placeholder for the user to fill in


class TapMissing(HeadError):
    """Raised if the cache lacks the features or regions of a tap that a head reads."""


def choose_source(spec: Spec, kinds: Sequence[str], options: TapOptions) -> FeatureSource:
    """Returns the FeatureSource, the tap whose arrays a head reads. It is the only tap that fits the options `backbone`
    and `tap` of the head and has all `kinds` of arrays ("maps", "pooled", "regions"). `spec` maps the name of each
    array of the cache to its shape for one clip.

    Raises TapMissing if no tap fits. The message has the name of the missing array and the command that makes it.
    Raises HeadError if several taps fit.
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
    near = (source for kind in kinds for source in sources[kind] if not source.is_vector)
    nearest = next(near, _known(spec, options))
    raise missing([nearest.array(kind) for kind in kinds if nearest not in sources[kind]], spec, kinds)


def _sources(spec: Spec, kind: str, options: TapOptions) -> list[FeatureSource]:
    prefix, suffix, rank = KINDS[kind]  # regions/.../<tap>_grid has rank 5
    sources = []
    for name, shape in spec.items():
        is_vector = kind == "pooled" and len(shape) <= rank and not name.endswith(suffix)
        if not name.startswith(prefix) or not (is_vector or (name.endswith(suffix) and len(shape) == rank)):
            continue
        backbone, _, tap = name.removeprefix(prefix).removesuffix(suffix).partition("/")
        if options.backbone in (None, backbone) and options.tap in (None, tap):
            sources.append(FeatureSource(backbone, tap, is_vector))
    return sources


def _known(spec: Spec, options: TapOptions) -> FeatureSource:
    """Returns a FeatureSource with the names of a backbone and a tap, for an error message about missing arrays.

    They are the values of `options.backbone` and `options.tap`. If an option has no value, and the cache has only one
    backbone or tap, this one is named. Otherwise the name is a placeholder such as `<tap>`.
    """
    sources = [source for kind in KINDS for source in _sources(spec, kind, TapOptions(backbone=options.backbone))]
    backbones = {source.backbone for source in sources}
    taps = {source.tap for source in sources if not source.is_vector}
    tap = options.tap or (taps.pop() if len(taps) == 1 else "<tap>")
    is_vector = tap == HEAD or tap.endswith(CLASS_SUFFIX)
    return FeatureSource(options.backbone or (backbones.pop() if len(backbones) == 1 else ANY_BACKBONE), tap, is_vector)


def missing(names: Sequence[str], spec: Spec, kinds: Sequence[str] = ()) -> HeadError:
    """Returns an error about arrays `names` that the cache lacks. The message says what the config needs, and which
    command makes the arrays.

    `spec` has the arrays of the cache. `kinds` are the kinds of arrays ("maps", "pooled", "regions") that a head reads
    from one tap, a named layer of a backbone. With `kinds`, the error is a TapMissing, otherwise a plain HeadError.
    """
    if names == [CROP]:
        return HeadError(
            f"{CROP} is missing. A cache has it after frames were extracted. The crop of imported features is unknown."
        )
    needs = dict([_need(name, spec) for name in names])
    if "features" in needs and "regions" in kinds:  # all arrays of a tap must come from one entry of the config
        needs["regions"] = "its name in `regions.backbones`"
    command = " ".join(["kinegraph extract CONFIG", *(f"--stage {stage}" for stage in needs)])
    error = TapMissing if kinds else HeadError
    return error(
        f"{_unknown_backbone(names, spec)}Missing {' and '.join(names)}. The config needs "
        f"{', and '.join(needs.values())}; then run `{command}`. Available: {', '.join(sorted(spec)) or 'no array'}."
    )


def _unknown_backbone(names: Sequence[str], spec: Spec) -> str:
    """Returns a sentence for an error message about a backbone that the cache lacks. `names` are the missing arrays.

    The sentence lists the backbones of the missing arrays and the backbones in the cache. Returns "" if the cache has
    no backbone at all, or if it has every backbone of the missing arrays.
    """
    asked, cached = _backbones(names) - {ANY_BACKBONE}, _backbones(spec)
    if not cached or asked <= cached:
        return ""
    return f"There is no backbone {', '.join(asked)}; cached are {', '.join(sorted(cached))}. "


def _backbones(names: Iterable[str]) -> set[str]:
    """Returns the backbones whose features or regions are among the arrays `names`."""
    return {name.split("/")[1] for name in names if name.startswith(("features/", "regions/"))}


def _need(name: str, spec: Spec) -> tuple[str, str]:
    """Returns the stage that makes the array `name`, and the part of a config that asks for the array, in words. `spec`
    has the names of the cached arrays as its keys.

    For example, `tracks/id` -> ("tracks", "a section `tracks:`").
    """
    stage, entry, tap = [*name.split("/"), ""][:3]
    if stage == "regions":
        return stage, f"{entry} in `regions.backbones`"
    if stage != "features":
        return stage, f"a section `{stage}:`"
    kind = "pooled" if tap.endswith("_pooled") else "maps"
    words = f"with `taps: [{tap.removesuffix('_pooled')}]` and `store: [{kind}]`"
    if tap.endswith(CLASS_SUFFIX):
        kind, words = "class", f"with `taps: [{tap.removesuffix(CLASS_SUFFIX)}]` and `tokens: class`"
    elif tap == HEAD:
        kind, words = HEAD, "with `head: true`"
    if any(other.split("/")[:2] == [stage, entry] for other in spec):  # the arrays of a cached entry cannot change
        return stage, f"a copy of {entry} under another name in `backbones:`, as {entry}_{kind}, {words}"
    return stage, f"a new entry {entry} in `backbones:`, {words}"


def vector_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Returns (T, C) of an array of vectors whose rows have the shape `shape`: T steps of C channels. The shape (C,) of
    an output of the whole clip counts as one step.
    """
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def read_vectors(batch: Mapping[str, Tensor], array: str, dtype: torch.dtype) -> Tensor:
    """Returns the vectors [B, T, C] of the array `array` in the type `dtype`: B clips, T steps, C channels.

    The array of an output of the whole clip has no time axis, so it becomes one step.
    """
    vectors = batch[array].to(dtype)
    return vectors if vectors.ndim == 3 else vectors[:, None]


def seen_by(source: FeatureSource, spec: Spec) -> str:
    """Returns the name of the cached array with the rectangle of the video that the backbone of `source` sees.

    `spec` has the names of the cached arrays as its keys. The result is `clips/crop/<backbone>` if `spec` has this
    array, which means that the backbone sees less than the crop of the clip. Otherwise it is `clips/crop`.
    """
    own = f"{CROP}/{source.backbone}"
    return own if own in spec else CROP


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The regions of a batch of B clips, with T frames, N regions of a frame and C channels. `features` is [B, T, N,
    C], their mask `valid` bool [B, T, N], and `boxes` [B, T, N, 4].

    Features are 0 where `valid` is false. Boxes are (x1, y1, x2, y2) in pixels of the video, in the type in which they
    are cached. `boxes` is None if the head does not read boxes.
    """

    features: Tensor
    valid: Tensor
    boxes: Tensor | None


class ProposalReader:
    """Reads the boxes of a batch and a mask of the valid boxes, for the frames that have features. A box is valid if it
    exists and lies at least partly in the rectangle of the frame that the backbone sees.

    `spec` maps the names of the cached arrays to the shapes of one clip. `source` names the backbone, and `features` is
    the name of its array of features. The cache may have boxes for k times as many frames as features. Then every k-th
    frame of the boxes is read. If the features are not at equal distances in time, `spec` has an array
    `clips/box_frames/<features>` with the frames to read. `num_stored` is the number of boxes that the cache has for a
    frame. If `top` is set, only the `top` best of them are read. If `boxes` is false, the head reads the mask alone.

    Raises HeadError if an array is missing, if the numbers of frames do not fit, or if `top` is more than `num_stored`.
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
        self.box_frames = f"{BOX_FRAMES}/{features}" if f"{BOX_FRAMES}/{features}" in spec else None
        self.top, self.reads = top, needed if self.box_frames is None else (*needed, self.box_frames)

    def frames(self, batch: Mapping[str, Tensor]) -> list[int] | None:
        """Returns for each time step of the features the number, from 0, of the frame with boxes that belongs to it.
        Returns None if every `step`-th frame with boxes is read.
        """
        return None if self.box_frames is None else batch[self.box_frames][0].tolist()

    def _at(self, batch: Mapping[str, Tensor]) -> slice | Tensor:
        """Returns an index that chooses, among the frames that have boxes, those that belong to the time steps of the
        features. It is a slice or a tensor of numbers, for the time axis of cached boxes.
        """
        return slice(None, None, self.step) if self.box_frames is None else batch[self.box_frames][0]

    def valid(self, batch: Mapping[str, Tensor], num_stored: int) -> Tensor:
        """Returns a mask [B, T, N] bool for the boxes of B clips of T frames. It is true for boxes that exist and that
        lie at least partly in the rectangle that the backbone sees.

        `batch` has the cached arrays that `reads` names. N is `num_stored`, the number of cached boxes of a frame, or
        `top` if that is smaller.
        """
        count = batch[COUNT][:, self._at(batch)]  # [B, T]; -1 in a failed row
        valid = torch.arange(num_stored, device=count.device)[: self.top] < count[..., None]
        if self.seen == CROP:
            return valid
        boxes, seen = self.boxes(batch), batch[self.seen][:, None, None]
        start, end = torch.minimum(seen[..., :2], seen[..., 2:]), torch.maximum(seen[..., :2], seen[..., 2:])
        valid &= overlaps(boxes, [*start.unbind(-1), *end.unbind(-1)])
        return valid

    def read(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns which of the cached boxes the head reads, as a mask [B, T, N] bool. There are B clips, T frames and N
        boxes of a frame. `batch` must have `proposals/boxes`.
        """
        is_read = torch.zeros(batch[BOXES].shape[:3], dtype=torch.bool, device=batch[BOXES].device)
        is_read[:, self._at(batch), : self.top] = self.valid(batch, is_read.shape[2])
        return is_read

    def boxes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the boxes [B, T, N, 4] of `batch`, in the type in which they are cached: B clips, T frames, N boxes
        (x1, y1, x2, y2) of a frame, in pixels of the video.

        The type is kept, because coordinates above 256 are rounded in bfloat16, and areas above 65504 square pixels
        overflow in float16.
        """
        return self.of_boxes(BOXES, batch)

    def of_boxes(self, array: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns those values of the cached array `array` that belong to the boxes which the head reads: [B, T, N,
        ...] for B clips, T frames and N boxes a frame. `array` has one value for each cached box, as `tracks/id` has.
        `batch` contains it.

        The head reads only the boxes of those frames that have features, and only the `top` best boxes of a frame.
        """
        return batch[array][:, self._at(batch), : self.top]


class RegionReader:
    """Reads the cached regions of one tap from a batch. Features of regions that are not valid become 0.

    `channels` is the number of channels of a feature. `reads` has the names of the arrays that a batch must have.
    """

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
    """Cuts region features out of maps that a head made from the cached maps. A region feature describes the part of a
    map inside one cached box.

    `spec` maps array names to the shapes of one clip, and `source` names the cached maps. With `top`, only the `top`
    best boxes of a frame are read. `reads` has the names of the arrays that a batch must have.

    The maps show the rectangle of the video that the network saw, resized to a square. So each box is first moved from
    the coordinates of the video into this square and clipped to it. If the rectangle is mirrored (x1 > x2), the box is
    mirrored too. Then RoIAlign cuts the box into 7 x 7 bins. Along each axis, a bin takes as many samples as it covers
    map cells, rounded up (Wang and Gupta 2018, section 3.1). The feature of the box is the maximum over its bins.
    """

    def __init__(self, spec: Spec, source: FeatureSource, *, top: int | None = None) -> None:
        if absent := [name for name in (BOXES, CROP) if name not in spec]:
            raise missing(absent[:1], spec)
        self.proposals = ProposalReader(spec, source, source.maps, spec[BOXES][1], boxes=True, top=top)
        self.crop = self.proposals.seen
        self.reads = tuple(dict.fromkeys((source.maps, *self.proposals.reads, self.crop)))

    def __call__(self, batch: Mapping[str, Tensor], maps: Tensor) -> Regions:
        """Returns the Regions of a batch, with features [B, T, N, C] cut out of `maps` [B, T, C, H, W] by RoIAlign.
        There are B clips, T frames, N regions of a frame, C channels, H rows and W columns.

        `batch` maps the names in `reads` to arrays, such as the boxes. The features have the type of `maps`. The boxes
        keep their own, wider type in RoIAlign, because a narrower type would round their corners.
        """
        valid = self.proposals.valid(batch, batch[BOXES].shape[2])  # [B, T, N]
        boxes = torch.where(valid[..., None], self.proposals.boxes(batch), 0.0)
        crop = batch[self.crop][:, None, None].double()  # [B, 1, 1, 4]
        on_map = on_input(boxes.double(), crop, maps.shape[4]).to(boxes.dtype)  # maps are square, as the input is
        flat = region_features(maps.flatten(0, 1), on_map.flatten(0, 1), valid.flatten(0, 1), 1, ROI_SIZE)
        features = flat.features.view(*valid.shape, -1).to(maps.dtype)
        return Regions(features=features, valid=valid, boxes=boxes)


def project_maps(linear: nn.Module, maps: Tensor) -> Tensor:
    """Applies a linear layer to every position of `maps` [B, T, D, H, W]. Returns maps [B, T, C, H, W].

    There are B clips, T frames, D channels before and C channels after the layer, H rows and W columns. If `linear` is
    the identity, returns `maps` unchanged.
    """
    if not isinstance(linear, nn.Linear):
        return maps
    projected = F.conv2d(maps.flatten(0, 1), linear.weight[:, :, None, None], linear.bias)
    return projected.view(*maps.shape[:2], *projected.shape[1:])


def mean_over_tracks(x: Tensor, valid: Tensor, tracks: Tensor, most: int) -> Tensor:
    """Returns the mean over the tracks of each clip, [B, C], for B clips and C channels. A track is a series of boxes
    that follow one object. The value of a track is the mean of `x` over the boxes of the track.

    `x` [B, T, N, C] has one vector for each of N boxes in T frames. `tracks` [B, T, N] has the track number of each
    box, from 0 to `most` - 1. Boxes that are false in `valid` [B, T, N] do not count. A clip without tracks gets zeros.
    """
    is_in = valid.flatten(1)
    track = torch.where(is_in, tracks.flatten(1).long(), 0)  # [B, T*N]
    length = track.new_zeros(len(track), most).scatter_add_(1, track, is_in.long())  # boxes of each track
    weight = (1 / length.gather(1, track).clamp_min(1)).view_as(valid).to(x.dtype)
    total = torch.where(valid[..., None], x * weight[..., None], 0.0).sum((1, 2))
    return total / (length > 0).sum(1).clamp_min(1)[:, None]


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean [B, C] of `x` [B, T, N, C] over the regions of a clip for which `valid` [B, T, N] is true. There
    are B clips, T frames, N regions of a frame and C channels.

    A clip without valid regions gets 0.
    """
    total = torch.where(valid[..., None], x, 0.0).sum((1, 2))
    return total / valid.sum((1, 2)).clamp_min(1)[:, None]
