"""Loads the networks of a worker, and writes the descriptions of their stages to the cache."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import CLIPS
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.agreement import require_same_stage
from kinegraph.pipeline.caches.declared import declare, known_digests
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.demand import Demand
from kinegraph.pipeline.extraction.events import Preparing, Report
from kinegraph.pipeline.extraction.tuning import choose
from kinegraph.pipeline.machine.devices import name_of_device
from kinegraph.pipeline.machine.versions import versions
from kinegraph.pipeline.shards.sealing import Provenance
from kinegraph.stages.decode.torchcodec_check import require_decoder
from kinegraph.stages.decode.wanted import Wanted
from kinegraph.stages.device import pick_device
from kinegraph.stages.kinds import kind_of
from kinegraph.stages.stage import GraphableRunner, Runner
from kinegraph.stages.transfers import Transfers, transfers_on

log = logging.getLogger("kinegraph")


@dataclass(frozen=True, kw_only=True)
class Loaded(Demand):
    """The loaded networks of one worker and the stages that they compute.

    - `cache`: the cache to which the worker writes.
    - `declared`: the stages that the worker writes, and all stages that they read.
    """

    # Stage key -> the object that runs the network of the stage. The stage `clips` has no runner.
    runners: Mapping[str, Runner]
    device: torch.device  # the device of the networks
    transfers: Transfers  # copies arrays between the host's memory and `device`
    provenance: Provenance  # the versions, device and sizes that each ledger record states

    def moved_to(self, cache: Cache) -> "Loaded":
        """Returns a copy of this object for a worker that writes to `cache`. The copy shares the loaded networks.

        Writes the descriptions of the stages to `cache`. Raises CacheMismatch if `cache` already has a stage with the
        same key and other options.
        """
        cache.declare(*self.declared.stages.values())
        return replace(self, cache=cache)

    def wanted(self, unit: WorkUnit) -> Wanted | None:
        """Returns which frames and pixels the work unit `unit` (one shard with its stage keys) needs of each clip.
        Returns None if the unit reads only the cache and no video.
        """
        wanted = super().wanted(unit)
        return None if wanted is None else wanted.on_device(str(self.device))


def open_runner(config: Config, key: str, device: torch.device) -> Runner | None:
    """Loads the network of the stage `key` on `device` and returns its runner, or None if the stage has no runner. The
    section `run` of the config decides whether the network runs through torch.compile or CUDA graphs.

    Raises WeightsError if the weights cannot be loaded. Raises UsageError if `device` cannot run the network.
    """
    runner = kind_of(key).open(config, key, device, compiled=config.run.compile is True)
    if config.run.cuda_graphs and device.type == "cuda" and isinstance(runner, GraphableRunner):
        runner.use_graphs()
    return runner


def load(config: Config, cache: Cache, keys: Iterable[str], report: Report) -> Loaded:
    """Loads the networks for the stages `keys` and returns them as a Loaded. Writes the descriptions of these stages to
    `cache`. `report` is called with a `Preparing` event before each network.

    A stage in `keys` may read another stage. The network of the other stage is loaded, too, if the stage has to run or
    if the cache does not know its weights. Raises UsageError if this machine cannot decode as `clips.decoder` says.
    Raises WeightsError if weights cannot be read, and CacheMismatch if the cache was made with other weights or
    options.
    """
    device, keys = pick_device(config.run.device), {*keys}
    digests = known_digests(config, cache)
    require_decoder(config.clips.decoder, config.clips.torchcodec_device, device)
    if config.run.cuda_graphs and device.type != "cuda":
        log.warning("run.cuda_graphs: true has no effect on the device %s, only on a GPU", device)
    declared = declare(config, digests, cache)
    runs = declared.running(keys, lambda key: False)
    found = {}
    for key in stopping.checked(declared.with_read(keys)):
        if key not in runs and declared.known(key):
            continue
        kind = kind_of(key)
        if network := kind.network(config, key):
            report(Preparing(doing=f"loading networks: {key.rpartition('/')[2]} ({network})"))
        found[key] = open_runner(config, key, device)
    runners = {key: runner for key, runner in found.items() if runner is not None}
    declared = declare(config, digests | {key: runner.digest for key, runner in runners.items()}, cache)
    declared = replace(declared, stages={key: declared.stages[key] for key in declared.with_read({*keys, CLIPS})})
    for stage in declared.stages.values():
        require_same_stage(cache, stage)
    cache.declare(*(stage for key, stage in declared.stages.items() if key in keys))
    choice = choose(config, cache, runners, device, report)
    return Loaded(
        cache=cache,
        declared=declared,
        runners=runners,
        device=device,
        transfers=transfers_on(device),
        provenance=Provenance(
            versions=versions(),
            device=name_of_device(device),
            batch_size=choice.batch_size,
            compiled=choice.compiled,
            threads=config.run.worker_threads,
        ),
    )
