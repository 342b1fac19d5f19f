"""Defines the stages `features/<entry>`, one for each backbone of the config. Imports no torch.

A stage stores the maps of the backbone at its taps, or the mean of each map over its rows and columns, or both. It may
also store the class token of each tap, and the output of the network after its last tap.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from kinegraph.cache_schemas.arrays import CLIPS, ArraySpec, class_token_array, feature_arrays, head_array
from kinegraph.cache_schemas.cache import FEATURES
from kinegraph.cache_schemas.crops import FULL, Framing, base_of, is_mirrored
from kinegraph.cache_schemas.stage import Stage
from kinegraph.cache_schemas.words import counted
from kinegraph.stages.backbones.catalogue import entry, owner
from kinegraph.stages.backbones.entry import BackboneEntry
from kinegraph.stages.backbones.pixels import own_pixels, pixels_of
from kinegraph.stages.backbones.taps import WrongFrames, WrongSize
from kinegraph.stages.clips.windows import new_frames
from kinegraph.stages.datasets.options import FolderOptions
from kinegraph.stages.decode.wanted import Wanted
from kinegraph.stages.options import need, under
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import StageKind
from kinegraph.stages.weights.sources import check_weights
from kinegraph.stages.weights.transformers_files import changed_folder

if TYPE_CHECKING:
    import torch

    from kinegraph.stages.backbones.run import BackboneRunner

VERSION = 1  # increase it when the output changes by more than rounding
SHARED_FRAMES = 1  # the rule by which shared frames are computed once; it changes the rounding
NOT_AS_GIVEN = {  # options that are recorded as they are used, not as the config states them
    "weights",
    "options",
    "mean",
    "std",
    "channel_order",
    "size",
    "resize_short",
    "resize",
    "tokens",  # only where they are not the default, because early versions have no such option
    "head",
}


class Backbones(StageKind):
    kind = "features"

    def keys(self, recipe: Recipe) -> list[str]:
        return [f"{FEATURES}{name}" for name in recipe.backbones]

    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        name = _name(key)
        options, backbone = recipe.backbones[name], recipe.entry_of(name)
        recorded = options.model_dump(mode="json", exclude=NOT_AS_GIVEN)
        recorded |= options.model_dump(mode="json", include={"tokens", "head"}, exclude_defaults=True)
        if chosen := backbone.recorded_options(options.taps):
            recorded["options"] = chosen
        if (pixels := pixels_of(options)) != own_pixels(backbone) or backbone.folder:
            recorded["pixels"] = asdict(pixels) | {"mean": [*pixels.mean], "std": [*pixels.std]}
        recorded |= recipe.framing_of(name).options
        if _new_frames(recipe, name) is not None:
            recorded["shared_frames"] = SHARED_FRAMES
        reads = {CLIPS: declared[CLIPS].fingerprint}
        recorded |= {"weights_sha256": digest, "version": VERSION, "reads": reads, **backbone.identity}
        weights = f"{options.weights} of {backbone.folder}" if backbone.folder else options.weights
        return Stage(key=key, options=recorded, arrays=tuple(_arrays(recipe, name)), weights=weights)

    def section(self, key: str) -> str:
        return f"backbones.{_name(key)}"

    def check(self, recipe: Recipe) -> None:
        for name in recipe.backbones:
            _check_entry(recipe, name)

    def wanted(self, recipe: Recipe, key: str) -> Wanted:
        return recipe.wanted(squares=frozenset({recipe.square_of(_name(key))}))

    def handed_on(self, recipe: Recipe, key: str) -> tuple[str, ...]:
        return tuple(f"{key}/{tap}" for tap in recipe.backbones[_name(key)].taps)

    def network(self, recipe: Recipe, key: str) -> str:
        return recipe.backbones[_name(key)].model

    def open(self, recipe: Recipe, key: str, device: "torch.device", *, compiled: bool) -> "BackboneRunner":
        from kinegraph.stages.backbones.run import BackboneRunner

        name = _name(key)
        square, new_frames = recipe.square_of(name), _new_frames(recipe, name)
        return BackboneRunner(
            key,
            recipe.backbones[name],
            square,
            device,
            num_frames=recipe.clips.num_frames,
            compiled=compiled,
            new_frames=new_frames,
        )

    def keys_to_set(self, cached: Stage, asked: Stage) -> str:
        advice = (self._framing_to_set(cached, asked), self._norm_to_set(cached, asked))
        return " ".join(filter(None, (*advice, changed_folder(cached.options, asked.options))))

    def _norm_to_set(self, cached: Stage, asked: Stage) -> str:
        """Returns advice if the last tap is before the final norm in the cache, and after it in the config."""
        if "final_norm" in cached.options.get("options", {}) or "final_norm" not in asked.options.get("options", {}):
            return ""
        return (
            "The last tap in the cache is before the final norm, as in early versions. To go on with it, "
            f"set under {self.section(asked.key)}: options: {{final_norm: none}}."
        )

    def _framing_to_set(self, cached: Stage, asked: Stage) -> str:
        """Returns advice if frames were resized or cut in another way in the cache than in the config."""
        if "size" not in cached.options or "size" not in asked.options:
            return ""
        framing = Framing.from_options(cached.options)
        if framing == Framing.from_options(asked.options):
            return ""
        values = {"size": framing.size, "resize_short": framing.resize_short, "resize": framing.resize}
        words = ", ".join(f"{key}: {json.dumps(value).strip(chr(34))}" for key, value in values.items())
        return (
            "Frames were resized and cut otherwise in the cache. To go on with it, set under "
            f"{self.section(asked.key)}: {words}."
        )


def _name(key: str) -> str:
    return key.removeprefix(FEATURES)


def _arrays(recipe: Recipe, name: str) -> Iterator[ArraySpec]:
    """Yields the ArraySpec of each array that the backbone `name` of the config stores."""
    options, backbone = recipe.backbones[name], recipe.entry_of(name)
    frames = recipe.clips.num_frames // options.every
    for tap in map(backbone.tap, options.taps):
        shape, step = tap.shape(frames, recipe.size_of(name)), options.every * tap.temporal_stride
        if options.tokens != "class":
            index = recipe.frame_index_of(name, tap.name)
            yield from feature_arrays(name, tap.name, shape, step, options.store, options.storage_dtype, index)
        if options.tokens != "patch":
            class_step = step if tap.class_token == "frame" else None
            yield class_token_array(name, tap.name, tap.class_shape(frames), class_step)
    if options.head:
        head_step = options.every if backbone.sees_single_frames else None
        yield head_array(name, backbone.head_shape(frames), head_step)


def _new_frames(recipe: Recipe, name: str) -> int | None:
    """Returns the number of frames that each clip has and the clip before it does not have, if the backbone `name`
    computes frames that clips share once. Returns None if the backbone runs on whole clips.
    """
    sees_single_frames = recipe.entry_of(name).sees_single_frames
    return new_frames(recipe.clips, recipe.backbones[name].every) if sees_single_frames else None


def _check_entry(recipe: Recipe, name: str) -> None:
    """Raises ValueError if an option of the backbone `name` is wrong, or if its options contradict each other. For
    example, the clips may have too few frames for a tap.
    """
    options = recipe.backbones[name]
    with under(f"backbones.{name}.model"):
        entry(options.model)
    with under(f"backbones.{name}.options"):
        backbone = recipe.entry_of(name)
    framing = recipe.framing_of(name)
    if framing.resize_short is not None:
        allowed = f"at most the {framing.resize_short} px of the resized frame's short side (resize_short)"
        need(framing.size <= framing.resize_short, f"backbones.{name}.size", framing.size, allowed)
    if framing.resize == "swscale":
        cut_first = [crop for crop in recipe.clips.crops if not framing.cuts(crop) and base_of(crop) != FULL]
        allowed = f"only with resize_short (such as {framing.size}) or clips.crops [full]: it resizes whole frames"
        need(not cut_first, f"backbones.{name}.resize", framing.resize, allowed)
    recipe.check_every(f"backbones.{name}.every", options.every)
    frames = recipe.clips.num_frames // options.every
    least = backbone.min_frames * options.every
    allowed = f"{least} or more for {options.model} of backbones.{name}"
    need(frames >= backbone.min_frames, "clips.num_frames", recipe.clips.num_frames, allowed)
    for tap in options.taps:
        _check_tap(f"backbones.{name}", backbone, tap, frames, framing.size)
    backbone.check_outputs(options.taps, options.tokens, head=options.head, section=f"backbones.{name}.")
    if backbone.sees == "flow":
        _check_flow(recipe, name)
    with under(f"backbones.{name}.weights"):
        backbone, word = owner(backbone, options.weights)
        check_weights(word, backbone.weights, backbone.other_forms)


def _check_tap(section: str, backbone: BackboneEntry, name: str, num_frames: int, size: int) -> None:
    """Raises ValueError if the backbone has no tap `name`, or if it cannot take a clip of `num_frames` frames of `size`
    x `size` px. The message begins with the key of the config that has the wrong value.

    `section` is the section of the backbone, such as `backbones.vit`.
    """
    with under(f"{section}.taps"):
        tap = backbone.tap(name)
    try:
        shape = tap.shape(num_frames, size)
        if shape[0] <= 0:
            raise WrongFrames(f"{counted(num_frames, 'frame')}, too few: {name} would have shape {shape}")
        if min(shape) <= 0:
            raise WrongSize(f"size {size} px, too small: {name} would have shape {shape}")
    except WrongSize as error:
        raise ValueError(f"{section}.size: {error}") from error
    except WrongFrames as error:
        raise ValueError(f"clips.num_frames: {section} gets {error}") from error


def _check_flow(recipe: Recipe, name: str) -> None:
    """Raises ValueError if the config asks for something that does not exist for optical flow, the input of the
    backbone `name`.
    """
    mirrored = [crop for crop in recipe.clips.crops if is_mirrored(crop)]
    allowed = f"crops that are not mirrored, because {name} reads optical flow, whose signs would change"
    need(not mirrored, "clips.crops", ", ".join(mirrored), allowed)
    order = recipe.backbones[name].channel_order
    need(order != "BGR", f"backbones.{name}.channel_order", order, "RGB, because optical flow has no colours")
    if isinstance(recipe.dataset, FolderOptions):
        rate = recipe.dataset.frame_rate
        allowed = f"images per second, because {name} reads folders of images of optical flow"
        need(rate is not None, "dataset.frame_rate", rate, allowed)
