"""Checks that the options of a stage in the cache are those of the config. The error names the config keys to set.
Torch-free.
"""

from kinegraph.cache_schemas.cache import Cache, Stage
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.stages.kinds import kind_of


def require_same_stage(cache: Cache, stage: Stage) -> None:
    """Raises CacheMismatch if the cache has the stage with the key of `stage`, but made with other options.

    The defaults of `size`, `resize_short` and `resize` are the values with which named weights were tested. Caches of
    earlier versions have other values, because these versions had no such defaults. If options differ for this reason,
    the error names the config keys to set.
    """
    try:
        cache.check_stage(stage)
    except CacheMismatch as error:
        if keys := kind_of(stage.key).keys_to_set(cache.stage(stage.key), stage):
            raise CacheMismatch(f"{error}\n{keys}") from None
        raise
