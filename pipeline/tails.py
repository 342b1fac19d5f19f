"""What a cache says of the backbone whose tail is to be trained."""

from typing import Any

from cache_schemas.cache import Cache, Stage
from stages.backbones.build import backbone_digest, build_backbone
from stages.backbones.catalogue import entry
from stages.heads.head import HeadError, Spec
from stages.heads.places import FAMILIES
from stages.heads.tail import parse_tail, tail_source
from stages.heads.tail_options import TailOptions


def with_tail_of(cache: Cache, spec: Spec, options: dict[str, Any]) -> dict[str, Any]:
    """Head options whose tail names the model, its options and the weights that the cached maps were made with.

    Raises HeadError where the config names others, or the weights have changed since: the maps would not be what the
    part below the tap gives, and the tail not what belongs on top of it.
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
    found = tail.model_copy(update={"backbone": backbone, "weights": tail.weights or stage.weights} | cached)
    _require_weights(stage, found)
    return options | {"tail": found.model_dump(by_alias=True)}


def _require_weights(stage: Stage, tail: TailOptions) -> None:
    """Raises HeadError unless the tail's weights are those that the maps below were made with."""
    model, weights, options = stage.options["model"], str(tail.weights), dict(tail.options or {})
    below = build_backbone(model, weights, stage.options["taps"], **options)
    digest, cached = backbone_digest(below, entry(model, options), weights), stage.options["weights_sha256"]
    if digest != cached:
        raise HeadError(
            f"tail.weights: {weights!r} has sha256 {digest[:12]}, {stage.key} was made with {cached[:12]} "
            f"({stage.weights!r}): the tail would continue another network. Give the file that made the cache, or "
            "extract again."
        )
