"""The loop of an extraction on a fake GPU: the bytes of the CPU, two batches in flight, and every wait counted."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.stage import Stage
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.worker import Worker
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.kinds import KINDS
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import StageBatch, StageKind
from tests.caches import same_bytes
from tests.fake_cuda import FakeEvent, FakeGraph, fake_gpu

Load = Callable[..., Config]
CLIPS, BATCHES = 6, 3  # in one shard
FRAMES = 4  # of a clip, in which proposals are looked for
ANCHORS = 2  # levels of the pyramid, whose anchors are copied once
GRID = "proposals={source: grid, cells: [1, 2], every: 2}"


def extracted(load: Load, device: str, *overrides: str, name: str = "") -> tuple[Cache, Counter[str]]:
    """A cache that was computed on `device`, and what the loop waited for there."""
    config = load("store.shard_clips=6", f"run.device={device}", *overrides, name=name or device)
    with fake_gpu() as gpu:
        cache = index(config).cache
        plan = make_plan(config, cache)
        worker = Worker(config, cache, plan.keys, lambda event: None)
        gpu.waits.clear()  # the weights are copied to the GPU before the loop
        worker.run(plan.units, decode_threads=0)
    return cache, gpu.waits


def contents(cache: Cache) -> dict[str, Any]:
    """All bytes, except the name of the device in the ledger."""
    found = same_bytes(cache.root)
    for name, record in found.items():
        if name.startswith("ledger/"):
            assert record.pop("device") == ("cpu" if cache.root.endswith("cpu") else "cuda (fake GPU)")
    return found


def counted_replays(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """The graphs that are replayed from now on, one for each replay."""
    replays: list[FakeGraph] = []
    replay = FakeGraph.replay

    def noted(graph: FakeGraph) -> None:
        replays.append(graph)
        replay(graph)

    monkeypatch.setattr(FakeGraph, "replay", noted)
    return replays


@pytest.mark.parametrize(
    ("device", "overrides", "decoders"),
    [
        ("cuda", ["run.executor=dask", "run.threads=auto"], 8),  # 16 cores, 2 GPUs
        ("cpu", ["run.executor=dask", "run.threads=auto"], 1),
        ("cuda", ["run.executor=dask", "run.threads=3"], 3),
        ("cuda", ["run.executor=dask", "run.threads=auto", "run.decode_threads=5"], 5),
        ("cpu", ["run.threads=1", "run.decode_threads=6"], 6),
    ],
)
def test_decoder_threads_of_a_worker(
    load: Load, monkeypatch: pytest.MonkeyPatch, device: str, overrides: list[str], decoders: int
) -> None:
    monkeypatch.setattr("kinegraph.pipeline.extraction.worker.usable_cores", lambda: 16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    worker = object.__new__(Worker)
    worker.config = load(*overrides)
    worker.threads, worker.loaded = worker.config.run.worker_threads, SimpleNamespace(device=torch.device(device))  # type: ignore[assignment]
    assert worker.decoders == decoders


def test_the_bytes_of_a_cpu_without_a_wait_but_for_results(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_cpu, waits = extracted(load, "cpu", GRID, "run.cuda_graphs=true")
    assert not waits
    assert caplog.messages == ["run.cuda_graphs: true has no effect on the device cpu, only on a GPU"]
    events: list[str] = []
    maps, synchronize = FeatureExtractor.maps, FakeEvent.synchronize

    def computed(extractor: FeatureExtractor, pixels: Tensor) -> dict[str, Tensor]:
        events.append("batch begins")
        return maps(extractor, pixels)

    def waited(event: FakeEvent) -> None:
        events.append("results are waited for")
        synchronize(event)

    monkeypatch.setattr(FeatureExtractor, "maps", computed)
    monkeypatch.setattr(FakeEvent, "synchronize", waited)
    on_gpu, waits = extracted(load, "cuda", GRID)
    assert contents(on_gpu) == contents(on_cpu)
    # The results of a batch: maps, their means, which clips are not finite, and the regions of two clips.
    assert waits == {"event": 5 * BATCHES}
    # The first batch is waited for when the second is under way, and so on: two batches in flight.
    assert [(event, len([*run])) for event, run in groupby(events)] == [
        ("batch begins", 2), ("results are waited for", 5), ("batch begins", 1), ("results are waited for", 10),
    ]  # fmt: skip
    record = on_gpu.ledger.read("regions/tiny", 0)
    assert record is not None
    assert record.seconds["device: regions/tiny"] == BATCHES
    replays = counted_replays(monkeypatch)
    through_graphs, waits = extracted(load, "cuda", GRID, "run.cuda_graphs=true", name="graphs")
    assert contents(through_graphs) == contents(on_cpu)
    assert waits == {"event": 5 * BATCHES}
    assert len(replays) == BATCHES


class MeanRunner:
    """Reads regions, which are on their way then; finds fault with a clip whose maps are not finite."""

    digest = ""

    def run(self, batch: StageBatch) -> None:
        for slot in reversed(batch.slots):  # the bad clip before anything is waited for
            if batch.rows[slot].video_id == BAD:
                batch.fail(slot, "unreadable", "a later reason")
            else:
                batch.write(
                    "means/regions", [slot], np.asarray(batch.read("regions/tiny/res4", slot)).mean((0, 1))[None]
                )


class Means(StageKind):
    kind = "means"

    def keys(self, recipe: Recipe) -> Collection[str]:
        return (self.kind,)

    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        (array,) = declared["regions/tiny"].arrays
        reads = {"regions/tiny": declared["regions/tiny"].fingerprint}
        spec = ArraySpec(
            name="means/regions", stage=key, shape=array.shape[2:], dtype=array.dtype, dims=("channel",),
            fill=float("nan"), about="a mean",
        )  # fmt: skip
        return Stage(key=key, options={"version": 1, "reads": reads}, arrays=(spec,))

    def open(self, recipe: Recipe, key: str, device: torch.device, *, compiled: bool) -> MeanRunner:
        return MeanRunner()


BAD = "left/v3.mp4"


def test_failures_and_an_rpn(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is known late on a GPU. It is recorded as on a CPU, also in stages that have run for it meanwhile."""
    monkeypatch.setitem(KINDS, Means.kind, Means())
    maps, batches = FeatureExtractor.maps, iter(range(2 * BATCHES))

    def with_nan(extractor: FeatureExtractor, pixels: Tensor) -> dict[str, Tensor]:
        found = {tap: values.clone() for tap, values in maps(extractor, pixels).items()}
        if next(batches) % BATCHES == 0:
            for values in found.values():
                values[1, 0, 0] = float("nan")
        return found

    monkeypatch.setattr(FeatureExtractor, "maps", with_nan)
    on_cpu, _ = extracted(load, "cpu")
    on_gpu, waits = extracted(load, "cuda")
    record = on_gpu.ledger.read("means", 0)
    assert record is not None
    assert [(failure.clip_id, failure.reason) for failure in record.failures] == [(f"{BAD}:0:center", "non_finite")]
    assert contents(on_gpu) == contents(on_cpu)
    # What an RPN makes a GPU wait for: how many boxes of the frames of a batch are valid, how many of a frame are left,
    # and the results of a batch. torchvision copies small constants. The last wait is for the detail of the clip that
    # failed.
    assert waits == {
        "event": 5 * BATCHES,
        "nms": CLIPS * FRAMES,
        "copy to the host": 4 * BATCHES,
        "copy of memory that is not pinned": 2 * BATCHES + CLIPS * FRAMES + ANCHORS,
        "_local_scalar_dense": 1,
    }
