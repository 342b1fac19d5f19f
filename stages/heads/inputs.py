"""Chooses the cached arrays that a head reads, and reads the regions of a batch.

A region is the part of a frame inside a box. Shapes: B clips, T frames, N regions of a frame, D channels in the cache,
C channels that the head uses, H rows and W columns of a map.
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
    """Raised if the cache lacks the features or regions of a tap (a layer of a backbone) that a head reads."""


def choose_source(spec: Spec, kinds: Sequence[str], options: TapOptions) -> FeatureSource:
    """Returns the tap whose arrays a head reads, as a FeatureSource. The tap must fit the head's options `backbone` and
    `tap`. The cache must have all `kinds` of its arrays, such as "maps" and "pooled".

    `spec` maps the name of each cached array to its shape for one clip. Raises TapMissing if no tap fits, and HeadError
    if several taps fit. The message of TapMissing names the command that makes the array.
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
    raise missing_arrays([nearest.array(kind) for kind in kinds if nearest not in sources[kind]], spec, kinds)


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
    """Returns the backbone and the tap that an error message about missing arrays names, as a FeatureSource.

    The names are the options `backbone` and `tap`. If an option is None and the cache has only one backbone or tap, the
    result has its name. If the cache has several, the name is a placeholder such as "<tap>".
    """
    sources = [source for kind in KINDS for source in _sources(spec, kind, TapOptions(backbone=options.backbone))]
    backbones = {source.backbone for source in sources}
    taps = {source.tap for source in sources if not source.is_vector}
    tap = options.tap or (taps.pop() if len(taps) == 1 else "<tap>")
    is_vector = tap == HEAD or tap.endswith(CLASS_SUFFIX)
    return FeatureSource(options.backbone or (backbones.pop() if len(backbones) == 1 else ANY_BACKBONE), tap, is_vector)


def missing_arrays(names: Sequence[str], spec: Spec, kinds: Sequence[str] = ()) -> HeadError:
    """Returns the error to raise if the cache lacks the arrays `names`. The message says which command makes them. The
    error is a TapMissing if `kinds` is given, else a HeadError.

    - `spec`: its keys are the names of the cached arrays.
    - `kinds`: the kinds of arrays that the head reads from one tap, such as "maps". Empty for other arrays.
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
    """Returns a sentence for an error message, which says that the cache lacks a backbone and lists the backbones of
    the cache. Returns "" if the cache has every backbone of the missing arrays, or no backbone at all.

    `names` are the missing arrays. The keys of `spec` are the names of the cached arrays.
    """
    asked, cached = _backbones(names) - {ANY_BACKBONE}, _backbones(spec)
    if not cached or asked <= cached:
        return ""
    return f"There is no backbone {', '.join(asked)}; cached are {', '.join(sorted(cached))}. "


def _backbones(names: Iterable[str]) -> set[str]:
    """Returns the names of the backbones whose features or regions are among the arrays `names`."""
    return {name.split("/")[1] for name in names if name.startswith(("features/", "regions/"))}


def _need(name: str, spec: Spec) -> tuple[str, str]:
    """Returns (name of the stage that makes the array `name`, words for the part of a config that asks for this array).
    For example, "tracks/id" -> ("tracks", "a section `tracks:`").

    The keys of `spec` are the names of the cached arrays.
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
    """Returns (T, C), the numbers of time steps and channels of an array of vectors. `shape` is the shape of the array
    for one clip. If `shape` is (C,), the array has one vector for the whole clip, and T is 1.
    """
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def read_vectors(batch: Mapping[str, Tensor], array: str, dtype: torch.dtype) -> Tensor:
    """Returns the values of the array `array` of a batch in the type `dtype`: [B, T, C] for B clips, T time steps and C
    channels. If the array has one vector for the whole clip, [B, C], the result has T = 1.
    """
    vectors = batch[array].to(dtype)
    return vectors if vectors.ndim == 3 else vectors[:, None]


def crop_array(source: FeatureSource, spec: Spec) -> str:
    """Returns the name of the cached array with the rectangle of the frame that the backbone of `source` sees. If the
    backbone sees the whole crop of the clip, the array is "clips/crop". If it sees less, the array is
    "clips/crop/<backbone>".

    The keys of `spec` are the names of the cached arrays.
    """
    own = f"{CROP}/{source.backbone}"
    return own if own in spec else CROP


