"""`kinegraph verify`: is what the ledger says on disk, and does it make sense? Torch-free."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache_schemas.cache import Cache, Stage
from cache_schemas.errors import CacheError, CacheTooNew
from cache_schemas.ledger import Record, SealedObject
from cache_schemas.storage import Storage
from pipeline.contents import ShardContents, proposals_per_frame


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is not as it should be; docs/design.md lists the kinds."""

    stage: str
    shard: int
    object: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All problems of a cache; none means that every sealed byte is as it was written, and plausible.

    `warnings` name what is possible but seldom meant; they are no problems. Nor are frames with fewer boxes than
    `proposals.top`: `proposals_per_frame` is their mean number, None where there are none.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()
    proposals_per_frame: float | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        def listed(found: tuple[Problem, ...]) -> list[dict[str, Any]]:
            return [asdict(problem) for problem in found]

        return {
            "ok": self.ok,
            "problems": listed(self.problems),
            "warnings": listed(self.warnings),
            "proposals_per_frame": self.proposals_per_frame,
        }


def verify(path: Path | str) -> Verification:
    """Check every sealed object: existence, size, checksum, shape, values. Raises CacheNotFound, CacheTooNew.

    Objects that no record names are no concern of it.
    """
    cache = Cache(path)
    found = [problem for key in cache.stage_keys() for problem in _stage_problems(cache, cache.stage(key))]
    return Verification(
        problems=tuple(problem for problem in found if problem.kind != "zeros"),
        warnings=tuple(problem for problem in found if problem.kind == "zeros"),
        proposals_per_frame=proposals_per_frame(cache),
    )


def repair(cache: Cache, problems: tuple[Problem, ...]) -> None:
    """Un-mark the shards with problems, so that the next extract redoes just those."""
    for problem in problems:
        cache.ledger.unseal(problem.stage, problem.shard)


def _stage_problems(cache: Cache, stage: Stage) -> Iterator[Problem]:
    for shard in cache.ledger.shards(stage.key):
        try:
            record = cache.ledger.read(stage.key, shard)
        except CacheTooNew:
            raise
        except CacheError:
            record_name = cache.ledger.name(stage.key, shard)
            yield Problem(stage=stage.key, shard=shard, object=record_name, kind="record")
            continue
        for name, kind in _shard_problems(cache, stage, record) if record else ():
            yield Problem(stage=stage.key, shard=shard, object=name, kind=kind)


def _shard_problems(cache: Cache, stage: Stage, record: Record) -> Iterator[tuple[str, str]]:
    """(object, kind) of everything wrong with one shard; values are looked at only where all bytes are whole."""
    record_name = cache.ledger.name(stage.key, record.shard)
    if record.fingerprint != stage.fingerprint:
        yield record_name, "fingerprint"
    damaged = False
    for name, sealed in record.objects.items():
        if kind := _object_problem(cache.storage, name, sealed):
            damaged = True
            yield name, kind
    if record.num_rows != len(cache.shard_rows(record.shard)):
        yield record_name, "rows"
    elif not damaged:
        try:
            contents = ShardContents(cache, stage, record)
        except KeyError:
            yield record_name, "rows"
            return
        yield from ((_object_of(record, array), kind) for array, kind in contents.problems())
        yield from ((_object_of(record, array), "zeros") for array in contents.zeros())


def _object_of(record: Record, array: str) -> str:
    """The sealed object that holds an array; the array's name where the record lists none."""
    return next((name for name in record.objects if f"/{array}/" in name), array)


def _object_problem(storage: Storage, name: str, sealed: SealedObject) -> str:
    """What is wrong with one object, or nothing."""
    try:
        size, digest = storage.digest(name)
    except FileNotFoundError:
        return "missing"
    if size != sealed.size:
        return "size"
    return "" if digest == sealed.xxh3_128 else "checksum"
