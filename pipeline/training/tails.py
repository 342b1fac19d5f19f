"""Checks the option `tail` of a head, and completes the option from the backbone that made the cached maps.

A tail is the last layers of a backbone. A head with a tail reads cached maps and continues the backbone from there.
"""

from typing import Any

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.taps import Tap
from kinegraph.stages.heads.head import Head, HeadError, Spec
from kinegraph.stages.heads.inputs import CROP
from kinegraph.stages.heads.places import FAMILIES
from kinegraph.stages.heads.tail import parse_tail, tail_source
from kinegraph.stages.heads.tail_options import TailOptions
from kinegraph.stages.heads.tailed import TailedHead


def with_tail_of(cache: Cache, spec: Spec, options: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of `options`, the options of a head, in which the option `tail` has the model, the options and the
    weights of the backbone that made the cached maps. A tail is the layers of a backbone above the cached maps, which
    are trained with the head. Options without a tail stay as they are.

    `spec` maps the names of the cached arrays to the shapes of one clip. Raises HeadError if the tail has another
    model, other options or other weights than the backbone, or if the backbone cannot be a tail.
    """
    tail = parse_tail(options)
    if tail is None:
        return options
    backbone = tail_source(spec, tail).backbone
    stage = cache.stage(f"features/{backbone}")
    if stage.options.get("model") not in FAMILIES:
        made = f"of {stage.options['model']}" if "model" in stage.options else "imported"
        raise HeadError(f"tail: {stage.key} is {made}; the networks that can be a tail are {', '.join(FAMILIES)}.")
    cached = {"model": stage.options["model"], "options": stage.options.get("options", {})}
    for key, value in cached.items():
        if getattr(tail, key) not in (None, value):
            given = getattr(tail, key)
            raise HeadError(f"tail.{key}: given {given!r}, {stage.key} was made with {value!r}. Leave the key out.")
    completed = tail.model_copy(update={"backbone": backbone, "weights": tail.weights or stage.weights} | cached)
    _require_weights(stage, completed)
    return options | {"tail": completed.model_dump(by_alias=True)}


def _require_weights(stage: Stage, tail: TailOptions) -> None:
    """Raises HeadError if the weights of `tail` are not those of the backbone that made the maps of `stage`."""
    from kinegraph.stages.backbones.build import backbone_digest, build_backbone  # imports torchvision

    options: dict[str, Any] = dict(tail.options or {})
    model, weights = stage.options["model"], str(tail.weights)
    below = build_backbone(model, weights, stage.options["taps"], **options)
    digest, cached = backbone_digest(below, entry(model, options), weights), stage.options["weights_sha256"]
    if digest != cached:
        raise HeadError(
            f"tail.weights: {weights!r} has sha256 {digest[:12]}, {stage.key} was made with {cached[:12]} "
            f"({stage.weights!r}): the tail would continue another network. Give the file that made the cache, or "
            "extract again."
        )


def require_whole_maps(cache: Cache, head: Head) -> None:
    """Raises HeadError if `head` cuts regions out of cached maps and the cells of the maps do not cover the crop
    exactly. Boxes would lie at wrong positions on such maps.

    For example, a crop of 225 px is no multiple of a stride of 16 px. Networks without padding also make such maps.
    """
    source = (
        (head.head if isinstance(head, TailedHead) else head).source
        if any(name.startswith(CROP) for name in head.reads)
        else None
    )
    stage = cache.stage(f"features/{source.backbone}") if source else None
    if source is None or stage is None or "model" not in stage.options:
        return
    tap, size = _tap(stage, source.tap), stage.options["size"]
    side = tap.shape(tap.only_frames or tap.frames_multiple, size)[2]
    if side * tap.stride != size:  # a network whose cell 0 has an offset loses a border, so it differs too
        raise HeadError(
            f"regions_from: maps: given {source.maps}, whose {side} x {side} cells of {tap.stride} px lie from "
            f"{tap.offset_px:g} px on over {size} px; allowed are maps that lie over the crop cell by cell. "
            "Read cached regions, which heed that: `regions_from: cached`."
        )


def _tap(stage: Stage, name: str) -> Tap:
    """Returns the Tap with the name `name` of the backbone that made `stage`. If the backbone comes from a user's
    folder, the Tap only has the side of a patch.
    """
    if (patch_px := stage.options.get("patch_px")) is not None:
        return Tap(name=name, channels=0, space=((patch_px, patch_px),))
    return entry(stage.options["model"], stage.options.get("options", {})).tap(name)
