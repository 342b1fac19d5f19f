"""Measures the time and the memory of one work unit in a temporary cache, for `kinegraph plan --calibrate`. Needs
torch.

A work unit is one shard with the stage keys that are to be computed for it.
"""

import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.plan import Plan, WorkUnit
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.events import Preparing
from kinegraph.pipeline.extraction.limits import Machine, limit
from kinegraph.pipeline.extraction.other_precision import KeepingRunner, saved_share
from kinegraph.pipeline.extraction.progress import Progress, clips_of
from kinegraph.pipeline.extraction.scratch import scratch
from kinegraph.pipeline.extraction.worker import Worker
from kinegraph.stages.clock import DEVICE, THREADS, of_computing, of_prefix
from kinegraph.stages.device import is_slow_at, require_precision
from kinegraph.stages.errors import UsageError

RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The measured cost of one work unit on this machine, and the estimated time for all missing shards. A work unit is
    one shard with the stage keys to compute for it.
    """

    # `clips`, `failed`: the numbers of clips and of failed clips of the unit
    clips: int
    failed: int
    # `device`, `threads`: the device of the networks, and the number of CPU threads that PyTorch uses
    device: str
    threads: int
    workers: int  # the number of workers that `hours` assumes
    # The time from the first video to the last written stage, without Python's start and the loading of networks
    seconds: float
    stage_seconds: dict[str, float]  # kind of work -> seconds, for the main thread, which runs the stages
    thread_seconds: dict[str, float]  # kind of work -> seconds, for the other threads, such as those that decode
    device_seconds: dict[str, float]  # stage key -> seconds on a CUDA device. Empty without a CUDA device.
    limit: str  # a sentence that says what limits the speed
    peak_bytes: int  # the largest resident memory of the process
    hours: float | None  # the estimated time for all missing shards. None if every clip of the unit failed.

    @property
    def clips_per_second(self) -> float:
        """Returns the number of clips that one worker computes in a second."""
        return self.clips / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Returns all fields and `clips_per_second` as a dict for `--json`."""
        return asdict(self) | {"clips_per_second": self.clips_per_second}


def calibrate(config: Config, cache: Cache, plan: Plan) -> Calibration | None:
    """Computes one work unit of `plan` in a temporary cache and returns its Calibration: the measured time and memory.
    Returns None if the plan has no work unit.

    `cache` is only read. Raises WeightsError if weights cannot be read, and CacheMismatch if the cache was made with
    other weights.
    """
    if not plan.units:
        return None
    unit = _typical(plan.units)
    progress = Progress(clips_of(cache, [unit]), "calibrate")
    progress(Preparing(doing=f"running shard {unit.shard} in a temporary folder"))
    with closing(progress), tempfile.TemporaryDirectory(prefix="kinegraph-") as folder:
        temporary = scratch(config, cache, folder)
        worker = Worker(config, temporary, plan.keys, progress)
        for stage in worker.loaded.declared.stages.values():
            cache.check_stage(stage)
        keeping = _keep_batches(worker)
        read = [key for key in plan.declared.with_read(unit.keys) if key not in unit.keys]
        _copy_sealed(cache, temporary, read, unit.shard)
        begun = time.monotonic()
        worker.run([unit], decode_threads=worker.decoders if config.run.decoders else 0)
        seconds = time.monotonic() - begun
        records = [temporary.ledger.read(key, unit.shard) for key in unit.keys]
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES
    last = records[-1].seconds if records[-1] else {}
    computing, beside, on_device = of_computing(last), of_prefix(THREADS, last), of_prefix(DEVICE, last)
    failed = len({failure.clip_id for record in records if record for failure in record.failures})
    workers = 1 if config.run.executor == "inline" else config.run.workers
    clips = len(cache.shard_rows(unit.shard))
    missing = sum(len(cache.shard_rows(other.shard)) for other in plan.units)
    return Calibration(
        clips=clips,
        failed=failed,
        device=str(worker.loaded.device),
        threads=worker.threads,
        workers=workers,
        seconds=round(seconds, 3),
        stage_seconds=computing,
        thread_seconds=beside,
        device_seconds=on_device,
        limit=limit(
            config,
            _machine(worker),
            computing,
            beside,
            on_device,
            lambda key, precision: saved_share(config, key, keeping[key], precision, worker.loaded.device),
        ),
        peak_bytes=peak_bytes,
        hours=missing / (clips / seconds * workers) / 3600 if failed < clips else None,
    )


def _keep_batches(worker: Worker) -> dict[str, KeepingRunner]:
    """Changes `worker` so that each backbone and the proposal network remember their first batch. That batch can then
    run again in another precision.

    Returns a dict {stage key: KeepingRunner}. A KeepingRunner runs the network and has the remembered batch.
    """
    loaded = worker.loaded
    keeping = {
        key: KeepingRunner(runner)
        for key, runner in loaded.runners.items()
        if key.partition("/")[0] in ("features", "proposals")
    }
    worker.loaded = replace(loaded, runners={**loaded.runners, **keeping})
    return keeping


def _machine(worker: Worker) -> Machine:
    device = worker.loaded.device
    try:
        require_precision("bf16", device, "precision")
        has_fast_bf16 = not is_slow_at("bf16", device)
    except UsageError:
        has_fast_bf16 = False
    return Machine(
        is_cpu=device.type == "cpu",
        cores=os.cpu_count() or 1,
        decoders=worker.decoders if worker.config.run.decoders else 0,
        has_fast_bf16=has_fast_bf16,
    )


def _typical(units: Sequence[WorkUnit]) -> WorkUnit:
    """Returns a typical work unit of a plan: the first of `units` that has the most frequent set of stage keys."""
    ((keys, _),) = Counter(unit.keys for unit in units).most_common(1)
    return next(unit for unit in units if unit.keys == keys)


def _copy_sealed(cache: Cache, temporary: Cache, keys: Sequence[str], shard: int) -> None:
    """Copies one shard of the stages `keys` from `cache` to the cache `temporary`. Stages that have not sealed this
    shard are skipped.
    """
    begun = [key for key in keys if cache.has_stage(key)]
    temporary.declare(*(cache.stage(key) for key in begun))
    for key in begun:
        if record := cache.ledger.read(key, shard):
            for name in record.objects:
                temporary.storage.put(name, [cache.storage.get(name)])
            temporary.ledger.seal(record)
