"""Compares the frames of an old cache with its videos, and upgrades the cache. This is the command `kinegraph verify
--frames`. Imports no torch.

An upgrade has four steps. Each can be repeated, so an upgrade that was killed goes on where it stopped.

1. It writes a verdict for each shard, which says what has to change in the shard.
2. It sets the key `upgrading` in cache.json. From then on no other command opens the cache.
3. It changes clips.parquet, the ledger records and the documents of the stages.
4. It writes cache.json with the options of the latest rules and without `upgrading`, and removes the verdicts.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import CLIPS, SCHEMA_VERSION, UPGRADE_SCHEMA_VERSION, status_array
from kinegraph.cache_schemas.cache import MANIFEST, Cache
from kinegraph.cache_schemas.clips_table import ClipRow, ClipsTable
from kinegraph.cache_schemas.documents import RESTORE, parsed
from kinegraph.cache_schemas.errors import CacheError
from kinegraph.cache_schemas.fingerprint import fingerprint
from kinegraph.cache_schemas.sealed_rows import require_rows
from kinegraph.cache_schemas.stage import Stage
from kinegraph.pipeline.caches.clip_rules import rules_of
from kinegraph.pipeline.shards.contents import recorded_status
from kinegraph.pipeline.shards.leases import alone, require_alone
from kinegraph.pipeline.shards.sealing import write_and_seal
from kinegraph.pipeline.shards.taking_over import OnProgress, unheard
from kinegraph.pipeline.upgrading.comparing import (
    Comparer,
    Timing,
    Verdict,
    is_latest,
    latest_options,
    made_from_clips,
    record_digest,
)
from kinegraph.stages.clips.stage import clips_options
from kinegraph.stages.decode.wanted import LATEST_RULES
from kinegraph.stages.remote.options import StagingOptions
from kinegraph.stages.remote.staging import Staging

VERDICTS = "upgrade"
LEASE_SECONDS = 60.0
MAX_NAMED = 20  # clips of each kind in a report
ADVICE = "Remove it and repeat the command."


class VerdictMissing(CacheError):
    """An upgrade that was stopped cannot go on, because one of its files is missing. The file is a verdict, which says
    what has to change in a shard.
    """


@dataclass(kw_only=True)
class FrameReport:
    """The result of comparing the frames in a cache with the frames that the latest rules choose from its videos. A
    clip is `same`, `retimed` (the same frames at other times), `differ` (other frames) or `unread` (its video cannot be
    read). A shard has the worst result of its clips: `unread`, then `differ`, then `retimed`, then `same`.
    """

    # `cache`, `num_shards`: the path of the cache, and the number of its shards
    cache: str
    # The version of the stage `clips` before an upgrade. If it is the latest version, nothing was compared.
    version: int
    num_shards: int
    upgraded: bool = False  # whether the cache was upgraded after the comparison
    dropped: bool = False  # true if the user asked to count unread clips as different, and there were unread clips
    # Result -> number of shards
    shards: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("same", "retimed", "differ", "unread"), 0))
    # Result -> number of clips, without `same`
    clips: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("retimed", "differ", "unread"), 0))
    differing: dict[str, str] = field(default_factory=dict)  # clip_id -> message, for a few clips with other frames
    # clip_id -> message, for a few clips whose video cannot be read
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def is_latest(self) -> bool:
        return self.version == LATEST_RULES

    @property
    def ok(self) -> bool:
        """Returns whether no problem is left. Returns True if the cache was upgraded, or if no shard has the result
        `differ` or `unread`.
        """
        return self.upgraded or not (self.shards["differ"] or self.shards["unread"])

    def add(self, verdict: Verdict) -> None:
        self.dropped |= verdict.dropped
        kinds = {"unread": verdict.unread, "differ": verdict.differing, "retimed": verdict.retimed}
        self.shards[next((kind for kind, clips in kinds.items() if clips), "same")] += 1
        for kind, clips in kinds.items():
            self.clips[kind] += len(clips)
        for named, words in ((self.differing, verdict.differing), (self.unread, verdict.unread)):
            named |= dict([*words.items()][: max(0, MAX_NAMED - len(named))])

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "ok": self.ok,
            "clips_version": self.version,
            "upgraded": self.upgraded,
            "shards": self.shards,
            "clips": self.clips,
            "differing": self.differing,
            "unread": self.unread,
        }


def compare_frames(root: Path | str, on_progress: OnProgress = unheard) -> FrameReport:
    """Compares the frames of a cache with the frames that the latest rules choose from its videos, and returns a
    FrameReport. Nothing is written. `on_progress` is called with (name of the step, shards done, all shards) after each
    shard.

    Raises CacheNotFound if there is no cache at `root`, and CacheError if a document of the cache is damaged. Raises
    CacheMismatch if an upgrade of the cache was begun and not finished.
    """
    cache = Cache(root)
    report = _report(cache)
    if not is_latest(cache):
        for verdict in _verdicts(cache, drop_unread=False, keep=False, on_progress=on_progress):
            report.add(verdict)
    return report


def upgrade(root: Path | str, *, drop_unread: bool = False, on_progress: OnProgress = unheard) -> FrameReport:
    """Upgrades a cache whose frames were chosen by earlier rules. A shard stays done if the latest rules choose the
    same frames. All other shards are marked as not done, so that `extract` computes them again. Returns a FrameReport.

    If the video of an extracted clip cannot be read, the cache is not changed. If `drop_unread` is true, such clips do
    not stop the upgrade, and their shards are marked as not done. `on_progress` is called with (name of the step,
    shards done, all shards).

    Raises AnotherRunError if another run works on the cache. Raises CacheNotFound if there is no cache at `root`, and
    CacheError if a document of the cache is damaged.
    """
    cache = Cache(root, half_upgraded=True)
    cache.storage.sweep()
    if is_latest(cache) and not any(cache.storage.names(VERDICTS)):
        return _report(cache)
    with alone(cache.storage, LEASE_SECONDS):  # what another upgrade did meanwhile is read anew
        return _upgrade(Cache(root, half_upgraded=True), drop_unread=drop_unread, on_progress=on_progress)


def _upgrade(cache: Cache, *, drop_unread: bool, on_progress: OnProgress) -> FrameReport:
    report = _report(cache)
    if is_latest(cache):  # the upgrade was stopped at its very end
        _remove_verdicts(cache)
        return report
    if cache.manifest["upgrading"]:
        for verdict in map(partial(_read, cache), range(cache.num_shards)):
            report.add(verdict)
    else:
        for verdict in _verdicts(cache, drop_unread=drop_unread, keep=True, on_progress=on_progress):
            report.add(verdict)
        if report.shards["unread"]:
            return report
    _apply(cache, on_progress)
    report.upgraded = True
    return report


def _report(cache: Cache) -> FrameReport:
    require_rows(cache)
    return FrameReport(cache=cache.root, version=rules_of(cache), num_shards=cache.num_shards)


def _verdicts(cache: Cache, *, drop_unread: bool, keep: bool, on_progress: OnProgress) -> Iterator[Verdict]:
    """Yields a Verdict for each shard, in the order of the shards. A Verdict says what an upgrade has to change in the
    shard.

    drop_unread: whether a clip whose video cannot be read counts as a clip with other frames.
    keep: whether verdicts are stored in the cache, and stored verdicts of an earlier call are used. A verdict on a
        shard with an unread clip is not stored. If false, nothing is written.
    on_progress: is called with (name of the step, shards done, all shards) after each shard.
    """
    threads = os.cpu_count() or 1
    with Staging(StagingOptions()) as staging, stopping.threads(threads, "compare") as pool:
        comparer = Comparer.of(cache, staging)

        def compared(shard: int) -> Verdict:
            if keep and (kept := _kept(cache, comparer, shard)) is not None and (drop_unread or not kept.dropped):
                return kept
            verdict = comparer.verdict(shard, drop_unread=drop_unread)
            if keep and not verdict.unread:
                cache.storage.put(_name(shard), [verdict.model_dump_json().encode()])
            return verdict

        try:
            yield from _in_order(pool, compared, cache.num_shards, on_progress)
        finally:
            comparer.stopping.set()


def _in_order(
    pool: ThreadPoolExecutor, compared: Callable[[int], Verdict], num_shards: int, on_progress: OnProgress
) -> Iterator[Verdict]:
    """Yields `compared(shard)`, the verdict on a shard, for each shard number from 0 to `num_shards` - 1, in this
    order. The threads of `pool` compute a few shards ahead.

    `on_progress` is called with (name of the step, shards done, `num_shards`) after each shard.
    """
    under_way: deque[Future[Verdict]] = deque()
    ahead, begun = 4 * (os.cpu_count() or 1), 0  # not all at once, because a verdict may take 100 kB
    for done in range(1, num_shards + 1):
        while begun < num_shards and len(under_way) < ahead:
            under_way.append(pool.submit(compared, begun))
            begun += 1
        verdict = stopping.result(under_way.popleft())
        on_progress("comparing frames, in shards", done, num_shards)
        yield verdict


def _name(shard: int) -> str:
    return f"{VERDICTS}/{shard:06d}.json"


def _read(cache: Cache, shard: int) -> Verdict:
    where = f"{cache.root}/{_name(shard)}"
    try:
        return parsed(where, cache.storage.get(_name(shard)), Verdict, ADVICE)
    except FileNotFoundError:
        raise VerdictMissing(f"{where} is gone, and without it the upgrade cannot go on. {RESTORE}") from None


def _kept(cache: Cache, comparer: Comparer, shard: int) -> Verdict | None:
    """Returns the Verdict on shard number `shard` that an earlier, stopped upgrade has stored. Returns None if there is
    none, or if the shard has changed since.
    """
    try:
        verdict = _read(cache, shard)
    except VerdictMissing:
        return None
    return verdict if verdict.of == comparer.state(shard) else None


def _apply(cache: Cache, on_progress: OnProgress) -> None:
    """Changes the cache as the stored verdicts say, and then removes the verdicts. A verdict says what an upgrade has
    to change in one shard. If the process is killed, the function can be called again.

    `on_progress` is called with (name of the step, shards done, all shards) after each shard. Raises AnotherRunError if
    another run works on the cache.
    """
    manifest = json.loads(cache.storage.get(MANIFEST))
    require_alone(cache.storage)
    if "upgrading" not in manifest:
        _put_manifest(cache, manifest | {"upgrading": True, "schema_version": UPGRADE_SCHEMA_VERSION})
        require_alone(cache.storage)  # from now on, a run that takes a lease sees that an upgrade is under way
    _rewrite_rows(cache)
    stages = {stage.key: stage for stage in _upgraded_stages(cache)}
    for shard in stopping.checked(range(cache.num_shards)):
        _apply_to_shard(cache, _read(cache, shard), stages)
        on_progress("upgrading shards", shard + 1, cache.num_shards)
    for stage in stages.values():
        content = json.dumps(stage.document(), indent=1, sort_keys=True).encode()
        cache.storage.put(cache.stage_name(stage.key), [content])
    options = clips_options(latest_options(cache))
    latest = manifest | {"clips": options, "clips_digest": fingerprint(options), "schema_version": SCHEMA_VERSION}
    _put_manifest(cache, {key: value for key, value in latest.items() if key != "upgrading"})
    _remove_verdicts(cache)


def _put_manifest(cache: Cache, manifest: dict[str, Any]) -> None:
    cache.storage.put(MANIFEST, [json.dumps(manifest, indent=1, sort_keys=True).encode()])


def _remove_verdicts(cache: Cache) -> None:
    for name in [*cache.storage.names(VERDICTS)]:
        cache.storage.delete(name)


def _rewrite_rows(cache: Cache) -> None:
    """Writes clips.parquet again with the new values of rows that the verdicts change. Writes nothing if no row
    changes.
    """
    rows = list(cache.clips.rows())
    is_changed = False
    for shard in stopping.checked(range(cache.num_shards)):
        if changed := _read(cache, shard).rows:
            is_changed = True
            for row_index in cache.shard_rows(shard):
                if rows[row_index].clip_id in changed:
                    rows[row_index] = _rewritten(rows[row_index], changed[rows[row_index].clip_id])
    if is_changed:
        ClipsTable.from_rows(rows).write(cache.storage)


def _rewritten(row: ClipRow, timing: Timing | None) -> ClipRow:
    if timing is not None:
        return replace(row, **dict(timing))
    nan = float("nan")
    return replace(
        row, start_seconds=nan, end_seconds=nan, target_times=(), crop=(nan,) * 4, frame_width=0, frame_height=0
    )


def _upgraded_stages(cache: Cache) -> Iterator[Stage]:
    """Yields the stages of `cache` that are made from videos, as they are after the upgrade: with the options of the
    latest rules. A stage that has these options already is yielded unchanged.
    """
    now: dict[str, str] = {}
    for key, stage in made_from_clips(cache).items():
        reads = {read: now.get(read, old) for read, old in stage.reads.items()}
        options = clips_options(latest_options(cache)) if key == CLIPS else {**stage.options, "reads": reads}
        latest = stage
        if options != stage.options:
            latest = replace(stage, options=options, upgraded_from=stage.fingerprint)
        now[key] = latest.fingerprint
        yield latest


def _apply_to_shard(cache: Cache, verdict: Verdict, stages: dict[str, Stage]) -> None:
    """Changes one shard as `verdict` says. `stages` maps the key of each stage to the stage as it is after the upgrade.

    Removes the ledger records of stages that have to be computed again. Writes the fingerprint of the latest rules into
    the other records of these stages. A record that was sealed after the verdict was made is removed, too.
    """
    for key in reversed(verdict.reopened):
        cache.ledger.unseal(key, verdict.shard)
    for key, stage in stages.items():
        if key in verdict.reopened:
            continue
        if key == CLIPS and verdict.frame_times is not None:
            _retime(cache, verdict, stage)
            continue
        record = cache.ledger.read(key, verdict.shard)
        if record is None or record.fingerprint != stage.upgraded_from:
            continue
        if record_digest(record) == verdict.judged.get(key):
            cache.ledger.restamp(record, stage.fingerprint)
        else:  # the shard was sealed after its verdict
            cache.ledger.unseal(key, verdict.shard)


def _retime(cache: Cache, verdict: Verdict, stage: Stage) -> None:
    """Writes the frame times of the stage `clips` for one shard again, and seals the shard. `verdict` has the shard
    number and the new times. `stage` is the stage `clips` as it is after the upgrade.

    Does nothing if an upgrade that was stopped has done it already.
    """
    assert verdict.frame_times is not None
    assert verdict.clips is not None
    sealed = cache.ledger.read(stage.key, verdict.shard)
    if sealed is not None and sealed.fingerprint == stage.fingerprint:
        return
    cache.ledger.unseal(stage.key, verdict.shard)
    (spec,) = stage.arrays
    times = spec.empty(len(verdict.frame_times))
    for row_index, of_row in enumerate(verdict.frame_times):
        if of_row is not None:
            times[row_index] = np.array(of_row)
    status = recorded_status(verdict.clips, cache.clip_ids(verdict.shard))
    record = verdict.clips.upgraded(stage.fingerprint)
    write_and_seal(cache, record, [(spec, times), (status_array(stage.key), status)])
