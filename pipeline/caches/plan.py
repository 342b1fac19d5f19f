"""Makes the plan of an extraction, which lists the shards and stages that have to be computed. Imports no torch."""

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from kinegraph.cache_schemas.arrays import CLIPS, status_array
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.documents import shortened
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.sealed_rows import sealed_records, sealed_shards
from kinegraph.cache_schemas.words import counted
from kinegraph.pipeline.caches.agreement import require_same_stage
from kinegraph.pipeline.caches.changes import Changed, changed_files, changed_videos
from kinegraph.pipeline.caches.declared import Declared, declare, known_digests
from kinegraph.pipeline.caches.own_files import check_own_files_of
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.stages.clips.stage import clips_options

MAX_DIGITS = 10  # digits of I and N in --shards


@dataclass(frozen=True, kw_only=True)
class WorkUnit:
    """One piece of work of an extraction: the shard number `shard`, and the stages `keys` to write for it, in the order
    in which they run.

    With `--retry-failed`, `reopened` has the ledger records of the stages whose failed clips are computed again. The
    values of the other clips are copied from the finished shard.
    """

    shard: int
    keys: tuple[str, ...]
    reopened: tuple[Record, ...] = ()

    @property
    def retried(self) -> frozenset[str] | None:
        """Returns the ids of the clips that this work unit computes again. Returns None if it computes all clips of its
        shard.
        """
        if len(self.reopened) < len(self.keys):
            return None
        return frozenset(failure.clip_id for record in self.reopened for failure in record.failures)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work that an extraction has to do."""

    declared: Declared  # all stages of the config
    keys: tuple[str, ...]  # the keys of the stages that the plan covers
    shards: range | tuple[int, ...]  # the numbers of the shards that the plan covers
    units: tuple[WorkUnit, ...]  # the work units. Each has a shard, and the keys of the stages to compute for it.
    # Keys of stages whose option `weights` differs from that in the cache. Two names may mean the same weights, so the
    # options cannot be compared before the networks are built. Stages that read such a stage are unchecked, too.
    unchecked: tuple[str, ...] = ()
    # Shard number -> ids of the videos that changed since the shard was extracted. All stages of such a shard run
    # again.
    changed: Changed = field(default_factory=dict)
    # Stage key -> shard number -> ids of the videos whose file of boxes or scene graphs changed. For such a shard, the
    # stage and the stages made from it run again.
    changed_files: dict[str, Changed] = field(default_factory=dict)

    @property
    def keys_to_run(self) -> tuple[str, ...]:
        """Returns the keys of all stages that may have to run: those of the work units, and those in `unchecked`."""
        chosen = {key for unit in self.units for key in unit.keys}.union(self.unchecked)
        return tuple(key for key in self.keys if key in chosen)

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as a dict for JSON. It has the numbers of done and missing shards of each stage, the keys of
        the stages in `unchecked`, and the videos that have changed.
        """
        missing = Counter(key for unit in self.units for key in unit.keys)
        shards = {key: {"done": len(self.shards) - missing[key], "missing": missing[key]} for key in self.keys}
        return {"schema": 1, "stages": shards, "unchecked": list(self.unchecked), "changed": self.changed_videos}

    @property
    def changed_videos(self) -> list[str]:
        """Returns the ids of all videos that changed, or whose file of boxes or scene graphs changed, sorted."""
        changes = (self.changed, *self.changed_files.values())
        return sorted({video for found in changes for videos in found.values() for video in videos})

    def num_objects(self, cache: Cache) -> int:
        """Returns the number of objects (files) that the extraction will write, including the ledger records."""
        stages = self.declared.stages
        per_key = {key: cache.store.objects_per_shard(len(stages[key].arrays) + 1) + 1 for key in stages}
        return sum(per_key[key] for unit in self.units for key in unit.keys)

    def num_bytes(self, cache: Cache) -> int:
        """Returns the size in bytes of the arrays that the extraction will write, before compression."""
        stages = self.declared.stages
        row = {key: sum(s.row_bytes for s in (*stages[key].arrays, status_array(key))) for key in stages}
        return sum(row[key] * len(cache.shard_rows(unit.shard)) for unit in self.units for key in unit.keys)


