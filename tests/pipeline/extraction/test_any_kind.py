"""A kind of stage that nothing in pipeline/ or cli/ names goes through all of it: one line in KINDS is enough."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from kinegraph.cache_schemas.arrays import ArraySpec
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.cache_schemas.stage import Stage
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan, why
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.estimate import estimate
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.status import status
from kinegraph.stages.kinds import KINDS
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import Rows, StageBatch, StageKind
from tests.caches import rows_of, same_bytes

Load = Callable[..., Config]
WIDTH, MOST = "widths/mean", 1000.0
FIRST, SECOND = "left/v1.mp4", "left/v3.mp4"


class WidthRunner:
    """Mean width of the boxes of each clip; clips with a box wider than MOST have none."""

    digest = ""

    def run(self, batch: StageBatch) -> None:
        for slot in batch.slots:
            boxes = np.asarray(batch.read("proposals/boxes", slot))
            width = boxes[..., 2] - boxes[..., 0]
            if width.max() > MOST:
                batch.fail(slot, "unreadable", "too wide")
            else:
                batch.write(WIDTH, [slot], width.mean(keepdims=True)[0])


class Widths(StageKind):
    kind = "widths"

    def keys(self, recipe: Recipe) -> Collection[str]:
        return (self.kind,)

    def declare(self, recipe: Recipe, key: str, declared: Mapping[str, Stage], digest: str) -> Stage:
        reads = {"proposals": declared["proposals"].fingerprint}
        spec = ArraySpec(
            name=WIDTH, stage=key, shape=(1,), dtype="float32", dims=("width",), fill=float("nan"), about="a width"
        )
        return Stage(key=key, options={"version": 1, "reads": reads}, arrays=(spec,))

    def open(self, recipe: Recipe, key: str, device: torch.device, *, compiled: bool) -> WidthRunner:
        return WidthRunner()

    def problems(self, ok: Rows) -> Iterator[tuple[str, str]]:
        if (ok[WIDTH] > MOST).any():
            yield WIDTH, "too wide"


@pytest.fixture(autouse=True)
def widths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, Widths.kind, Widths())


def write_boxes(folder: Path, video_id: str, right: float) -> Path:
    path = (folder / video_id).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [{"seconds": t / 8, "boxes": [[0, 0, right, 40]], "scores": [1.0]} for t in range(17)]
    path.write_text(json.dumps({"frames": frames}))
    return path


@pytest.fixture
def boxes(tmp_path: Path, video_folder: Path) -> Path:
    for video in video_folder.rglob("*.mp4"):
        write_boxes(tmp_path / "boxes", video.relative_to(video_folder).as_posix(), 60)
    return tmp_path / "boxes"


@pytest.fixture
def config(load: Load, boxes: Path) -> Load:
    def made(name: str = "cache") -> Config:
        given = {"source": "file", "files": f"{boxes}/{{stem}}.json", "top": 1}
        return load(f"proposals={json.dumps(given)}", "backbones={}", "regions=null", name=name)

    return made


def test_it_is_planned_run_counted_and_read(config: Load) -> None:
    made = config()
    cache = index(made).cache
    plan = make_plan(made, cache, stages=["widths"])
    assert plan.keys == ("clips", "proposals", "widths")
    assert estimate(made, cache, plan).bytes == plan.num_bytes(cache) > 0
    assert not extract(made, stages=["widths"]).failures
    assert not make_plan(made, cache).units
    assert status(cache)["stages"]["widths"]["clips"] == {"ok": 6, "warned": 0, "failed": 0, "missing": 0}
    assert why(made, cache)["widths"] == []
    assert verify(made.cache).ok
    clips = CachedClips(cache, [WIDTH])
    assert [float(clips[number][WIDTH]) for number in range(6)] == [60] * 6
    assert cache.ledger.read("widths", 0).seconds.keys() >= {"proposals", "widths"}


def test_it_is_the_same_from_sealed_boxes(config: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decoded then, and a clip without boxes fails as if all had run together."""
    together, apart = config("together"), config("apart")
    (Path(together.cache).parent / "boxes" / "left" / "v1.json").unlink()
    for made in (together, apart):
        index(made)
    extract(together)
    extract(apart, stages=["proposals"])

    def never(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.decode_clips", never)
    extract(apart)
    assert same_bytes(apart.cache) == same_bytes(together.cache)
    assert rows_of(apart.cache, "status/widths").tolist() == [2, 1, 1, 1, 1, 1]


def test_what_fails_above_it_fails_in_it_and_what_fails_in_it_is_retried(
    config: Load, boxes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config()
    cache = index(made).cache
    (boxes / "left" / "v1.json").unlink()
    monkeypatch.setattr(f"{__name__}.MOST", 70.0)
    write_boxes(boxes, SECOND, 80)
    extract(made)
    assert {key: _failed(cache, key) for key in ("clips", "proposals", "widths")} == {
        "clips": {}, "proposals": {FIRST: "missing"}, "widths": {FIRST: "missing", SECOND: "unreadable"},
    }  # fmt: skip
    monkeypatch.setattr(f"{__name__}.MOST", 1000.0)
    write_boxes(boxes, FIRST, 60)
    assert [unit.keys for unit in make_plan(made, cache, retry_failed=True).units] == [("proposals", "widths")]
    assert not extract(made, retry_failed=True).failures
    assert rows_of(made.cache, WIDTH)[:, 0].tolist() == [60, 80, 60, 60, 60, 60]


def _failed(cache: Cache, key: str) -> dict[str, str]:
    record = cache.ledger.read(key, 0)
    assert record is not None
    return {failure.clip_id.split(":")[0]: failure.reason for failure in record.failures}


def test_it_is_made_again_from_a_changed_file(config: Load, boxes: Path) -> None:
    made = config()
    cache = index(made).cache
    extract(made)
    write_boxes(boxes, SECOND, 75.5)
    assert [(unit.shard, unit.keys) for unit in make_plan(made, cache).units] == [(0, ("proposals", "widths"))]
    assert not extract(made).failures
    assert rows_of(made.cache, WIDTH)[:2, 0].tolist() == [60, 75.5]


def test_verify_asks_it(config: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    made = config()
    index(made)
    extract(made, limit=2)
    monkeypatch.setattr(f"{__name__}.MOST", 1.0)
    assert [(problem.stage, problem.kind) for problem in verify(made.cache).problems] == [("widths", "too wide")]
    monkeypatch.delitem(KINDS, Widths.kind)
    assert verify(made.cache).ok, "a kind that only another kinegraph has is not looked into"
