"""One worker: loads the networks once, then turns work units into sealed shards."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace

import torch

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache, Stage
from kinegraph.pipeline.agreement import require_same_stage
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.declare import declare
from kinegraph.pipeline.devices import described
from kinegraph.pipeline.events import (
    ClipsDone,
    Event,
    Preparing,
    UnitLeased,
    UnitSealed,
    UnitSealedElsewhere,
    UnitSuspected,
)
from kinegraph.pipeline.feed import Batch, Feed
from kinegraph.pipeline.leases import Leases, NoLeases, leases_on
from kinegraph.pipeline.plan import WorkUnit
from kinegraph.pipeline.sealing import Provenance
from kinegraph.pipeline.shard import ShardInProgress
from kinegraph.pipeline.verification import shard_problems
from kinegraph.pipeline.versions import versions
from kinegraph.pipeline.walltime import Schedule, allotment
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.decode.clips import Wanted, WholeFrame
from kinegraph.stages.decode.squares import Square
from kinegraph.stages.device import pick_device
from kinegraph.stages.proposals.source import ProposalSource
from kinegraph.stages.proposals.sources import build_source
from kinegraph.stages.scene_graphs.source import GraphSource
from kinegraph.stages.scene_graphs.sources import build_graph_source

Report = Callable[[Event], None]
REVISIT_SECONDS = 1.0
log = logging.getLogger("kinegraph")


@dataclass(frozen=True)
class Pass:
    """One pass over units: under which leases, and what it leaves over, leased by others, `suspects`, or `too_late`."""

    leases: Leases | NoLeases
    max_deaths: float
    leased: list[WorkUnit] = field(default_factory=list)
    suspects: list[WorkUnit] = field(default_factory=list)
    too_late: list[WorkUnit] = field(default_factory=list)


class Worker:
    """Runs units of one config on one cache. Networks are built, and stages declared, at construction.

    `schedule`: the time there is for units; if not given, from now what the config and the job around it leave.
    Raises WeightsError, or CacheMismatch where the weights are not those the cache was made with.
    """

    def __init__(
        self, config: Config, cache: Cache, keys: Iterable[str], report: Report, schedule: Schedule | None = None
    ) -> None:
        self.config, self.cache, self.report = config, cache, report
        self.schedule = schedule or Schedule(allotment(config.run.walltime_seconds))
        keys = set(keys)
        self.threads = config.run.worker_threads
        torch.set_num_threads(self.threads)
        self.device = pick_device(config.run.device)
        entries = {key.partition("/")[2] for key in keys if "/" in key}
        self.features = {name: self._extractor(name) for name in stopping.checked(sorted(entries))}
        self.proposer: ProposalSource | None = None
        if config.proposals is not None and "proposals" in keys:
            if config.proposals.weights_word:
                self._tell_loading("proposals", config.proposals.source)
            self.proposer = build_source(config.proposals, self.device)
        self.graph_source: GraphSource | None = None
        if config.graphs is not None and "graphs" in keys:
            self.graph_source = build_graph_source(config.graphs, config.dataset)
        self.stages = self._declared(keys)
        self.provenance = Provenance(
            versions=versions(),
            device=described(self.device),
            batch_size=config.run.batch_size,
            threads=self.threads,
        )

    def _tell_loading(self, name: str, network: str) -> None:
        self.report(Preparing(doing=f"loading networks: {name} ({network})"))

    def _extractor(self, name: str) -> FeatureExtractor:
        self._tell_loading(name, self.config.backbones[name].model)
        return FeatureExtractor(self.config.backbones[name], self.device, compiled=self.config.run.compile)

    def _declared(self, keys: set[str]) -> dict[str, Stage]:
        digests = {f"features/{name}": extractor.digest for name, extractor in self.features.items()}
        if self.proposer is not None:
            digests["proposals"] = self.proposer.digest
        declared = declare(self.config, digests)
        for key in declared.with_read(keys):
            require_same_stage(self.cache, declared.stages[key])
        stages = {key: stage for key, stage in declared.stages.items() if key in keys}
        self.cache.declare(*stages.values())
        return stages

    def run(self, units: Iterable[WorkUnit], *, decode_threads: int, max_deaths: float = math.inf) -> list[WorkUnit]:
        """Run the units, those that others have leased once these are done or dead; then all are sealed.

        Gives the suspects: units that `max_deaths` workers did not survive, left alone. Whatever stops it, what is
        sealed stays and nothing else counts.
        Raises OutOfTimeError once what was begun is sealed and no other unit can end in time, WalltimeError where not
        even one can.
        """
        suspects = []
        self.report(Preparing(doing="decoding the first videos"))
        with closing(leases_on(self.cache.storage, self.config.run.lease_seconds)) as leases, self._explained_stop():
            while True:
                over = Pass(leases, max_deaths)
                self._run_in_time(iter(units), over, decode_threads)
                suspects += over.suspects
                if over.too_late:
                    raise self.schedule.stopped()
                if not over.leased:
                    return suspects
                stopping.sleep(REVISIT_SECONDS)
                if self.schedule.allotted is not None:
                    self.schedule.allotted.require_time_to_wait()
                units = over.leased

    @contextmanager
    def _explained_stop(self) -> Iterator[None]:
        """A job's end that comes before that of its first unit is an error, not a stop to go on from."""
        try:
            yield
        except KeyboardInterrupt as stop:
            if (error := self.schedule.cut_off()) is not None:
                raise error from stop
            raise

    def _run_in_time(self, units: Iterator[WorkUnit], over: Pass, decode_threads: int) -> None:
        """Where time matters the first unit runs by itself: none is pulled ahead before one has shown what it takes."""
        while self.schedule.lacks_measure and (first := next(units, None)) is not None:
            self.run_free([first], over, decode_threads=decode_threads)
        self.run_free(units, over, decode_threads=decode_threads)

    def _taken(self, units: Iterable[WorkUnit], over: Pass) -> Iterator[WorkUnit]:
        """The units whose lease is ours now, without the keys that another worker sealed in the meantime."""
        for unit in units:
            if not self.schedule.has_room():
                over.too_late.append(unit)
                return
            if over.leases.deaths(unit.shard) >= over.max_deaths:
                over.suspects.append(unit)
                self.report(UnitSuspected(unit=unit))
                continue
            if not over.leases.take(unit.shard, unit.keys):
                over.leased.append(unit)
                self.report(UnitLeased(unit=unit))
                continue
            self.cache.check_not_upgraded()  # an upgrade looks for leases, and ours is there now
            if (left := self._left(unit)).keys:
                self.schedule.begin(unit.shard)
                yield left
            else:
                over.leases.release(unit.shard)
                self.report(UnitSealedElsewhere(unit=unit))

    def _left(self, unit: WorkUnit) -> WorkUnit:
        """What nobody did meanwhile: keys without a record, or with the one that is to be replaced.

        A shard of which not all is as it was sealed is run whole: its good rows cannot be told from the others.
        """
        ledger, planned = self.cache.ledger, {record.key: record for record in unit.reopened}
        keys, reopened = [], []
        for key in unit.keys:
            if ledger.has(key, unit.shard):
                if key not in planned or ledger.read(key, unit.shard) != planned[key]:
                    continue
                if problem := next(shard_problems(self.cache, self.stages[key], planned[key]), None):
                    log.warning("%s shard %d runs again as a whole: %s: %s", key, unit.shard, *reversed(problem))
                    ledger.unseal(key, unit.shard)
                else:
                    reopened.append(planned[key])
            keys.append(key)
        return replace(unit, keys=tuple(keys), reopened=tuple(reopened))

    def run_free(self, units: Iterable[WorkUnit], over: Pass, *, decode_threads: int) -> None:
        """Run the units that nobody else is at. None waits for another worker, which might wait for one of ours.

        What becomes of each unit is reported: sealed here or elsewhere, leased, or suspected.
        """
        feed = Feed(
            lambda unit: self.cache.rows(unit.shard),
            self.wanted,
            batch_size=self.config.run.batch_size,
            timeout_seconds=self.config.run.video_timeout_seconds,
            threads=decode_threads,
            staging=self.config.run.staging,
            note=lambda unit, doing: over.leases.note(unit.shard, doing),
        )
        batches_of = feed.batches(self._taken(units, over))
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer, closing(batches_of) as batches:
            pending: Future[None] | None = None
            shard: ShardInProgress | None = None
            asked = time.monotonic()
            for batch in stopping.checked(batches):
                if shard is None:
                    over.leases.note(batch.unit.shard, "computing")
                    shard = ShardInProgress(self, batch.unit, batch.clip_ids)
                shard.spent("waiting for decode", asked)
                self._compute(shard, batch)
                if batch.is_last:
                    asked = time.monotonic()
                    if pending is not None:
                        stopping.result(pending)
                    shard.spent("waiting for writer", asked)
                    pending, shard = writer.submit(self._seal, shard, over), None
                asked = time.monotonic()
            if pending is not None:
                stopping.result(pending)

    def _compute(self, shard: ShardInProgress, batch: Batch) -> None:
        shard.add(batch)
        videos = len({row.video_id for row in batch.rows})
        waiting = max(shard.seconds, key=lambda kind: shard.seconds[kind])
        retried = batch.unit.retried
        clips = sum(retried is None or row.clip_id in retried for row in batch.rows)
        self.report(ClipsDone(clips=clips, videos=videos, waiting=waiting))

    def _seal(self, shard: ShardInProgress, over: Pass) -> None:
        failed_clips = shard.seal(over.leases)
        over.leases.release(shard.unit.shard)
        self.schedule.end(shard.unit.shard)
        if failed_clips is None:
            over.leased.append(shard.unit)
            self.report(UnitLeased(unit=shard.unit))
        else:
            self.report(UnitSealed(unit=shard.unit, failed_clips=failed_clips))

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
        squares = frozenset(self.square(name) for name in self.backbones_to_run(unit))
        whole, numbered, clips = None, False, self.config.clips
        if self.config.proposals is not None and "proposals" in unit.keys:
            numbered = self.config.proposals.takes_numbers
            if self.config.proposals.takes_pixels:
                whole = WholeFrame(network_size=self.config.proposals.input_size, every=self.config.proposals.every)
        if not (squares or whole or numbered or "clips" in unit.keys):
            return None
        return Wanted(num_frames=clips.num_frames, squares=squares, whole=whole, numbered=numbered, short=clips.short)

    def square(self, name: str) -> Square:
        return Square(**asdict(self.config.framing_of(name)), every=self.config.backbones[name].every)