def make_plan(
    config: Config,
    cache: Cache,
    *,
    stages: Sequence[str] = (),
    part: tuple[int, int] = (0, 1),
    limit: int | None = None,
    retry_failed: bool = False,
) -> Plan:
    """Returns the Plan of an extraction: the work units that `kinegraph extract` would run with `config` and `cache`.

    `stages` are stage keys, or kinds such as "features". By default all stages are planned. `part` (I, N) plans only
    the shards I, I + N, I + 2 N, ... `limit` plans only the shards of the first `limit` rows. If `retry_failed` is
    true, failed clips are computed again.

    Raises CacheMismatch if the cache holds a stage made with other options. Raises ConfigError for an unknown stage, or
    if two videos would read the same file of boxes or scene graphs.
    """
    declared = declare(config, known_digests(config, cache), cache)
    keys = tuple(_with_needed(declared.selected(tuple(stages)), declared))
    if CLIPS in keys:  # all but stages that are made from imported rows alone
        cache.check_clips(clips_options(config.clips))
    cache.check_layout(config.store.model_dump())
    check_own_files_of(config, cache)
    unchecked = []
    for key in declared.with_read(keys):
        if declared.known(key):
            require_same_stage(cache, declared.stages[key])
        elif cache.has_stage(key):
            unchecked.append(key)
    num_shards = cache.num_shards if limit is None else min(cache.num_shards, -(-limit // cache.shard_clips))
    shards = range(part[0], num_shards, part[1])
    sealed = {key: set(sealed_shards(cache, key)) for key in keys}
    changed, files = changed_videos(cache, shards, retry_failed), changed_files(config, cache, shards)
    failed = _with_failures(cache, declared, keys, shards) if retry_failed else {}
    made_from = {key: {*declared.with_readers([key])} for key in files}
    units = []
    for shard in shards:
        reread = [made_from[key] for key, found in files.items() if shard in found]
        again = {key for key in keys if shard in changed or any(key in found for found in reread)}
        missing = {key for key in keys if key in again or shard not in sealed[key]}
        reopened = tuple(record for record in failed.get(shard, ()) if record.key not in again)
        if shard in changed:
            reopened = ()
        missing |= {record.key for record in reopened}
        if missing:
            in_order = tuple(key for key in declared.stages if key in missing)
            units.append(WorkUnit(shard=shard, keys=in_order, reopened=reopened))
    _require_imported(cache, declared, units, changed)
    touched = {*keys} | {key for unit in units for key in unit.keys}
    keys = tuple(key for key in declared.stages if key in touched)
    return Plan(
        declared=declared,
        keys=keys,
        shards=shards,
        units=tuple(units),
        unchecked=tuple(unchecked),
        changed=changed,
        changed_files=files,
    )


def _with_failures(
    cache: Cache, declared: Declared, keys: Sequence[str], shards: Container[int]
) -> dict[int, list[Record]]:
    """Returns shard number -> the ledger records whose failed clips `--retry-failed` computes again. Only the shards in
    `shards` are read.

    These are the records with a failed clip of the stages `keys`. A record of a stage that is made from one of `keys`
    is included if the same clip failed in both stages. `declared` has the stages of the config.
    """
    records_of: dict[int, list[Record]] = {}
    retried: dict[int, set[str]] = {}
    for key in declared.stages:
        reads = {*declared.with_read([key])} - {CLIPS, key}
        for record in sealed_records(cache, key, shards) if key in keys or reads & {*keys} else ():
            clips = {failure.clip_id for failure in record.failures}
            if clips and (key in keys or clips & retried.get(record.shard, set())):
                records_of.setdefault(record.shard, []).append(record)
                retried.setdefault(record.shard, set()).update(clips)
    return records_of


def _with_needed(keys: Sequence[str], declared: Declared) -> list[str]:
    """Returns the stage keys that a plan has to cover: `keys`, and the keys of the stages in `declared` that they are
    made from.

    Two kinds of stages are left out. Imported stages are never computed. Stages that pass their arrays on in memory run
    together with the stages that read them, so they are covered only if they are in `keys`.
    """
    needed = declared.with_read(keys or [CLIPS])
    return [key for key in needed if key not in declared.imported and (key in keys or not declared.handed_on(key))]


def _require_imported(cache: Cache, declared: Declared, units: Sequence[WorkUnit], changed: Changed) -> None:
    """Raises CacheMismatch if a work unit reads an imported stage that is not sealed in the unit's shard. Raises it
    also if a video of the shard has changed since the import. `declared` says which stages are imported. `changed` maps
    shard numbers to the ids of changed videos.
    """
    for key in sorted(declared.imported):
        sealed, readers = {*sealed_shards(cache, key)} - changed.keys(), {*declared.with_readers([key])}
        shards = [unit.shard for unit in units if readers.intersection(unit.keys)]
        if absent := [shard for shard in shards if shard not in sealed]:
            raise CacheMismatch(
                f"{cache.root}: the imported {key} of shard {absent[0]} ({counted(len(absent), 'shard')} in all) "
                "are not sealed, or a video changed. Run `kinegraph import` again, then this command."
            )


def parse_part(text: str) -> tuple[int, int]:
    """Parses the text `I/N` of the option `--shards` and returns (I, N). Raises ConfigError unless 0 <= I < N."""
    index, separator, count = text.partition("/")
    numbers = all(part.isdecimal() and len(part) < MAX_DIGITS for part in (index, count))
    if not (separator and numbers and int(index) < int(count)):
        raise ConfigError(f"--shards {shortened(text)}: expected I/N with 0 <= I < N, for example 0/4")
    return int(index), int(count)


def why(config: Config, cache: Cache) -> dict[str, list[str] | None]:
    """Compares the stages of the config with those of the cache. Returns stage key -> list of lines. There is one line
    (`option: value in the cache -> value in the config`) for each option that differs.

    If no option differs, the list is empty. If the cache does not have the stage, there is None in place of a list.
    Imported stages are not compared.
    """
    declared = declare(config, known_digests(config, cache), cache)
    return {
        key: cache.stage_differences(stage) if cache.has_stage(key) else None
        for key, stage in declared.stages.items()
        if key not in declared.imported
    }
