"""In which order the stages of one unit run, which failure is recorded, and what is in memory meanwhile."""

import weakref
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

import kinegraph.stages.regions.extract
from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.proposals.from_networks import NetworkSource
from kinegraph.stages.proposals.grid import GridSource
from kinegraph.stages.proposals.source import ClipFrames, ClipProposals, ProposalError
from kinegraph.stages.regions.roi import region_features
from kinegraph.stages.scene_graphs.from_files import FileGraphs
from kinegraph.stages.scene_graphs.source import GraphError

Load = Callable[..., Config]
FIRST, SECOND = "left/v1.mp4", "left/v3.mp4"  # the clips of shard 0, slots 0 and 1 of its batch
TINY = "model: tiny_i3d, size: 32, precision: fp32, storage_dtype: float32"
OVERRIDES = [
    f"backbones={{a: {{{TINY}, weights: 'random:0', taps: [res3, res4]}}, "
    f"b: {{{TINY}, weights: 'random:1', taps: [res4]}}}}",
    "proposals={source: grid, cells: [1, 2], every: 2}",
    "regions.backbones=[a, b]",
    "graphs={source: file, files: '/nowhere/{stem}.json', vocabulary: {classes: [person], relations: [near]}}",
]
ENTRIES = {"random:0": "features/a", "random:1": "features/b"}


class Watched:
    """What runs, in order; `maps` that a backbone made, and how many of them were left when something else began."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.alive: list[tuple[str, int]] = []
        self._maps: list[StorageWeakRef] = []
        self.boxes_missing: set[str] = set()
        self.not_finite: dict[str, int] = {}  # entry -> slot
        self.graphs_missing: set[str] = set()
        propose, maps, graphs = GridSource.propose, FeatureExtractor.maps, FileGraphs._arrays
        regions = region_features

        def proposed(source: GridSource, frames: ClipFrames) -> ClipProposals:
            self._note("proposals")
            if frames.video_id in self.boxes_missing:
                raise ProposalError("missing", "no boxes")
            return propose(source, frames)

        def mapped(extractor: FeatureExtractor, clips: Tensor) -> dict[str, Tensor]:
            entry = ENTRIES[extractor.options.weights]
            self._note(entry)
            found = maps(extractor, clips)
            if entry in self.not_finite:
                found = {tap: values.clone() for tap, values in found.items()}
                for values in found.values():
                    values[self.not_finite[entry]] = np.nan
            self._maps += [StorageWeakRef(values.untyped_storage()) for values in found.values()]
            return found

        def given(source: FileGraphs, row: Any, frame_times: np.ndarray) -> Any:
            self._note("graphs")
            if row.video_id in self.graphs_missing:
                raise GraphError("missing", "no graphs")
            return graphs(source, [], row.start_seconds)

        def aligned(*arguments: Any, **options: Any) -> Any:
            self._note("regions")
            return regions(*arguments, **options)

        patch.setattr(GridSource, "propose", proposed)
        patch.setattr(FeatureExtractor, "maps", mapped)
        patch.setattr(FileGraphs, "graphs", given)
        patch.setattr(kinegraph.stages.regions.extract, "region_features", aligned)

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.alive.append((event, sum(not maps.expired() for maps in self._maps)))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_proposals_then_graphs_then_each_backbone_with_its_regions(load: Load, watched: Watched) -> None:
    config = load(*OVERRIDES)
    cache = index(config).cache
    extract(config, limit=2)
    clips = 2
    assert [(event, len([*run])) for event, run in groupby(watched.events)] == [
        ("proposals", clips), ("graphs", clips), ("features/a", 1), ("regions", 2 * clips), ("features/b", 1),
        ("regions", clips),
    ]  # fmt: skip
    record = cache.ledger.read("regions/b", 0)
    assert record is not None
    beside = {kind for kind in record.seconds if kind.startswith("threads: ")} | {"before: start-up"}
    ran = {"features/a", "features/b", "graphs", "proposals", "regions/a", "regions/b"}
    assert record.seconds.keys() == ran | {"waiting for the first batch", "waiting for writer", "copy", "rest"} | beside
    sealed = sorted(path.relative_to(cache.root).as_posix() for path in (Path(cache.root) / "ledger").rglob("*.json"))
    assert sealed == [f"ledger/{key}/000000.json" for key in sorted({*ran, "clips"})]


def test_the_first_reason_is_recorded_for_all_that_reads_it(load: Load, watched: Watched) -> None:
    config = load(*OVERRIDES)
    watched.boxes_missing, watched.graphs_missing = {FIRST}, {SECOND}
    watched.not_finite = {"features/a": 0, "features/b": 1}
    cache = index(config).cache
    extract(config, limit=2)
    assert _failures(cache) == {
        "clips": [],
        "features/a": [(FIRST, "non_finite", "res3 is not finite before rounding")],
        "features/b": [(SECOND, "non_finite", "res4 is not finite before rounding")],
        "graphs": [(SECOND, "missing", "no graphs")],
        "proposals": [(FIRST, "missing", "no boxes")],
        "regions/a": [(FIRST, "missing", "no boxes")],
        "regions/b": [(FIRST, "missing", "no boxes"), (SECOND, "non_finite", "res4 is not finite before rounding")],
    }


def _failures(cache: Cache) -> dict[str, list[tuple[str, str, str]]]:
    records = {key: cache.ledger.read(key, 0) for key in cache.stage_keys()}
    return {
        key: [(failure.clip_id.split(":")[0], failure.reason, failure.detail) for failure in record.failures]
        for key, record in records.items()
        if record is not None
    }


def test_maps_of_one_backbone_are_gone_when_anything_but_its_regions_runs(load: Load, watched: Watched) -> None:
    """Also in the next batch. float32 all the way, so that what is handed on is the network's own output."""
    config = load(*OVERRIDES, "store.shard_clips=4")
    index(config)
    extract(config, limit=4)
    seen = [event for event, _ in groupby(watched.alive)]
    in_one_batch = [
        ("proposals", 0), ("graphs", 0), ("features/a", 0), ("regions", 2), ("features/b", 0), ("regions", 1),
    ]  # fmt: skip
    assert seen == in_one_batch * 2


def test_crops_of_a_clip_share_one_call_and_its_frames_go_after_it(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three crops of a clip lie in two batches of two rows."""
    frames_seen: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []
    really = NetworkSource.propose

    def propose(source: NetworkSource, frames: ClipFrames) -> ClipProposals:
        alive.append(sum(pixels() is not None for pixels in frames_seen))
        assert frames.pixels is not None
        frames_seen.append(weakref.ref(frames.pixels))
        return really(source, frames)

    monkeypatch.setattr(NetworkSource, "propose", propose)
    config = load("clips.crops=[left, center, right]", "store.shard_clips=6", "backbones={}", "regions=null")
    index(config)
    extract(config, limit=6)
    assert alive == [0, 0]
    assert [pixels() for pixels in frames_seen] == [None, None]
