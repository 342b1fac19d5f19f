"""What a worker has loaded: its networks, the stages that they make, and what records say of them."""

from collections.abc import Callable, Iterable
from dataclasses import asdict

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache, Stage
from kinegraph.pipeline.caches.agreement import require_same_stage
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.events import Event, Preparing
from kinegraph.pipeline.machine.devices import described
from kinegraph.pipeline.machine.versions import versions
from kinegraph.pipeline.shards.sealing import Provenance
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.decode.clips import Wanted, WholeFrame
from kinegraph.stages.decode.squares import Square
from kinegraph.stages.device import pick_device
from kinegraph.stages.proposals.source import ProposalSource
from kinegraph.stages.proposals.sources import build_source
from kinegraph.stages.scene_graphs.source import GraphSource
from kinegraph.stages.scene_graphs.sources import build_graph_source

Report = Callable[[Event], None]


class Networks:
    """Networks for `keys` on one device, and their stages, declared in the cache. Built once a worker.

    Raises WeightsError, or CacheMismatch where the weights are not those the cache was made with.
    """

    def __init__(self, config: Config, cache: Cache, keys: Iterable[str], report: Report) -> None:
        self.config, self.cache, self.report = config, cache, report
        keys = set(keys)
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
            threads=config.run.worker_threads,
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
