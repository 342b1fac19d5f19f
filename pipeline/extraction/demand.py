"""Decides which stages run for a work unit, and which frames they need. Torch-free, because videos can be decoded
before torch is imported.

A unit is a `WorkUnit`: one shard with the stage keys to compute for it.
"""

from dataclasses import dataclass
from functools import partial

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.declared import Declared
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.stages.decode.wanted import Wanted


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Decides which stages run for a work unit (one shard with its stage keys), and which frames and pixels of each
    clip these stages need.

    - `cache`: the cache to which the stages are written.
    - `declared`: the stages to write, and all stages that they read.
    """

    cache: Cache
    declared: Declared

    def running(self, unit: WorkUnit) -> list[str]:
        """Returns the keys of all stages that run for the work unit `unit` (one shard with its stage keys), in the
        order in which they run.

        The result has the stages in `unit.keys`, and stages that run only because another stage reads their output.
        Only the outputs of the stages in `unit.keys` are written.
        """
        return self.declared.running(unit.keys, partial(self.cache.ledger.has, shard=unit.shard))

    def wanted(self, unit: WorkUnit) -> Wanted | None:
        """Returns which frames and pixels the work unit `unit` (one shard with its stage keys) needs of each clip.
        Returns None if the unit reads only the cache and no video.
        """
        return self.declared.wanted(self.running(unit))
