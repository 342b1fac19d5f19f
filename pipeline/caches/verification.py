"""Checks that the files of all finished shards are undamaged and that their values are plausible, for `kinegraph
verify`. Imports no torch.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.annotations import ANNOTATIONS, has_windows, read_annotations
from kinegraph.cache_schemas.arrays import status_array
from kinegraph.cache_schemas.cache import CLASSES, DATASET, LABELS, MANIFEST, Cache
from kinegraph.cache_schemas.clips_table import TABLE, ClipsTable
from kinegraph.cache_schemas.data_set_documents import OF_DATA_SET, check_document
from kinegraph.cache_schemas.errors import (
    CacheError,
    CacheMismatch,
    CacheNotFound,
    CacheTooNew,
    StorageError,
    UnknownStorage,
)
from kinegraph.cache_schemas.index_documents import absent_documents
from kinegraph.cache_schemas.ledger import Record, SealedObject
from kinegraph.cache_schemas.regular import NotRegularError
from kinegraph.cache_schemas.sealed_rows import RowsMismatch, require_rows_of, sealed_shards
from kinegraph.cache_schemas.stage import Stage
from kinegraph.cache_schemas.storage import Storage
from kinegraph.pipeline.shards.contents import ShardContents
from kinegraph.stages.proposals.stage import proposals_per_frame


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One fault of a cache."""

    stage: str  # the key of the stage with the fault. It is "" if `kind` is "document".
    shard: int | None  # the number of the shard. It is None if `kind` is "metadata" or "document".
    object: str  # the name of the file or the array with the fault
    kind: str  # a word for the fault, such as "missing". docs/caches.md lists all kinds.
    detail: str = ""  # what is wrong and what to do, or ""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The result of `kinegraph verify`.

    - `problems`: all faults of the cache. If there are none, all finished shards have the bytes that were written, and
      their values are plausible.
    - `warnings`: values that are possible but rarely meant, such as zeros, and documents that earlier versions did not
      write.
    - `proposals_per_frame`: the mean number of boxes in a frame, or None if the cache has no boxes.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()
    proposals_per_frame: float | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        def listed(problems: tuple[Problem, ...]) -> list[dict[str, Any]]:
            return [{key: value for key, value in asdict(one).items() if value or key != "detail"} for one in problems]

        return {
            "ok": self.ok,
            "problems": listed(self.problems),
            "warnings": listed(self.warnings),
            "proposals_per_frame": self.proposals_per_frame,
        }


def verify(path: Path | str) -> Verification:
    """Checks all files of a cache: the existence, size, checksum, shape and values of the arrays, and the documents.
    Returns a Verification, which lists all problems. Files that no ledger record lists are ignored.

    Raises CacheNotFound if there is no cache at `path`, StorageError if its store cannot be reached, and CacheTooNew if
    a later version of kinegraph wrote it. Raises CacheMismatch if an upgrade of the cache was not finished.
    """
    try:
        cache = Cache(path)
    except (CacheNotFound, CacheMismatch, CacheTooNew, UnknownStorage, StorageError):
        raise
    except CacheError as error:
        return Verification(problems=(_document_problem(MANIFEST, error),))
    documents = list(_document_problems(cache))
    damaged = {problem.object for problem in documents}
    problems: list[Problem] = []
    if TABLE not in damaged:  # the table says which rows there are
        stages = [cache.stage(key) for key in cache.stage_keys() if cache.stage_name(key) not in damaged]
        try:
            for stage in stages:
                problems += [*_metadata_problems(cache, stage), *_stage_problems(cache, stage)]
        except RowsMismatch as error:  # shards cannot be checked against such rows
            problems, documents = [], [*documents, _document_problem(error.document, error)]
    absent = [_document_problem(name, words) for name, words in absent_documents(cache).items()]
    return Verification(
        problems=(*documents, *(problem for problem in problems if problem.kind != "zeros")),
        warnings=(*absent, *(problem for problem in problems if problem.kind == "zeros")),
        proposals_per_frame=None if documents else proposals_per_frame(cache),
    )


def _document_problems(cache: Cache) -> Iterator[Problem]:
    """Yields a Problem for each document of the cache that is missing or unreadable, such as clips.parquet or the
    document of a stage.

    Raises CacheTooNew if a later version of kinegraph wrote a document. Raises StorageError if the store of the cache
    cannot be reached.
    """
    readers: dict[str, Callable[[], object]] = {
        TABLE: lambda: ClipsTable.check(cache.storage),
        CLASSES: lambda: cache.classes,
        LABELS: lambda: cache.multi_label,
        DATASET: lambda: cache.dataset,
    }
    readers |= {name: partial(check_document, cache.storage, name) for name in OF_DATA_SET}
    if has_windows(cache):
        readers[ANNOTATIONS] = lambda: read_annotations(cache)
    readers |= {cache.stage_name(key): partial(cache.stage, key) for key in cache.stage_keys()}
    damaged: set[str] = set()

    def fit() -> None:
        if damaged.isdisjoint({TABLE, CLASSES}):
            cache.require_labels_of_classes()

    for name, read in [*readers.items(), (CLASSES, fit)]:
        try:
            read()
        except (CacheTooNew, StorageError):
            raise
        except CacheError as error:
            damaged.add(name)
            yield _document_problem(name, error)


def _document_problem(name: str, error: CacheError | str) -> Problem:
    return Problem(stage="", shard=None, object=name, kind="document", detail=str(error))