@dataclass(frozen=True, kw_only=True)
class Regions:
    """The regions of a batch of clips, with N regions of a frame and C channels. A region is the part of a frame inside
    a box.
    """

    features: Tensor  # [B, T, N, C], with zeros where `valid` is false
    # Bool [B, T, N]. It is false for padding, and for boxes outside the rectangle that the backbone sees.
    valid: Tensor
    boxes: Tensor | None  # [B, T, N, 4], (x1, y1, x2, y2) in pixels of the video. None if the head reads no boxes.


class ProposalReader:
    """Reads the cached boxes of a batch and tells which boxes are valid. A box is valid if it exists and lies at least
    partly in the rectangle of the frame that the backbone sees.

    - `spec`: {name of the array: shape of one clip} of the cache.
    - `source`: the tap whose features the head reads.
    - `features`: the name of the array of these features.
    - `num_stored`: the number of boxes of a frame in the cache.
    - `boxes`: if false, the head needs only the mask of valid boxes.
    - `top`: the number of best boxes of a frame that are read. None means all.

    Only boxes of frames that have features are read. The attribute `reads` has the names of the arrays that a batch
    must have.

    Raises HeadError if an array is missing, if the numbers of frames do not fit, or if `top` is more than `num_stored`.
    """

    def __init__(
        self, spec: Spec, source: FeatureSource, features: str, num_stored: int, *, boxes: bool, top: int | None
    ) -> None:
        self.crop_array = crop_array(source, spec)
        narrowed = self.crop_array != CROP
        needed = (BOXES, COUNT, *([self.crop_array] if narrowed else [])) if boxes or narrowed else (COUNT,)
        if absent := [name for name in needed if name not in spec]:
            raise missing_arrays(absent, spec)
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
        """Returns, for each of the T time steps of the features, the number of the frame with boxes that belongs to it:
        a list [T] of numbers from 0. Returns None if the frames are at equal distances. Time step t then belongs to
        frame t * `self.step`.
        """
        return None if self.box_frames is None else batch[self.box_frames][0].tolist()

    def _at(self, batch: Mapping[str, Tensor]) -> slice | Tensor:
        """Returns the index for the time axis of cached boxes that chooses the frames with features. It is a slice, or
        a tensor of frame numbers.
        """
        return slice(None, None, self.step) if self.box_frames is None else batch[self.box_frames][0]

    def valid(self, batch: Mapping[str, Tensor], num_stored: int) -> Tensor:
        """Returns a mask bool [B, T, N] that is true for valid boxes, for N boxes of a frame. A box is valid if it
        exists and lies at least partly in the rectangle that the backbone sees.

        `batch` has the arrays that `reads` names. N is `top`, or the number of cached boxes `num_stored` if `top` is
        None.
        """
        count = batch[COUNT][:, self._at(batch)]  # [B, T]; -1 in a failed row
        valid = torch.arange(num_stored, device=count.device)[: self.top] < count[..., None]
        if self.crop_array == CROP:
            return valid
        boxes, seen = self.boxes(batch), batch[self.crop_array][:, None, None]
        start, end = torch.minimum(seen[..., :2], seen[..., 2:]), torch.maximum(seen[..., :2], seen[..., 2:])
        valid &= overlaps(boxes, [*start.unbind(-1), *end.unbind(-1)])
        return valid

    def read(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns a mask of all cached boxes, bool [B, T, N], that is true for the boxes that the head reads. There are
        B clips, T frames with boxes and N boxes of a frame. `batch` must have the array `proposals/boxes`.
        """
        is_read = torch.zeros(batch[BOXES].shape[:3], dtype=torch.bool, device=batch[BOXES].device)
        is_read[:, self._at(batch), : self.top] = self.valid(batch, is_read.shape[2])
        return is_read

    def boxes(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the boxes that the head reads, (x1, y1, x2, y2) in pixels of the video: [B, T, N, 4] for B clips, T
        frames and N boxes of a frame. The boxes keep the type of the cached array.
        """
        # bfloat16 would round coordinates above 256, and areas above 65504 square pixels overflow in float16.
        return self.of_boxes(BOXES, batch)

    def of_boxes(self, array: str, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the values of the array `array` of `batch` for the boxes that the head reads: [B, T, N, ...] for B
        clips, T frames and N boxes of a frame. `array`, such as "tracks/id", has one value for each cached box.

        The head reads boxes only of frames with features, and only the `top` best boxes of a frame.
        """
        return batch[array][:, self._at(batch), : self.top]


class RegionReader:
    """Reads the cached region features of one tap. `reader(batch, dtype)` returns the Regions of a batch, with features
    of the type `dtype`.

    - `spec`: {name of the array: shape of one clip} of the cache.
    - `source`: the tap.
    - `boxes`: whether the Regions have boxes.
    - `top`: the number of best boxes of a frame that are read. None means all.

    The attribute `reads` has the names of the arrays that a batch must have. The attribute `channels` is the number of
    channels.
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
    """Computes region features from maps and cached boxes by RoIAlign. `reader(batch, maps)` returns the Regions of a
    batch, for maps [B, T, C, H, W].

    - `spec`: {name of the array: shape of one clip} of the cache.
    - `source`: the tap of the cached maps. A head may change the maps before the call.
    - `top`: the number of best boxes of a frame that are read. None means all.

    The attribute `reads` has the names of the arrays that a batch must have.

    A map shows the rectangle of the video that the backbone saw. Boxes are converted to this rectangle and clipped.
    RoIAlign divides a box into 7 x 7 bins. Along each axis, a bin takes as many samples as it covers map cells, rounded
    up. The feature is the maximum over the bins (Wang and Gupta 2018, section 3.1).
    """

    def __init__(self, spec: Spec, source: FeatureSource, *, top: int | None = None) -> None:
        if absent := [name for name in (BOXES, CROP) if name not in spec]:
            raise missing_arrays(absent[:1], spec)
        self.proposals = ProposalReader(spec, source, source.maps, spec[BOXES][1], boxes=True, top=top)
        self.crop = self.proposals.crop_array
        self.reads = tuple(dict.fromkeys((source.maps, *self.proposals.reads, self.crop)))

    def __call__(self, batch: Mapping[str, Tensor], maps: Tensor) -> Regions:
        """Returns the Regions of `batch`, with features [B, T, N, C] that RoIAlign computes from `maps` [B, T, C, H,
        W]. The axes are B clips, T frames, N regions of a frame, C channels, H rows and W columns.

        `batch` has the arrays that `reads` names. The features have the type of `maps`. The boxes keep the type of the
        cached array, because a narrower type would round their corners.
        """
        valid = self.proposals.valid(batch, batch[BOXES].shape[2])  # [B, T, N]
        boxes = torch.where(valid[..., None], self.proposals.boxes(batch), 0.0)
        crop = batch[self.crop][:, None, None].double()  # [B, 1, 1, 4]
        on_map = on_input(boxes.double(), crop, maps.shape[4]).to(boxes.dtype)  # maps are square, as the input is
        flat = region_features(maps.flatten(0, 1), on_map.flatten(0, 1), valid.flatten(0, 1), 1, ROI_SIZE)
        features = flat.features.view(*valid.shape, -1).to(maps.dtype)
        return Regions(features=features, valid=valid, boxes=boxes)


def project_maps(linear: nn.Module, maps: Tensor) -> Tensor:
    """Applies the linear layer `linear` to the channels at every position of `maps`, and returns the new maps: [B, T,
    D, H, W] -> [B, T, C, H, W]. If `linear` is no linear layer, returns `maps` unchanged.

    The axes are B clips, T frames, D channels before and C channels after the layer, H rows and W columns.
    """
    if not isinstance(linear, nn.Linear):
        return maps
    projected = F.conv2d(maps.flatten(0, 1), linear.weight[:, :, None, None], linear.bias)
    return projected.view(*maps.shape[:2], *projected.shape[1:])


def mean_over_tracks(x: Tensor, valid: Tensor, tracks: Tensor, most: int) -> Tensor:
    """Returns the mean over the tracks of each clip, [B, C]. A track is a series of boxes that follow one object. Its
    vector is the mean of the vectors of its boxes.

    - `x`: the vector of each box, [B, T, N, C] for N boxes of a frame.
    - `valid`: bool [B, T, N]. Boxes for which it is false do not count.
    - `tracks`: the track number of each box, from 0 to `most` - 1, [B, T, N].

    A clip without tracks gets zeros.
    """
    is_in = valid.flatten(1)
    track = torch.where(is_in, tracks.flatten(1).long(), 0)  # [B, T*N]
    length = track.new_zeros(len(track), most).scatter_add_(1, track, is_in.long())  # boxes of each track
    weight = (1 / length.gather(1, track).clamp_min(1)).view_as(valid).to(x.dtype)
    total = torch.where(valid[..., None], x * weight[..., None], 0.0).sum((1, 2))
    return total / (length > 0).sum(1).clamp_min(1)[:, None]


def masked_mean(x: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean of `x` over the valid regions of each clip: [B, T, N, C] -> [B, C]. The axes are B clips, T
    frames, N regions of a frame and C channels. `valid` [B, T, N] is true for valid regions. A clip without valid
    regions gets zeros.
    """
    total = torch.where(valid[..., None], x, 0.0).sum((1, 2))
    return total / valid.sum((1, 2)).clamp_min(1)[:, None]
