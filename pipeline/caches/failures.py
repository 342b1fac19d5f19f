"""Lists all failed clips of a cache, for `kinegraph status --failed`. Reads the ledger one shard at a time. Imports no
torch.
"""

import heapq
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import video_of
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.sealed_rows import records_of
from kinegraph.pipeline.caches.kept_summaries import KeptSummaries

UPSTREAM = "upstream"


@dataclass(frozen=True, kw_only=True)
class FailedClip:
    """One failed clip, with one reason."""

    # `video`, `clip`: the ids of the video and the clip
    video: str
    clip: str
    stages: tuple[str, ...]  # the keys of the stages in which the clip failed for this reason
    reason: str  # one word, such as "timeout"
    words: str  # the full message

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def failed_clips(cache: Cache) -> Iterator[FailedClip]:
    """Yields a FailedClip for each failed clip and reason, shard by shard, sorted by clip id within a shard. If a clip
    failed in several stages with the same message, one FailedClip lists all these stages.

    The reason `upstream` means that the clip failed in a stage that this stage reads. It is left out if the clip has
    another reason, too.
    """
    kept, keys = KeptSummaries(cache), cache.stage_keys()
    of_stages = [_numbered(cache, kept, key_index, key) for key_index, key in enumerate(keys)]
    kept.write()
    in_order = heapq.merge(*of_stages, key=lambda entry: entry[:2])
    for _, entries in stopping.checked(groupby(in_order, lambda entry: entry[0])):
        yield from _of_shard([record for *_, record in entries])


def _numbered(cache: Cache, kept: KeptSummaries, key_index: int, key: str) -> Iterator[tuple[int, int, Record]]:
    """Returns an iterator over (number of the shard, `key_index`, record) for each ledger record of the stage `key`
    that has a failure, in the order of the shards. `key_index` is the position of `key` among the stage keys of the
    cache.
    """
    cache.stage(key)  # raises if the document is damaged or of a later version
    shards = [shard for shard, summary in kept.summaries(key).items() if summary.failed]
    return ((record.shard, key_index, record) for record in records_of(cache, key, shards))


def _of_shard(records: list[Record]) -> Iterator[FailedClip]:
    stages: dict[tuple[str, str, str], list[str]] = {}
    for record in records:
        for failure in record.failures:
            stages.setdefault((failure.clip_id, failure.reason, failure.detail), []).append(record.key)
    with_own_reason = {clip for clip, reason, _ in stages if reason != UPSTREAM}
    for (clip, reason, words), keys in sorted(stages.items(), key=lambda entry: entry[0]):
        if reason != UPSTREAM or clip not in with_own_reason:
            yield FailedClip(video=video_of(clip), clip=clip, stages=tuple(keys), reason=reason, words=words)
