"""Joins a head with the backbones that compute its features from pixels, for fine-tuning and for new videos. The
features are not read from a cache.

Shapes: B clips, T frames, S side of the square input, C channels, N regions a frame, H rows and W columns of a map.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinegraph.stages.backbones.backbone import MAP_RANK, Backbone
from kinegraph.stages.backbones.extract import Normalised
from kinegraph.stages.backbones.norms import frozen_norms, norms_of, warn_of_gains_at_0
from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.heads.clip_graphs import ClipGraph, Links
from kinegraph.stages.heads.head import Head, HeadError
from kinegraph.stages.heads.inputs import BOXES, COUNT
from kinegraph.stages.regions.extract import regions_of_clips
from kinegraph.stages.regions.options import RegionOptions

PIXELS = "pixels/"  # with the name of a backbone entry: the name of its input, [T, S, S, 3] uint8 RGB
Maps = Callable[[Tensor], dict[str, Tensor]]  # pixels [B, T, S, S, 3] uint8 -> maps [B, T', C, H, W] by tap


@dataclass(frozen=True, kw_only=True)
class OnlineEntry:
    """One backbone of the config whose features are computed from pixels and not read from the cache."""

    name: str  # the name of the backbone in the config
    taps: tuple[Tap, ...]  # the taps (layers of the backbone) whose arrays the head reads
    size: int  # the side in pixels of the square input of the backbone
    crop_array: str  # the name of the cached array with the rectangle of the frame that is resized to this square
    # The options of the region features, or None if the head reads no regions of this backbone
    regions: RegionOptions | None


class OnlineHead(Head):
    """A head that computes features from pixels with its own backbones, and then runs the head `head` on them. Boxes
    come from the cache.

    - `head`: a head for cached arrays. It may have a tail.
    - `entries`: the backbones.
    - `networks`: for each of `entries`, a function from pixels to {name of the tap: maps}. A `Normalised` can be
      trained. The method `maps` of a `FeatureExtractor` cannot.
    - `clips_per_pass`: the number of clips that pass through a backbone together in training. Each pass is computed
      again for the gradient, which saves memory. None means one pass for all clips.
    - `stored`: {name of the array: type}. These arrays are rounded to the types in which a cache stores them, so that
      `head` reads the values of a cache. It must be empty for training.
    """

    def __init__(
        self,
        head: Head,
        entries: Sequence[OnlineEntry],
        networks: Sequence[Maps],
        *,
        clips_per_pass: int | None = None,
        stored: Mapping[str, torch.dtype] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.head, self.entries, self.networks = head, tuple(entries), tuple(networks)
        self.backbones = nn.ModuleList(network for network in networks if isinstance(network, Normalised))
        self.clips_per_pass, self.stored = clips_per_pass, dict(stored)
        self.name, self.num_classes, self.options = head.name, head.num_classes, head.options
        self.computed_names = {name for entry in entries for name in arrays_of_entry(entry, head.reads)}
        boxes = (
            [BOXES, COUNT, *(entry.crop_array for entry in entries)]
            if any(name.startswith("regions/") for name in self.computed_names)
            else []
        )
        others = (name for name in head.reads if name not in self.computed_names)
        self.cached_reads = tuple(dict.fromkeys([*others, *boxes]))
        self.reads = (*(f"{PIXELS}{entry.name}" for entry in entries), *self.cached_reads)
        self.frozen_modules: list[str] = []  # paths, because training on several GPUs replaces modules
        self.factors: dict[str, float] = {}

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(self._computed(batch))
        return logits

    def _computed(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns {name of the array: values} with all arrays that the head reads. The features are computed from the
        pixels in `batch`. All other arrays are those of `batch`.
        """
        arrays = dict(batch)
        for entry, network in zip(self.entries, self.networks, strict=True):
            maps_of = self._maps(network, arrays.pop(f"{PIXELS}{entry.name}"))
            for tap in entry.taps:
                arrays |= self._arrays(entry, tap, maps_of[tap.name], batch)
            vectors = {name: x for name, x in maps_of.items() if x.ndim < MAP_RANK}  # class tokens, the output `head`
            arrays |= {f"features/{entry.name}/{name}": x.float() for name, x in vectors.items()}
        return arrays

    @property
    def graph_links(self) -> Mapping[str, Links]:
        return self.head.graph_links

    def clip_graphs(self, batch: Mapping[str, Tensor]) -> dict[str, ClipGraph]:
        return self.head.clip_graphs(self._computed(batch))

    def _maps(self, network: Maps, pixels: Tensor) -> dict[str, Tensor]:
        if not torch.is_grad_enabled() or self.clips_per_pass is None:
            return network(pixels)
        parts = [checkpoint(network, part, use_reentrant=False) for part in torch.split(pixels, self.clips_per_pass)]
        return {tap: torch.cat([part[tap] for part in parts]) for tap in parts[0]}

    def _arrays(self, entry: OnlineEntry, tap: Tap, maps: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the arrays of one tap that a cache would have, as {name of the array: values}. They are the maps,
        their means over rows and columns, and the region features if the head reads them.

        `entry` is the backbone. `maps` [B, T, C, H, W] are its output at `tap`, for B clips, T time steps, C channels,
        H rows and W columns. `batch` has the boxes of the regions.
        """
        name = f"{entry.name}/{tap.name}"
        pooled = maps.float().mean((3, 4))  # of the maps before they are rounded, as in an extraction
        maps = self._rounded(f"features/{name}", maps)
        arrays = {f"features/{name}": maps, f"features/{name}_pooled": pooled}
        if f"regions/{name}" in self.computed_names:
            assert entry.regions is not None
            boxes, count, seen = (batch[array] for array in (BOXES, COUNT, entry.crop_array))
            regions = regions_of_clips(maps, boxes, count, seen.double(), entry.size, tap, entry.regions)
            arrays[f"regions/{name}"] = self._rounded(f"regions/{name}", regions.features)
        return arrays

    def _rounded(self, name: str, values: Tensor) -> Tensor:
        """Returns the values of the array `name`, converted to the type in `self.stored` and contiguous in memory. If
        `self.stored` has no type for this array, returns `values` unchanged.
        """
        return values.to(self.stored[name]).contiguous() if name in self.stored else values

    def unfreeze(
        self, taps: Sequence[str] | None, batch_norm: str, learning_rate_factor: float, layer_decay: float | None
    ) -> None:
        """Chooses the parameters of the backbones that are trained, and their learning rates. A backbone is divided
        into parts, and each part ends at a tap.

        - `taps`: the parts that end at these taps are trained. None means all parts.
        - `batch_norm`: what stays frozen in batch norms. "frozen": statistics, gain and bias. "statistics": only the
          statistics. "partial": all three, except in the first norm. "train": nothing.
        - `learning_rate_factor`: the factor on the learning rate of the highest part.
        - `layer_decay`: the factor from each part to the next lower part. None means that all parts have the same
          factor.

        Raises HeadError if one of `taps` ends no part of a backbone.
        """
        modules = self.backbones.named_modules(prefix="backbones")
        backbones = [(path, module) for path, module in modules if isinstance(module, Backbone)]
        known = [tap for _, backbone in backbones for tap in backbone.levels]
        if unknown := [tap for tap in taps or () if tap not in known]:
            some = f", or some of {', '.join(known)}" if known else "; this network is trained whole or not at all"
            raise HeadError(f"finetune.unfreeze: given {unknown[0]!r}, allowed: all, []{some}.")
        self.frozen_modules = []
        for place, backbone in backbones:
            parts = _parts(backbone)
            fixed = [] if taps is None else [path for tap, paths in parts.items() if tap not in taps for path in paths]
            kept = frozen_norms(norms_of(backbone), batch_norm)
            backbone.requires_grad_(True)
            gains = kept if batch_norm != "statistics" else []
            below = tuple(f"{path}." for path in fixed)
            warn_of_gains_at_0(backbone, [path for path in gains if not path.startswith(below)])
            for path in [*fixed, *gains]:
                backbone.get_submodule(path).requires_grad_(False)
            self.frozen_modules += [f"{place}.{path}" for path in (*fixed, *kept)]
            for above, paths in enumerate(reversed(parts.values())):
                factor = learning_rate_factor * (layer_decay or 1.0) ** above
                for path in paths:
                    of_part = backbone.get_submodule(path).named_parameters(prefix=f"{place}.{path}")
                    self.factors |= dict.fromkeys((name for name, _ in of_part), factor)

    def learning_rate_factor_of(self, parameter: str) -> float:
        """Returns the factor by which the training multiplies the learning rate of the parameter with the name
        `parameter`. For a parameter of a backbone, the method `unfreeze` has set the factor. For a parameter of `head`,
        the method of `head` returns the factor.
        """
        factor = self.factors.get(parameter)
        return self.head.learning_rate_factor_of(parameter.removeprefix("head.")) if factor is None else factor

    def train(self, mode: bool = True) -> "OnlineHead":
        super().train(mode)
        for path in self.frozen_modules:
            self.get_submodule(path).eval()
        return self


def _parts(backbone: Backbone) -> dict[str, Sequence[str]]:
    """Divides a backbone into parts that end at its taps. Returns {name of the tap: names of the submodules of the
    part}, from the lowest tap to the highest. The part of the lowest tap begins at the input.

    A network of the package timm or transformers is not divided. Its result has the key "" with all submodules.
    """
    if not backbone.levels:
        return {"": [name for name, _ in backbone.named_children()]}
    return {tap: backbone.stages[tap] for tap in backbone.levels}


def arrays_of_entry(entry: OnlineEntry, reads: Iterable[str]) -> set[str]:
    """Returns the names of those arrays in `reads` that the backbone of `entry` computes from pixels: its features and
    region features.
    """
    prefixes = (f"features/{entry.name}/", f"regions/{entry.name}/")
    return {name for name in reads if name.startswith(prefixes)}
