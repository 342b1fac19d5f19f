"""Checks that a cache holds a stage as the config asks for it. The error names the keys to set. Torch-free."""

from kinegraph.cache_schemas.cache import Cache, Stage
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.stages.kinds import kind_of


def require_same_stage(cache: Cache, stage: Stage) -> None:
    """Raises CacheMismatch if the cache has the stage `stage`, made with other options.

    The defaults of `size`, `resize_short` and `resize` are the values with which named weights were tested. Earlier
    versions had no such defaults, so their caches have other values. The error then names the config keys to set.
    """
    try:
        cache.check_stage(stage)
    except CacheMismatch as error:
        if keys := kind_of(stage.key).keys_to_set(cache.stage(stage.key), stage):
            raise CacheMismatch(f"{error}\n{keys}") from None
        raise
