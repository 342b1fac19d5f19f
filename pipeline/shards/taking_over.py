"""Writes and seals shards whose values come from another cache or from files of other tools. Imports no torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.ledger import Record
from kinegraph.pipeline.shards.leases import Leases, NoLeases, leases_on
from kinegraph.pipeline.shards.revisiting import revisit
from kinegraph.pipeline.shards.sealing import ShardRows, write_and_seal

LEASE_SECONDS = 300.0
Prepare = Callable[[int, Sequence[str]], Iterator[tuple[Record, ShardRows]]]  # shard, keys -> record and rows of each
OnProgress = Callable[[str, int, int], None]  # what, done, total


def unheard(what: str, done: int, total: int) -> None:
    """Ignores the progress of a long step. This function is the default of arguments `on_progress`."""


def fill(cache: Cache, missing: Mapping[int, Sequence[str]], prepare: Prepare, on_progress: OnProgress) -> None:
    """Writes the shards in `missing` and seals them, which means that they are marked as done. `missing` is {shard
    number: keys of the stages to write}.

    `prepare` is called with a shard number and its keys, and yields (ledger record, rows) for each key. A shard is
    leased while it is written. Shards that another run has leased are tried again at the end. A killed call can be
    repeated. `on_progress` is called with ("sealing shards", shards done, all shards).
    """
    done = 0

    def one_pass(shards: Iterable[int]) -> list[int]:
        nonlocal done
        leased = []
        for shard in stopping.checked(shards):
            if _fill_shard(cache, leases, shard, missing[shard], prepare):
                done += 1
                on_progress("sealing shards", done, len(missing))
            else:
                leased.append(shard)
        return leased

    with closing(leases_on(cache.storage, LEASE_SECONDS)) as leases:
        revisit(missing, one_pass)


def _fill_shard(cache: Cache, leases: Leases | NoLeases, shard: int, keys: Sequence[str], prepare: Prepare) -> bool:
    """Seals the stages `keys` of one shard, with the ledger records and rows that `prepare` yields. Returns whether all
    of them are sealed now. If not, another run works on the shard.
    """
    if not leases.take(shard, tuple(keys)):
        return False
    try:
        unsealed = [key for key in keys if not cache.ledger.has(key, shard)]
        for record, rows in prepare(shard, unsealed):
            if not leases.is_ours(shard) or write_and_seal(cache, record, rows) is None:
                return False
    finally:
        leases.release(shard)
    return True
