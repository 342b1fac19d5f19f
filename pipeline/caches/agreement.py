"""Checks that a stage of the cache has the same options as the config. The error names the config keys to set. Imports
no torch.
"""

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.kinds import kind_of


def require_same_stage(cache: Cache, stage: Stage) -> None:
    """Raises CacheMismatch if `cache` has a stage with the same key as `stage` but other options.

    Earlier versions of kinegraph had other defaults of `size`, `resize_short` and `resize`. If the options differ for
    this reason, the error also says which config keys to set.
    """
    try:
        cache.check_stage(stage)
    except CacheMismatch as error:
        if keys := kind_of(stage.key).keys_to_set(cache.stage(stage.key), stage):
            raise CacheMismatch(f"{error}\n{keys}") from None
        raise
