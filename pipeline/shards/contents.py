"""Reads all rows of a finished shard and checks their values. Imports no torch."""

from collections.abc import Iterator, Sequence

import numpy as np

from kinegraph.cache_schemas.arrays import (
    MAY_HOLD_NAN,
    STATUS_FAILED,
    STATUS_OK,
    STATUS_WARNED,
    ArraySpec,
    status_array,
)
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.ledger import Record
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.kinds import KINDS


class ShardContents:
    """All rows of one finished shard of one stage. The objects of the shard must be undamaged. `record` is its ledger
    record.

    rows: array name -> rows of the array.
    ok: bool [rows], true for each row whose clip did not fail.
    undecodable: the names of arrays that cannot be decoded to the right number of rows.

    Raises KeyError if the record names a clip that is not in the shard.
    """

    def __init__(self, cache: Cache, stage: Stage, record: Record) -> None:
        rows = cache.shard_rows(record.shard)
        self.status = recorded_status(record, cache.clip_ids(record.shard))
        self.ok = self.status != STATUS_FAILED
        self.stage = stage
        self.kind = KINDS.get(stage.key.partition("/")[0])  # None if another version made the cache
        self.rows: dict[str, np.ndarray] = {}
        self.undecodable: list[str] = []
        for spec in (*stage.arrays, status_array(stage.key)):
            try:
                view = cache.store.open_shard(spec, record.shard)
                self.rows[spec.name] = np.stack(list(cache.store.rows([(view, n) for n in range(len(rows))])))
            except (ValueError, FileNotFoundError):
                self.undecodable.append(spec.name)

    def _ok_floats(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (array name, rows of clips that did not fail) for each float array of the shard, except arrays in
        which NaN is a normal value.
        """
        for name, rows in self.rows.items():
            if rows.dtype.kind == "f" and name not in MAY_HOLD_NAN:
                yield name, rows[self.ok]

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields (name of the array, kind of the problem) for every array whose values cannot be right.

        A kind is one word. For example, `non_finite` means NaN or infinity. `fill` means that rows of failed clips do
        not hold the fill value. `status` means that the values contradict the ledger record.
        """
        yield from ((name, "shape") for name in self.undecodable)
        yield from ((name, "non_finite") for name, rows in self._ok_floats() if not np.isfinite(rows).all())
        yield from ((spec.name, "fill") for spec in self.stage.arrays if not self._is_filled(spec))
        name = f"status/{self.stage.key}"
        if name in self.rows and (self.rows[name] != self.status).any():
            yield name, "status"
        if self.kind is not None and not self.undecodable:
            yield from self.kind.problems({name: rows[self.ok] for name, rows in self.rows.items()})

    def _is_filled(self, spec: ArraySpec) -> bool:
        """Returns whether all rows of failed clips hold the fill value of the array `spec`."""
        rows = self.rows.get(spec.name)
        return rows is None or np.array_equal(rows[~self.ok], spec.empty(int((~self.ok).sum())), equal_nan=True)

    def zeros(self) -> Iterator[str]:
        """Yields the names of float arrays in which a row is all zero although its clip did not fail. A row of zeros is
        possible but rarely right. Arrays in which the stage often writes zeros are not yielded.
        """
        may_be_zero = self.kind.may_be_zero(self.stage) if self.kind is not None else ()
        all_zero = (name for name, rows in self._ok_floats() if not rows.any(tuple(range(1, rows.ndim))).all())
        return (name for name in all_zero if name not in may_be_zero)


def recorded_status(record: Record, clip_ids: Sequence[str]) -> np.ndarray:
    """Returns the status of each row of a shard, uint8 [rows]. A status is STATUS_OK, STATUS_WARNED or STATUS_FAILED,
    as the ledger record of the shard states it.

    `clip_ids` are the ids of the clips in the rows of the shard. Raises KeyError if the record names a clip that is not
    in `clip_ids`.
    """
    numbers = {clip_id: number for number, clip_id in enumerate(clip_ids)}
    status = np.full(len(clip_ids), STATUS_OK, dtype=np.uint8)
    status[[numbers[warned.clip_id] for warned in record.warnings]] = STATUS_WARNED
    status[[numbers[failure.clip_id] for failure in record.failures]] = STATUS_FAILED
    return status
