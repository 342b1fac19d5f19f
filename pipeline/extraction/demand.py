"""Says which frames a work unit needs of its clips. Torch-free, because decoding can begin before torch is imported."""

from dataclasses import dataclass
from functools import partial

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.declared import Declared
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.stages.decode.wanted import Wanted


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The needs of work units that are written to the cache `cache`. `declared` holds the stages of the units and all
    stages that these stages read.
    """

    cache: Cache
    declared: Declared

    def running(self, unit: WorkUnit) -> list[str]:
        """Returns the keys of all stages that run for the work unit `unit`, in the order in which they run.

        A stage that is not in `unit.keys` runs only because another stage reads its output. Its rows are not written.
        """
        return self.declared.running(unit.keys, partial(self.cache.ledger.has, shard=unit.shard))

    def wanted(self, unit: WorkUnit) -> Wanted | None:
        """Returns a Wanted: the frames and pixels that a work unit needs of each clip. Returns None if the unit reads
        no video, only the cache.
        """
        return self.declared.wanted(self.running(unit))
