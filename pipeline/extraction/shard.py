"""Computes one shard: runs its stages on one batch after the other, then writes their outputs and ledger records.

In this module, a key is the key of a stage. A slot is the position of a row in a batch. A slot is usable if its clip
was decoded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from kinegraph.cache_schemas.arrays import CLIPS, FRAME_TIMES
from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Reason, Record, Source
from kinegraph.cache_schemas.store import Shard
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.extraction.arriving import Arriving
from kinegraph.pipeline.extraction.feed import PixelBatch
from kinegraph.pipeline.extraction.networks import Loaded
from kinegraph.pipeline.shards.leases import Leases, NoLeases
from kinegraph.pipeline.shards.sealing import StageOutput, check_times, seal
from kinegraph.stages.clock import COPY, DEVICE, THREADS, WRITE, Clock, marked, summed
from kinegraph.stages.decode.clips import DecodedClip
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.decode.wanted import Square
from kinegraph.stages.device_clock import DeviceClock
from kinegraph.stages.errors import WeightsError


class ShardInProgress:
    """A work unit (one shard with the stage keys to compute for it) that is being computed. Call `add` with every batch
    of the shard in order, then `seal` once. If the unit retries failed clips, the other rows are copied from the cache.

    - `loaded`: the networks of the worker.
    - `unit`: the work unit.
    - `clip_ids`: the id of the clip in each row of the shard.
    - `clock`: the clock of the thread that computes.
    """

    def __init__(self, loaded: Loaded, unit: WorkUnit, clip_ids: list[str], clock: Clock) -> None:
        self.loaded, self.unit, self.cache = loaded, unit, loaded.cache
        self.clock, self._device_clock = clock, DeviceClock(loaded.device)
        stages = loaded.declared.stages
        self.outputs = {key: StageOutput(stage=stages[key], clip_ids=clip_ids) for key in unit.keys}
        for record in unit.reopened:
            self.outputs[record.key].keep(self.cache, record)
        self.times = StageOutput(stage=stages[CLIPS], clip_ids=clip_ids)  # as decoded now
        self.running = [key for key in loaded.running(unit) if key in loaded.runners]
        self.decodes = loaded.wanted(unit) is not None
        self.sources: dict[str, Source] = {}
        self.seconds: dict[str, float] = {}
        self._beside: dict[str, float] = {}  # seconds of other threads
        self._made_from = {
            key: [reader for reader in loaded.declared.with_readers([key]) if reader in self.outputs]
            for key in {CLIPS, *unit.keys, *self.running}
        }
        self._last_reader = {
            key: [reader for reader in self.running if reader == key or key in stages[reader].reads][-1]
            for key in self.running
        }
        self._lent: dict[str, dict[str, Tensor]] = {}  # by key, its arrays of this batch
        self.arriving = Arriving()
        self._views: dict[str, Shard] = {}
        self._sealed = self._records_read()
        self._failed_before = self._rows_failed_before(clip_ids)

    def _records_read(self) -> dict[str, Record]:
        """Returns a dict {stage key: ledger record of this shard} for the stages that this unit reads and does not
        write. A stage without a record is left out.

        The stage `clips` is also left out if the unit decodes its clips, because decoding shows which clips fail.
        """
        read = {key for output in self.outputs.values() for key in output.stage.reads} - self.outputs.keys()
        if self.decodes:
            read.discard(CLIPS)
        records = {key: self.cache.ledger.read(key, self.unit.shard) for key in sorted(read)}
        return {key: record for key, record in records.items() if record is not None}

    def _rows_failed_before(self, clip_ids: list[str]) -> dict[str, set[int]]:
        """Returns a dict {stage key: rows of the shard that the stage does not compute}, because their clips failed in
        a stage that it reads.

        `clip_ids` has the id of the clip in each row of the shard. Only failures in the ledger records of earlier units
        count.
        """
        row_of = {clip_id: row for row, clip_id in enumerate(clip_ids)}
        failed = {key: {row_of[failure.clip_id] for failure in record.failures} for key, record in self._sealed.items()}
        for key, output in self.outputs.items():  # each key after the keys that it reads
            failed[key] = set().union(*(failed.get(read, ()) for read in output.stage.reads))
        return failed

    def spend(self, seconds: Mapping[str, float]) -> None:
        """Adds `seconds`, a dict {kind of work: seconds}, to the seconds that the ledger records of this unit will
        state.
        """
        self.seconds = summed(self.seconds, seconds)

    def add(self, batch: PixelBatch) -> None:
        """Runs all stages of the unit on one batch. Keeps their outputs in memory until `seal` writes them."""
        self.sources |= batch.sources
        self._beside = summed(self._beside, batch.thread_seconds)
        usable = self._take_clips(batch)
        self.arriving.begin_batch()
        for key in self.running:
            with self.clock.during(key), self._device_clock.during(key):
                if slots := self._lacking(key, batch, usable):
                    self.loaded.runners[key].run(_KeyBatch(self, key, batch, slots))
            for lender in [lender for lender in self._lent if self._last_reader[lender] == key]:
                del self._lent[lender]
        with self.clock.during(COPY):
            self.arriving.end_batch()

    def _take_clips(self, batch: PixelBatch) -> list[int]:
        """Records the frame times and warnings of the decoded clips of `batch`, and the failures of the other clips.
        Returns the slots of the decoded clips. A slot is the position of a row in the batch.
        """
        usable = []
        for slot, clip in enumerate(batch.clips):
            row = batch.offset + slot
            if isinstance(clip, DecodeError):
                self.fail(CLIPS, row, clip.reason, clip.detail)
            else:
                usable.append(slot)
                self._note(row, clip)
        return usable

    def _note(self, row: int, clip: DecodedClip) -> None:
        if self.decodes:
            self.times.arrays[FRAME_TIMES][row] = clip.frame_times
            if (clips := self.outputs.get(CLIPS)) and row not in clips.kept:
                clips.arrays[FRAME_TIMES][row] = clip.frame_times
        if clip.warning:
            for output in self.outputs.values():
                output.warn(row, clip.warning)

    def _lacking(self, key: str, batch: PixelBatch, usable: Sequence[int]) -> list[int]:
        """Returns those slots in `usable` that the stage `key` has to compute. A slot is the position of a row in
        `batch`.

        A slot is computed if its row is missing in the stage. If the stage passes its output to other stages in memory,
        a slot is also computed if its row is missing in one of these stages.
        """
        keys = self._made_from[key] if self.loaded.declared.handed_on(key) else [key]
        return [slot for slot in usable if any(self._lacks(one, batch.offset + slot) for one in keys)]

    def _lacks(self, key: str, row: int) -> bool:
        output = self.outputs[key]
        return row not in output.kept and row not in output.failures and row not in self._failed_before[key]

    def fail(self, key: str, row: int, reason: Reason, detail: str) -> None:
        """Marks the clip in row `row` of the shard, counted from 0, as failed in the stage `key` and in all stages that
        are made from this stage.

        `reason` is a word such as "timeout", and `detail` is the full message.
        """
        for reader in self._made_from[key]:
            self.outputs[reader].fail(row, reason, detail)

    def lend(self, key: str, array: str, values: Tensor) -> None:
        """Keeps `values` in memory until all stages of this unit that read the stage `key` have run. `values` is
        the part of the array `array` that the stage has computed for the present batch.

        Does nothing if no stage of this unit reads the stage `key`.
        """
        if self._last_reader[key] != key:
            self._lent.setdefault(key, {})[array] = values

    def read(self, array: str, row: int, slot: int) -> np.ndarray | Tensor:
        """Returns row `row` of the array named `array` in this shard. `slot` is the position of the row in the present
        batch.

        Takes the row from memory if a stage of this unit has computed it, otherwise from the cache.
        """
        for lent in self._lent.values():
            if array in lent:
                return lent[array][slot]
        if self.arriving.awaits(array):
            with self.clock.during(COPY):
                self.arriving.take_all()
        for output in self.outputs.values():
            if array in output.arrays:
                found: np.ndarray = output.arrays[array][row]
                return found
        return self.sealed(array, row)

    def sealed(self, array: str, row: int) -> np.ndarray:
        """Reads row `row` of the array named `array` from the cache and returns it. Row 0 is the first of the shard."""
        return self._view(array).row(row)

    def _view(self, array: str) -> Shard:
        if array not in self._views:
            self._views[array] = self.cache.store.open_shard(self.cache.array(array), self.unit.shard)
        return self._views[array]

    def seal(self, leases: Leases | NoLeases) -> tuple[str, ...] | None:
        """Writes the outputs of all stages of the unit to the cache, one stage after the other, each with its ledger
        record. Returns the ids of the clips that failed in any stage.

        `leases` are the leases of this worker. Returns None if another worker has taken the shard over or has finished
        one of the stages. The other worker then writes the stages that are left.
        """
        self.arriving.take_all()
        shard, writing = self.unit.shard, Clock(WRITE)
        self.spend(marked(THREADS, self._beside) | marked(DEVICE, self._device_clock.taken()))
        if self.decodes:
            check_times(self.cache, shard, self._sealed_times(), self.times)
        if leases.is_ours(shard):
            for reopened in reversed(self.unit.reopened):  # the readers of a key are unsealed before the key
                self.cache.ledger.unseal(reopened.key, shard)
        failed: set[str] = set()
        for output in self.outputs.values():
            if not leases.is_ours(shard) or self.cache.ledger.has(output.stage.key, shard):
                return None
            self._inherit(output)
            provenance = replace(self.loaded.provenance, attempt=leases.attempt(shard))
            record = seal(self.cache, shard, output, self.sources, provenance, self.seconds, writing)
            if record is None:
                return None
            failed |= {failure.clip_id for failure in record.failures}
        return tuple(sorted(failed))

    def _sealed_times(self) -> np.ndarray:
        """Returns the frame times of all rows of the shard in seconds, float64 [rows, T], as they are or will be in the
        cache.

        If this unit writes the stage `clips`, returns the times that it will write, otherwise the times in the cache.
        """
        if CLIPS in self.outputs:
            return self.outputs[CLIPS].arrays[FRAME_TIMES]
        view = self._view(FRAME_TIMES)
        return np.stack(list(self.cache.store.rows([(view, row) for row in range(len(self.times.clip_ids))])))

    def _inherit(self, output: StageOutput) -> None:
        """Copies failures and warnings into `output`, the output of one stage. They come from the ledger records of the
        stages that this stage reads.

        The ledger record of the stage then is the same as if all stages had run together.
        """
        for key in sorted(output.stage.reads.keys() & self._sealed.keys()):
            record = self._sealed[key]
            for failure in record.failures:
                row = output.clip_ids.index(failure.clip_id)
                if self.decodes and failure.reason != "non_finite":  # the clip was not decodable then, but is now
                    self.fail(output.stage.key, row, "upstream", f"failed in {key}")
                else:
                    self.fail(output.stage.key, row, failure.reason, failure.detail)
            if not self.decodes:
                self.sources |= record.sources
                for warned in record.warnings:
                    output.warn(output.clip_ids.index(warned.clip_id), warned.detail)


@dataclass(frozen=True)
class _KeyBatch:
    """A batch as the runner of the stage `key` sees it. It implements the protocol `stages.stage.StageBatch`."""

    shard: ShardInProgress  # the shard to which the results go
    key: str
    batch: PixelBatch  # the rows and pixels of the batch
    slots: list[int]  # the positions in the batch, from 0, of the rows that the runner has to compute

    @property
    def rows(self) -> Sequence[ClipRow]:
        return self.batch.rows

    @property
    def is_last(self) -> bool:
        return self.batch.is_last

    @property
    def shard_rows(self) -> Sequence[ClipRow]:
        return self.batch.shard_rows

    @property
    def offset(self) -> int:
        return self.batch.offset

    @property
    def batch_size(self) -> int:
        return self.shard.loaded.provenance.batch_size

    def pixels(self, square: Square) -> np.ndarray:
        if square not in self.batch.pixels:  # the size comes from the user's file of a processor
            raise WeightsError(
                "The file that says how frames are resized has changed since the networks were loaded. Run the same "
                "command again."
            )
        return self.batch.pixels[square]

    def clip(self, slot: int) -> DecodedClip:
        clip = self.batch.clips[slot]
        assert isinstance(clip, DecodedClip)
        if not self.shard.decodes:
            clip.frame_times = self.shard.sealed(FRAME_TIMES, self.batch.offset + slot)
        return clip

    def read(self, array: str, slot: int) -> np.ndarray | Tensor:
        return self.shard.read(array, self.batch.offset + slot, slot)

    def stores(self, array: str) -> bool:
        output = self.shard.outputs.get(self.key)
        return output is not None and array in output.arrays

    def upload(self, values: np.ndarray | Tensor) -> Tensor:
        return values if isinstance(values, Tensor) else self.shard.loaded.transfers.upload(values)

    def write(self, array: str, slots: Sequence[int], values: np.ndarray | Tensor) -> None:
        self._store(array, slots, range(len(slots)), values)

    def write_batch(self, array: str, values: Tensor) -> None:
        self._store(array, self.slots, self.slots, values)

    def _store(self, array: str, slots: Sequence[int], places: Sequence[int], values: np.ndarray | Tensor) -> None:
        """Stores rows of `values` in the array named `array` of the shard. Row `places[i]` of `values` belongs to the
        clip at position `slots[i]` of the batch.

        A row that was copied from the sealed shard is not replaced.
        """
        if (output := self.shard.outputs.get(self.key)) is None:
            return
        offset, kept = self.batch.offset, output.kept
        row_of = {place: offset + slot for place, slot in zip(places, slots, strict=True) if offset + slot not in kept}

        def take(arrived: np.ndarray) -> None:
            for place, row in row_of.items():
                output.arrays[array][row] = arrived[place]

        with self.shard.clock.during(COPY):
            if not isinstance(values, Tensor):
                take(values)
            elif row_of:
                self.shard.arriving.expect(array, self.shard.loaded.transfers.download(values), take)

    def hand_on(self, array: str, values: Tensor) -> None:
        self.shard.lend(self.key, array, values)

    def fail(self, slot: int, reason: Reason, detail: str) -> None:
        self.shard.arriving.take_all()  # an earlier reason stays, also one that is on its way
        self.shard.fail(self.key, self.batch.offset + slot, reason, detail)

    def fail_where(self, is_bad: Tensor, reason: Reason, detail: Callable[[int], str]) -> None:
        def take(arrived: np.ndarray) -> None:
            for slot in self.slots:
                if arrived[slot]:
                    self.shard.fail(self.key, self.batch.offset + slot, reason, detail(slot))

        with self.shard.clock.during(COPY):
            self.shard.arriving.expect("", self.shard.loaded.transfers.download(is_bad), take)

    def note_file(self, slot: int, path: str | None) -> None:
        if (output := self.shard.outputs.get(self.key)) is not None:
            output.note_file(self.batch.rows[slot].video_id, path)
