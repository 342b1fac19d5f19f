"""Whether a cache holds a stage as the config asks for it; if not, the keys that make the config fit. Torch-free."""

import json

from kinegraph.cache_schemas.cache import FEATURES, Cache, Stage
from kinegraph.cache_schemas.crops import Framing
from kinegraph.cache_schemas.errors import CacheMismatch


def require_same_stage(cache: Cache, stage: Stage) -> None:
    """Raise CacheMismatch where the cache holds the stage made with other options.

    The defaults of `size`, `resize_short` and `resize` are those that named weights were tested with; caches made
    before there were such defaults have others, so the error names the keys to set.
    """
    try:
        cache.check_stage(stage)
    except CacheMismatch as error:
        if keys := _keys_to_set(cache, stage):
            raise CacheMismatch(f"{error}\n{keys}") from None
        raise


def _keys_to_set(cache: Cache, stage: Stage) -> str:
    cached = cache.stage(stage.key).options
    if not stage.key.startswith(FEATURES) or "size" not in cached or "size" not in stage.options:
        return ""
    framing = Framing.from_options(cached)
    if framing == Framing.from_options(stage.options):
        return ""
    values = {"size": framing.size, "resize_short": framing.resize_short, "resize": framing.resize}
    words = ", ".join(f"{key}: {json.dumps(value).strip(chr(34))}" for key, value in values.items())
    return (
        f"Frames were resized and cut otherwise in the cache. To go on with it, set under backbones."
        f"{stage.key.removeprefix(FEATURES)}: {words}."
    )
