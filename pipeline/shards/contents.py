"""What a sealed shard says, against what its stage and its ledger record promise. Torch-free."""

from collections.abc import Iterator, Sequence

import numpy as np

from kinegraph.cache_schemas import stopping
from kinegraph.cache_schemas.arrays import GRAPH_TIMES, STATUS_FAILED, STATUS_OK, STATUS_WARNED, ArraySpec, status_array
from kinegraph.cache_schemas.cache import Cache, Stage
from kinegraph.cache_schemas.ledger import Record

Rows = dict[str, np.ndarray]
GRAPH_PARTS = ("times", "count", "objects", "linked", "relations")


class ShardContents:
    """All rows of one sealed shard of one stage; its objects must be whole.

    `undecodable` names the arrays that do not decode to the record's rows. Raises KeyError where the record names
    a clip that is not in the shard.
    """

    def __init__(self, cache: Cache, stage: Stage, record: Record) -> None:
        rows = cache.shard_rows(record.shard)
        self.status = recorded_status(record, cache.clip_ids(record.shard))
        self.ok = self.status != STATUS_FAILED
        self.stage = stage
        self.rows: Rows = {}
        self.undecodable: list[str] = []
        for spec in (*stage.arrays, status_array(stage.key)):
            try:
                view = cache.store.open_shard(spec, record.shard)
                self.rows[spec.name] = np.stack(list(cache.store.rows([(view, n) for n in range(len(rows))])))
            except (ValueError, FileNotFoundError):
                self.undecodable.append(spec.name)

    def _ok_floats(self) -> Iterator[tuple[str, np.ndarray]]:
        """Float arrays by name, their rows of clips that did not fail; without graphs/times, NaN where no graph is."""
        for name, rows in self.rows.items():
            if rows.dtype.kind == "f" and name != GRAPH_TIMES:
                yield name, rows[self.ok]

    def problems(self) -> Iterator[tuple[str, str]]:
        """(array, kind) of everything that the record does not allow."""
        yield from ((name, "shape") for name in self.undecodable)
        yield from ((name, "non_finite") for name, rows in self._ok_floats() if not np.isfinite(rows).all())
        yield from ((spec.name, "fill") for spec in self.stage.arrays if not self._is_filled(spec))
        name = f"status/{self.stage.key}"
        if name in self.rows and (self.rows[name] != self.status).any():
            yield name, "status"
        if self.stage.key == "proposals" and not self.undecodable:
            yield from _proposal_problems({name: rows[self.ok] for name, rows in self.rows.items()})
        if self.stage.key == "graphs" and not self.undecodable:
            yield from _graph_problems({name: rows[self.ok] for name, rows in self.rows.items()})

    def _is_filled(self, spec: ArraySpec) -> bool:
        """Whether the rows of failed clips hold the fill value."""
        rows = self.rows.get(spec.name)
        return rows is None or np.array_equal(rows[~self.ok], spec.empty(int((~self.ok).sum())), equal_nan=True)

    def zeros(self) -> Iterator[str]:
        """Float arrays with an all-zero row in a clip that is ok: possible, but seldom meant."""
        has_none = "scores" in self.stage.options or self.stage.options.get("source") == "grid"  # imported boxes, grids
        unscored = {"proposals/scores"} if has_none else set()
        all_zero = (name for name, rows in self._ok_floats() if not rows.any(tuple(range(1, rows.ndim))).all())
        return (name for name in all_zero if name not in unscored)


def recorded_status(record: Record, clip_ids: Sequence[str]) -> np.ndarray:
    """uint8 [rows]: how the rows of a shard fared, as its record says. Raises KeyError for a clip that is not there."""
    numbers = {clip_id: number for number, clip_id in enumerate(clip_ids)}
    status = np.full(len(clip_ids), STATUS_OK, dtype=np.uint8)
    status[[numbers[warned.clip_id] for warned in record.warnings]] = STATUS_WARNED
    status[[numbers[failure.clip_id] for failure in record.failures]] = STATUS_FAILED
    return status


def _proposal_problems(ok: Rows) -> Iterator[tuple[str, str]]:
    """`ok`: the rows of clips that did not fail; boxes [n, T, N, 4], scores [n, T, N], count [n, T]."""
    boxes, scores, count = (ok[f"proposals/{name}"] for name in ("boxes", "scores", "count"))
    places = np.arange(scores.shape[-1])
    if ((count < 0) | (count > len(places))).any():
        yield "proposals/count", "count"
        return
    within = places < count[..., None]
    falls = scores[..., 1:] <= scores[..., :-1]
    if not (falls | ~within[..., 1:]).all() or (scores[~within] != 0).any():
        yield "proposals/scores", "scores"
    if (boxes[~within] != 0).any():
        yield "proposals/boxes", "boxes"


def _graph_problems(ok: Rows) -> Iterator[tuple[str, str]]:
    """`ok`: rows of clips that did not fail; times, count [n, T], objects, linked [n, T, M], relations [n, T, M, R]."""
    times, count, objects, linked, relations = (ok[f"graphs/{name}"] for name in GRAPH_PARTS)
    places = np.arange(objects.shape[-1])
    if ((count < -1) | (count > len(places))).any():
        yield "graphs/count", "count"
        return
    if (np.isfinite(times) != (count >= 0)).any():
        yield "graphs/times", "times"
    within = places < count[..., None]
    if ((objects >= 0) != within).any():
        yield "graphs/objects", "objects"
    if (linked > within).any():
        yield "graphs/linked", "linked"
    if (relations > linked[..., None]).any():
        yield "graphs/relations", "relations"


def proposals_per_frame(cache: Cache) -> float | None:
    """Mean number of boxes over the frames of clips that did not fail; shards that cannot be read are left out."""
    if not cache.has_stage("proposals"):
        return None
    counts = [np.empty(0)]
    for shard in stopping.checked(cache.ledger.shards("proposals")):
        try:
            view = cache.store.open_shard(cache.array("proposals/count"), shard)
            rows = np.stack([view.row(number) for number in range(len(cache.shard_rows(shard)))])
        except (ValueError, FileNotFoundError):
            continue
        counts.append(rows[rows >= 0])
    found = np.concatenate(counts)
    return round(float(found.mean()), 2) if len(found) else None
