"""One worker: loads the networks once, then turns work units into sealed shards."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import torch

from cache_schemas.cache import Cache, Stage
from cache_schemas.clips_table import ClipRow
from pipeline.config import Config
from pipeline.declare import declare
from pipeline.events import ClipsDone, Event, UnitSealed
from pipeline.feed import Batch, Feed
from pipeline.plan import WorkUnit
from pipeline.sealing import Provenance
from pipeline.shard import ShardInProgress
from pipeline.versions import versions
from stages.backbones.extract import FeatureExtractor
from stages.decode.clips import Square, Wanted, WholeFrame
from stages.device import pick_device
from stages.proposals.catalogue import entry as proposal_entry
from stages.proposals.extract import ProposalExtractor

Report = Callable[[Event], None]


def worker_threads(config: Config) -> int:
    return config.run.worker_threads


class Worker:
    """Runs units of one config on one cache. Networks are built, and stages declared, at construction.

    Raises WeightsError, or CacheMismatch where the weights are not those the cache was made with.
    """

    def __init__(self, config: Config, cache: Cache, keys: Iterable[str], report: Report) -> None:
        self.config, self.cache, self.report = config, cache, report
        keys = set(keys)
        self.threads = worker_threads(config)
        torch.set_num_threads(self.threads)
        self.device = pick_device(config.run.device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        entries = {key.partition("/")[2] for key in keys if "/" in key}
        self.features = {name: FeatureExtractor(config.backbones[name], self.device) for name in sorted(entries)}
        self.proposer: ProposalExtractor | None = None
        if config.proposals is not None and "proposals" in keys:
            self.proposer = ProposalExtractor(config.proposals, self.device)
        self.stages = self._declared(keys)
        self.provenance = Provenance(
            versions=versions(), device=str(self.device), batch_size=config.run.batch_size, threads=self.threads
        )

    def _declared(self, keys: set[str]) -> dict[str, Stage]:
        digests = {f"features/{name}": extractor.digest for name, extractor in self.features.items()}
        if self.proposer is not None:
            digests["proposals"] = self.proposer.digest
        declared = declare(self.config, digests)
        for key in declared.with_read(keys):
            self.cache.check_stage(declared.stages[key])
        stages = {key: stage for key, stage in declared.stages.items() if key in keys}
        for stage in stages.values():
            self.cache.declare(stage)
        return stages

    def run(self, units: Iterable[WorkUnit], *, decode_threads: int) -> None:
        """Run all units in order. Whatever stops it, what is sealed stays and nothing else counts."""
        feed = Feed(
            self.rows,
            self.wanted,
            batch_size=self.config.run.batch_size,
            timeout_seconds=self.config.run.video_timeout_seconds,
            threads=decode_threads,
        )
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer, closing(feed.batches(units)) as batches:
            pending: Future[None] | None = None
            shard: ShardInProgress | None = None
            asked = time.monotonic()
            for batch in batches:
                shard = shard or ShardInProgress(self, batch.unit)
                shard.spent("waiting for decode", asked)
                self._compute(shard, batch)
                if batch.is_last:
                    asked = time.monotonic()
                    if pending is not None:
                        pending.result()
                    shard.spent("waiting for writer", asked)
                    pending, shard = writer.submit(self._seal, shard), None
                asked = time.monotonic()
            if pending is not None:
                pending.result()

    def _compute(self, shard: ShardInProgress, batch: Batch) -> None:
        begun = time.monotonic()
        shard.add(batch)
        shard.spent("network", begun)
        videos = len({row.video_id for row in batch.rows})
        waiting = max(shard.seconds, key=lambda kind: shard.seconds[kind])
        self.report(ClipsDone(clips=len(batch.rows), videos=videos, waiting=waiting))

    def _seal(self, shard: ShardInProgress) -> None:
        self.report(UnitSealed(unit=shard.unit, failed_clips=shard.seal()))

    def rows(self, unit: WorkUnit) -> list[ClipRow]:
        numbers = self.cache.shard_rows(unit.shard)
        return list(self.cache.clips.rows(numbers.start, numbers.stop))

    def backbones_to_run(self, unit: WorkUnit) -> list[str]:
        """Entries that a unit has to run: for features, or for maps that regions need and that nobody stored."""
        return [
            name
            for name in self.features
            if f"features/{name}" in unit.keys
            or (f"regions/{name}" in unit.keys and not self.maps_stored(name, unit.shard))
        ]

    def maps_stored(self, name: str, shard: int) -> bool:
        """Whether the shard's maps of a backbone entry lie sealed in the cache."""
        return "maps" in self.config.backbones[name].store and self.cache.ledger.has(f"features/{name}", shard)

    def wanted(self, unit: WorkUnit) -> Wanted | None:
        """What a unit needs of its videos; None where all it reads is cached."""
        backbones = self.backbones_to_run(unit)
        whole = None
        if self.config.proposals is not None and "proposals" in unit.keys:
            network_size = proposal_entry(self.config.proposals.network).input_size
            whole = WholeFrame(network_size=network_size, every=self.config.proposals.every)
        if not backbones and whole is None and unit.keys != ("clips",):
            return None
        squares = frozenset(self.square(name) for name in backbones)
        clips = self.config.clips
        return Wanted(num_frames=clips.num_frames, squares=squares, whole=whole, short=clips.short)

    def square(self, name: str) -> Square:
        return Square(size=self.config.size_of(name), every=self.config.backbones[name].every)