def repair(cache: Cache, problems: tuple[Problem, ...]) -> None:
    """Removes the ledger records of all shards with one of `problems`, so that the next extraction computes these
    shards again. Writes damaged metadata of arrays again.

    Documents, such as clips.parquet, cannot be repaired. If one of them is damaged, metadata is not repaired either.
    """
    has_documents = any(problem.kind == "document" for problem in problems)
    metadata = [problem.object for problem in problems if problem.kind == "metadata" and not has_documents]
    for name in metadata:
        cache.storage.delete(name)
    for problem in problems:
        if problem.shard is not None:
            cache.ledger.unseal(problem.stage, problem.shard)
    if metadata:
        cache.declare_arrays()


def shard_problems(cache: Cache, stage: Stage, record: Record) -> Iterator[tuple[str, str]]:
    """Checks one finished shard of `stage`. `record` is its ledger record. Yields (name of the file or array, kind of
    the problem, such as "missing") for every problem.
    """
    return (finding for finding in _shard_findings(cache, stage, record) if finding[1] != "zeros")


def _metadata_problems(cache: Cache, stage: Stage) -> Iterator[Problem]:
    """Yields a Problem for each metadata object of the arrays of `stage`, such as zarr.json, that is missing or wrong.
    Yields nothing if the stage has no sealed shard.
    """
    shards = _sealed(cache, stage.key)
    if shards:
        sealed = min((shards[-1] + 1) * cache.shard_clips, cache.num_rows)
        specs = (*stage.arrays, status_array(stage.key))
        for name in cache.store.misdeclared(specs, range(sealed, cache.num_rows + 1)):
            yield Problem(stage=stage.key, shard=None, object=name, kind="metadata")


def _sealed(cache: Cache, key: str) -> list[int]:
    """Returns the numbers of the sealed shards of the stage `key`. Shards with a damaged ledger record are included.

    Raises RowsMismatch if shards were sealed with other rows than clips.parquet has.
    """
    try:
        return sealed_shards(cache, key)
    except RowsMismatch:
        raise
    except CacheError:
        return cache.ledger.shards(key)


def _stage_problems(cache: Cache, stage: Stage) -> Iterator[Problem]:
    for shard in _sealed(cache, stage.key):
        try:
            record = cache.ledger.read(stage.key, shard)
        except CacheTooNew:
            raise
        except CacheError:
            record_name = cache.ledger.name(stage.key, shard)
            yield Problem(stage=stage.key, shard=shard, object=record_name, kind="record")
            continue
        if record is None:
            continue
        require_rows_of(cache, record)
        for name, kind in _shard_findings(cache, stage, record):
            yield Problem(stage=stage.key, shard=shard, object=name, kind=kind)


def _shard_findings(cache: Cache, stage: Stage, record: Record) -> Iterator[tuple[str, str]]:
    """Yields (name of the object, kind of the fault) for every fault of one sealed shard of `stage`. `record` is its
    ledger record. The kind is one word. "zeros" is only a warning, all other kinds are problems.

    The values are checked only if no object of the shard is missing or damaged.
    """
    record_name = cache.ledger.name(stage.key, record.shard)
    if record.fingerprint != stage.fingerprint:
        yield record_name, "fingerprint"
    damaged = False
    for name, sealed in stopping.checked(record.objects.items()):
        if kind := object_problem(cache.storage, name, sealed):
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
    """Returns the name of the object of a sealed shard that holds `array`. Returns `array` if the record lists no such
    object.
    """
    return next((name for name in record.objects if f"/{array}/" in name), array)


def require_whole(storage: Storage, record: Record, names: Iterable[str]) -> None:
    """Raises CacheError if one of the objects `names` is missing, or has another size or checksum than the ledger
    record `record` states.
    """
    for name in names:
        if kind := object_problem(storage, name, record.objects[name]):
            raise _damaged(f"{storage.root}/{name}", kind, record)


def whole_contents(cache: Cache, stage: Stage, record: Record) -> ShardContents:
    """Reads all rows of one finished shard of `stage`, after checking that its objects are undamaged. `record` is its
    ledger record. Raises CacheError if an object or the record is damaged.
    """
    require_rows_of(cache, record)
    require_whole(cache.storage, record, record.objects)
    where = f"{cache.root}/{cache.ledger.name(record.key, record.shard)}"
    if record.fingerprint != stage.fingerprint:
        raise _damaged(where, "fingerprint", record)
    if record.num_rows != len(cache.shard_rows(record.shard)):
        raise _damaged(where, "rows", record)
    try:
        contents = ShardContents(cache, stage, record)
    except KeyError as error:
        raise _damaged(where, "rows", record) from error
    for name in contents.undecodable:
        raise _damaged(f"{cache.root}: {name}", "shape", record)
    return contents


def _damaged(where: str, kind: str, record: Record) -> CacheError:
    return CacheError(
        f"{where} is damaged ({kind}; {record.key} shard {record.shard}). `kinegraph verify --repair` marks the "
        "shard as not done, so that the next extract computes it again."
    )


def object_problem(storage: Storage, name: str, sealed: SealedObject) -> str:
    """Compares the object `name` with `sealed`, the size and checksum that its ledger record states. Returns the first
    difference, "missing", "size" or "checksum", or "" if there is none.
    """
    try:
        size, digest = storage.digest(name)
    except (FileNotFoundError, NotRegularError):
        return "missing"
    if size != sealed.size:
        return "size"
    return "" if digest == sealed.xxh3_128 else "checksum"
