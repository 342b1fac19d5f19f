"""`kinegraph status`: how far a cache is, from its ledger alone. Torch-free."""

from collections import Counter
from typing import Any

from cache_schemas.cache import Cache
from pipeline.pace import Sealed, clips_per_second


def status(cache: Cache) -> dict[str, Any]:
    """The document that `status --json` prints."""
    return {
        "schema": 1,
        "clips": cache.num_rows,
        "shards": cache.num_shards,
        "stages": {key: _stage_status(cache, key) for key in cache.stage_keys()},
    }


def _stage_status(cache: Cache, key: str) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    clips: Counter[str] = Counter({"ok": 0, "warned": 0, "failed": 0})
    shards = num_bytes = 0
    seconds: Counter[str] = Counter()
    sealed = []
    for record in cache.ledger.records(key):
        shards += 1
        num_bytes += sum(entry.size for entry in record.objects.values())
        reasons.update(failure.reason for failure in record.failures)
        clips["failed"] += len(record.failures)
        clips["warned"] += len(record.warnings)
        clips["ok"] += record.num_rows - len(record.failures) - len(record.warnings)
        seconds.update(record.seconds)
        sealed.append(Sealed.of(record.sealed_at, record.num_rows, record.seconds.values()))
    missing = cache.num_rows - clips.total()
    rate = clips_per_second(sealed)
    return {
        "shards": {"done": shards, "running": 0, "missing": cache.num_shards - shards},
        "clips": {**clips, "missing": missing},
        "failed": dict(sorted(reasons.items())),
        "bytes": num_bytes,
        "seconds": {kind: round(value, 1) for kind, value in seconds.items()},
        "clips_per_second": None if rate is None else round(rate, 3),
        "seconds_left": None if rate is None else round(missing / rate, 1),
    }
