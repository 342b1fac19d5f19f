"""Finds out by which rules the frames of a cache were chosen. The rules have versions. Imports no torch."""

from kinegraph.cache_schemas.arrays import CLIPS
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.stages.decode.wanted import LATEST_RULES


def rules_of(cache: Cache) -> int:
    """Returns the version of the rules by which the frames of the cache were chosen.

    cache.json and the stage `clips` both record a version. If they differ, the lower one is returned. Raises CacheError
    for a version that this kinegraph does not know.
    """
    options = [cache.manifest["clips"], *([cache.stage(CLIPS).options] if cache.has_stage(CLIPS) else [])]
    versions = [recorded.get("version", LATEST_RULES) for recorded in options]
    for version in versions:
        if version not in range(1, LATEST_RULES + 1):
            raise CacheError(f"{cache.root} has `clips` version {version}, known are 1 to {LATEST_RULES}.")
    # A run that began before an upgrade may have sealed frames by earlier rules.
    return int(min(versions))
