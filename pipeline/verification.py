"""`kinegraph verify`: is what the ledger says on disk? Torch-free."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache_schemas.cache import Cache
from cache_schemas.errors import CacheError, CacheTooNew
from cache_schemas.ledger import SealedObject
from cache_schemas.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is not as the ledger says. `kind`: record, missing, size or checksum."""

    stage: str
    shard: int
    object: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All problems of a cache; empty means that every sealed byte is as it was written."""

    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, "problems": [asdict(problem) for problem in self.problems], "warnings": []}


def verify(path: Path | str) -> Verification:
    """Check existence, size and checksum of every sealed object. Raises CacheNotFound, CacheTooNew."""
    cache = Cache(path)
    return Verification(problems=tuple(p for key in cache.stage_keys() for p in _stage_problems(cache, key)))


def repair(cache: Cache, problems: tuple[Problem, ...]) -> None:
    """Un-mark the shards with problems, so that the next extract redoes just those."""
    for problem in problems:
        cache.ledger.unseal(problem.stage, problem.shard)


def _stage_problems(cache: Cache, key: str) -> Iterator[Problem]:
    for shard in cache.ledger.shards(key):
        try:
            record = cache.ledger.read(key, shard)
        except CacheTooNew:
            raise
        except CacheError:
            yield Problem(stage=key, shard=shard, object=cache.ledger.name(key, shard), kind="record")
            continue
        for name, sealed in record.objects.items() if record else ():
            if kind := _object_problem(cache.storage, name, sealed):
                yield Problem(stage=key, shard=shard, object=name, kind=kind)


def _object_problem(storage: Storage, name: str, sealed: SealedObject) -> str:
    """What is wrong with one object, or nothing."""
    try:
        size, digest = storage.digest(name)
    except FileNotFoundError:
        return "missing"
    if size != sealed.size:
        return "size"
    return "" if digest == sealed.xxh3_128 else "checksum"
