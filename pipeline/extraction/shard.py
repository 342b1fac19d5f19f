"""One shard under way: its stages' outputs, filled batch by batch, then sealed."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kinegraph.cache_schemas.clips_table import ClipRow
from kinegraph.cache_schemas.ledger import Source
from kinegraph.cache_schemas.store import Shard
from kinegraph.pipeline.caches.plan import WorkUnit
from kinegraph.pipeline.extraction.feed import Batch
from kinegraph.pipeline.extraction.networks import Networks
from kinegraph.pipeline.shards.leases import Leases, NoLeases
from kinegraph.pipeline.shards.sealing import StageOutput, check_times, seal
from kinegraph.stages.decode.clips import DecodedClip
from kinegraph.stages.decode.errors import DecodeError
from kinegraph.stages.device import upload
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, ProposalError
from kinegraph.stages.regions.extract import clip_regions
from kinegraph.stages.scene_graphs.source import GraphError

FRAME_TIMES = "clips/frame_times"
DTYPES_STORED = {"float16": torch.float16, "float32": torch.float32}


class ShardInProgress:
    """One unit: `add` every batch of its rows in order, then `seal` once.

    Keys that are reopened start with the rows they have; of a batch they take those of their failed clips.
    """

    def __init__(self, networks: Networks, unit: WorkUnit, clip_ids: list[str]) -> None:
        self.networks, self.unit, self.cache, self.config = networks, unit, networks.cache, networks.config
        self.outputs = {key: StageOutput(stage=networks.stages[key], clip_ids=clip_ids) for key in unit.keys}
        for record in unit.reopened:
            self.outputs[record.key].keep(networks.cache, record)
        self.times = StageOutput(stage=networks.stages["clips"], clip_ids=clip_ids)  # as decoded now
        self.backbones = networks.backbones_to_run(unit)
        self.decodes = networks.wanted(unit) is not None
        self.sources: dict[str, Source] = {}
        self.seconds: dict[str, float] = {}
        self._views: dict[str, Shard] = {}
        self._proposals_of: tuple[str, ClipProposals | ProposalError] | None = None

    def spent(self, kind: str, since: float) -> None:
        """Count the time since `since` (of time.monotonic) as spent on `kind`."""
        self.seconds[kind] = self.seconds.get(kind, 0.0) + time.monotonic() - since

    def add(self, batch: Batch) -> None:
        """Run all stages of the unit on one batch."""
        self.sources |= batch.sources
        ok = self._take_clips(batch)
        if "proposals" in self.outputs:
            with self._timed("proposals"):
                for slot in self._lacking("proposals", batch, ok):
                    self._propose(batch, slot)
        if "graphs" in self.outputs:
            with self._timed("graphs"):
                for slot in self._lacking("graphs", batch, ok):
                    self._take_graphs(batch, slot)
        for name in self.backbones:
            self._run_backbone(name, batch, ok)
        for key in self.outputs:
            kind, _, name = key.partition("/")
            if kind == "regions" and name not in self.backbones:
                with self._timed(key):
                    self._regions_from_cache(name, batch, ok)

    @contextmanager
    def _timed(self, kind: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.spent(kind, begun)

    def _run_backbone(self, name: str, batch: Batch, ok: list[int]) -> None:
        with self._timed(f"features/{name}"):
            maps = self.networks.features[name].maps(
                upload(batch.pixels[self.networks.square(name)], self.networks.device)
            )
            stored = {tap: self._store(name, tap, found, batch, ok) for tap, found in maps.items()}
        if f"regions/{name}" in self.outputs:
            with self._timed(f"regions/{name}"):
                for tap, (rounded, finite) in stored.items():
                    for slot in self._lacking(f"regions/{name}", batch, finite):
                        self._regions(name, tap, rounded[slot], batch.rows[slot], batch.offset + slot)

    def _lacking(self, key: str, batch: Batch, slots: Sequence[int]) -> list[int]:
        """Of `slots`, those whose row `key` does not have yet."""
        kept = self.outputs[key].kept
        return [slot for slot in slots if batch.offset + slot not in kept]

    def _take_clips(self, batch: Batch) -> list[int]:
        """Note frame times, failures and warnings; gives the slots that have pixels."""
        ok = []
        for slot, clip in enumerate(batch.clips):
            number = batch.offset + slot
            if isinstance(clip, DecodeError):
                for output in self.outputs.values():
                    output.fail(number, clip.reason, clip.detail)
            else:
                ok.append(slot)
                self._note(number, clip)
        return ok

    def _note(self, number: int, clip: DecodedClip) -> None:
        if self.decodes:
            self.times.arrays[FRAME_TIMES][number] = clip.frame_times
            if (clips := self.outputs.get("clips")) and number not in clips.kept:
                clips.arrays[FRAME_TIMES][number] = clip.frame_times
        if clip.warning:
            for output in self.outputs.values():
                output.warn(number, clip.warning)

    def _propose(self, batch: Batch, slot: int) -> None:
        row, clip, number = batch.rows[slot], batch.clips[slot], batch.offset + slot
        assert isinstance(clip, DecodedClip)
        if not self._find_times(clip, number):
            return
        clip_name = row.clip_id.rpartition(":")[0]
        if self._proposals_of is None or self._proposals_of[0] != clip_name:  # all crops of a clip have the same
            self._proposals_of = clip_name, self._proposals(row, clip)
        clip.whole = None
        found = self._proposals_of[1]
        if isinstance(found, ProposalError):
            self._fail_proposals(number, found)
            return
        kept = found.within(row.crop)
        for name in ("boxes", "scores", "count"):
            self.outputs["proposals"].arrays[f"proposals/{name}"][number] = getattr(kept, name)

    def _find_times(self, clip: DecodedClip, number: int) -> bool:
        """Give a clip that was not decoded now its frame times; False where it failed then: `_inherit` says so."""
        if not self.decodes:
            clip.frame_times = self._cached(FRAME_TIMES, number)
        return not np.isnan(clip.frame_times).any()

    def _take_graphs(self, batch: Batch, slot: int) -> None:
        row, clip, number = batch.rows[slot], batch.clips[slot], batch.offset + slot
        options, source, output = self.config.graphs, self.networks.graph_source, self.outputs["graphs"]
        assert isinstance(clip, DecodedClip)
        assert options is not None
        assert source is not None
        if not self._find_times(clip, number):
            return
        output.note_file(row.video_id, options.file_of(row.video_name))
        try:
            found = source.graphs(row, clip.frame_times)
        except GraphError as error:
            output.fail(number, error.reason, error.detail)
            return
        for name, value in vars(found).items():
            output.arrays[f"graphs/{name}"][number] = value

    def _proposals(self, row: ClipRow, clip: DecodedClip) -> ClipProposals | ProposalError:
        """Those of the whole frames of a clip, or why it has none."""
        options = self.config.proposals
        assert options is not None
        assert self.networks.proposer is not None
        self.outputs["proposals"].note_file(row.video_id, options.file_of(row.video_name))
        frames = ClipFrames(
            video_id=row.video_name,
            width=row.frame_width,
            height=row.frame_height,
            seconds=clip.frame_times[:: options.every],
            pixels=clip.whole,
            numbers=clip.frame_numbers[:: options.every],
            video_frames=clip.video_frames,
        )
        try:
            return self.networks.proposer.propose(frames)
        except ProposalError as error:
            return error

    def _fail_proposals(self, number: int, error: ProposalError) -> None:
        for key, output in self.outputs.items():
            if key == "proposals" or key.startswith("regions/"):
                output.fail(number, error.reason, error.detail)

    def _store(self, name: str, tap: str, maps: Tensor, batch: Batch, ok: list[int]) -> tuple[Tensor, list[int]]:
        """Round one tap's maps [B, T, C, H, W] as stored, and keep the usable slots' features.

        Gives the rounded maps, and the usable slots that are finite; the others have failed.
        """
        options = self.config.backbones[name]
        stored = maps.to(DTYPES_STORED[options.storage_dtype])
        finite = stored.isfinite().flatten(1).all(1).tolist()
        features = self.outputs.get(f"features/{name}")
        if features is not None:
            slots = self._lacking(features.stage.key, batch, ok)
            numbers = [batch.offset + slot for slot in slots]
            values = {f"features/{name}/{tap}": stored, f"features/{name}/{tap}_pooled": maps.float().mean((3, 4))}
            for array in values.keys() & features.arrays.keys():
                features.arrays[array][numbers] = values[array][slots].cpu().numpy()
        for slot in ok:
            if not finite[slot]:
                self._fail_non_finite(name, tap, batch.offset + slot, bool(maps[slot].isfinite().all()))
        return stored, [slot for slot in ok if finite[slot]]

    def _fail_non_finite(self, name: str, tap: str, number: int, finite_before: bool) -> None:
        dtype = self.config.backbones[name].storage_dtype
        detail = f"{tap} is finite but overflows {dtype}" if finite_before else f"{tap} is not finite before rounding"
        for key in (f"features/{name}", f"regions/{name}"):
            if key in self.outputs:
                self.outputs[key].fail(number, "non_finite", detail)

    def _regions_from_cache(self, name: str, batch: Batch, ok: list[int]) -> None:
        for tap in self.config.backbones[name].taps:
            for slot in self._lacking(f"regions/{name}", batch, ok):
                number = batch.offset + slot
                maps = upload(self._cached(f"features/{name}/{tap}", number).copy(), self.networks.device)
                self._regions(name, tap, maps, batch.rows[slot], number)

    def _regions(self, name: str, tap: str, maps: Tensor, row: ClipRow, number: int) -> None:
        options = self.config.regions
        assert options is not None
        boxes, count = (self._proposal_array(part, number) for part in ("boxes", "count"))
        framing, at = self.config.framing_of(name), self.config.tap_of(name, tap)
        seen = row.seen(framing)
        found = clip_regions(maps, boxes, count, seen, framing.size, at.stride, options, at.offset_px)
        arrays, dtype = self.outputs[f"regions/{name}"].arrays, DTYPES_STORED[options.storage_dtype]
        arrays[f"regions/{name}/{tap}"][number] = found.features.to(dtype).cpu().numpy()
        if found.grid is not None:
            arrays[f"regions/{name}/{tap}_grid"][number] = found.grid.to(dtype).cpu().numpy()

    def _proposal_array(self, part: str, number: int) -> np.ndarray:
        if "proposals" in self.outputs:
            found: np.ndarray = self.outputs["proposals"].arrays[f"proposals/{part}"][number]
            return found
        return self._cached(f"proposals/{part}", number)

    def _cached(self, array: str, number: int) -> np.ndarray:
        """Row `number` of this shard of an array that is sealed already."""
        return self._view(array).row(number)

    def _view(self, array: str) -> Shard:
        if array not in self._views:
            self._views[array] = self.cache.store.open_shard(self.cache.array(array), self.unit.shard)
        return self._views[array]

    def seal(self, leases: Leases | NoLeases) -> tuple[str, ...] | None:
        """Write and seal every stage, those that others read first; gives the clips that failed in any of them.

        None once another worker took the shard over or sealed it: what is left to seal is thrown away.
        """
        shard = self.unit.shard
        if self.decodes:
            check_times(self.cache, shard, self._sealed_times(), self.times)
        if leases.is_ours(shard):
            for reopened in reversed(self.unit.reopened):  # what reads a key goes before it
                self.cache.ledger.unseal(reopened.key, shard)
        failed: set[str] = set()
        for output in self.outputs.values():
            if not leases.is_ours(shard) or self.cache.ledger.has(output.stage.key, shard):
                return None
            self._inherit(output)
            provenance = replace(self.networks.provenance, attempt=leases.attempt(shard))
            record = seal(self.cache, shard, output, self.sources, provenance, self.seconds)
            if record is None:
                return None
            failed |= {failure.clip_id for failure in record.failures}
        return tuple(sorted(failed))

    def _sealed_times(self) -> np.ndarray:
        """Frame times [rows, T] that hold for this shard, sealed before or about to be."""
        if "clips" in self.outputs:
            return self.outputs["clips"].arrays[FRAME_TIMES]
        view = self._view(FRAME_TIMES)
        return np.stack(list(self.cache.store.rows([(view, number) for number in range(len(self.times.clip_ids))])))

    def _inherit(self, output: StageOutput) -> None:
        """Take over the fate of clips in sealed keys that `output` reads, so that it is as if all had run together."""
        decoded = {"clips"} if self.decodes else set()
        for key in sorted(output.stage.options.get("reads", {}).keys() - self.outputs.keys() - decoded):
            record = self.cache.ledger.read(key, self.unit.shard)
            for failure in record.failures if record else ():
                number = output.clip_ids.index(failure.clip_id)
                if self.decodes and failure.reason != "non_finite":  # it could not be decoded then, and can be now
                    output.fail(number, "upstream", f"failed in {key}")
                else:
                    output.fail(number, failure.reason, failure.detail)
            if record and not self.decodes:
                self.sources |= record.sources
                for warned in record.warnings:
                    output.warn(output.clip_ids.index(warned.clip_id), warned.detail)
