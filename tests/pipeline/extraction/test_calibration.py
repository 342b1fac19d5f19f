"""Calibration runs one unit for its pace and leaves the cache as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.calibration import Calibration, calibrate
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.proposals.from_networks import NetworkSource
from tests.clock import Clock as Time

Load = Callable[..., Config]

ROUNDED = 0.00051 / 3600  # hours: `seconds` are told to the millisecond


def calibrated(config: Config, **selection: Any) -> Calibration | None:
    cache = Cache(config.cache)
    return calibrate(config, cache, make_plan(config, cache, **selection))


def files(folder: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(Path(folder).rglob("*"))}


@pytest.mark.parametrize("store", ["store.kind=zarr", "store.kind=hdf5"])
def test_one_unit_is_measured_and_nothing_is_written(load: Load, tmp_path: Path, store: str) -> None:
    config = load(store, "run.workers=2")
    index(config)
    before = files(str(tmp_path))
    found = calibrated(config)
    assert files(str(tmp_path)) == before
    assert found is not None
    assert (found.clips, found.failed, found.device, found.threads, found.workers) == (2, 0, "cpu", 1, 1)
    assert found.stage_seconds.keys() == {"waiting for the first batch", "proposals", "features/tiny", "regions/tiny",
                                          "copy", "waiting for writer", "rest"}  # fmt: skip
    assert 0 < sum(found.stage_seconds.values()) <= found.seconds + 0.01
    assert found.hours == pytest.approx(3 * found.seconds / 3600, abs=3 * ROUNDED), "three units are missing"
    assert found.peak_bytes > 10**8


@pytest.mark.parametrize("key", ["features/tiny", "proposals"])
def test_another_precision_is_measured_on_one_batch(load: Load, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """On a device that is slow in bf16, by a clock that only networks move."""
    time, ran = Time(), []
    monkeypatch.setattr("kinegraph.stages.clock.monotonic", time)
    monkeypatch.setattr("kinegraph.pipeline.extraction.other_precision.perf_counter", time)
    monkeypatch.setattr("kinegraph.pipeline.extraction.calibration.is_slow_at", lambda precision, device: True)
    owner, name = (FeatureExtractor, "maps") if key == "features/tiny" else (NetworkSource, "propose")
    original = getattr(owner, name)

    def slow(network: Any, given: Any) -> Any:
        ran.append(network.options.precision)
        time.now += 10 if ran[-1] == "bf16" else 4
        return original(network, given)

    monkeypatch.setattr(owner, name, slow)
    precision = ["proposals={source: tiny, weights: random:0, precision: bf16}", "backbones.tiny.precision=bf16"]
    config = load(*precision)
    index(config)
    found = calibrated(config)
    assert found is not None
    section = "backbones.tiny" if key == "features/tiny" else "proposals"
    assert f"(`{key}`), 100 % of the work of this unit" in found.limit
    assert f"`{section}.precision: fp32` saves 60 % of that, measured on one batch" in found.limit
    assert ran[-4:] == ["fp32", "fp32", "bf16", "bf16"], "each once before it is measured"
    assert set(ran[:-4]) == {"bf16"}


def test_workers_side_by_side(load: Load) -> None:
    config = load("run.executor=local", "run.workers=3")
    index(config)
    found = calibrated(config)
    assert found is not None
    assert found.workers == 3
    assert found.hours == pytest.approx(found.seconds / 3600, abs=ROUNDED)


def test_what_is_sealed_is_read_and_not_run_again(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load()
    index(config)
    extract(config, stages=["features", "proposals"])
    monkeypatch.setattr("kinegraph.pipeline.extraction.feed.decode_clips", Mock(side_effect=AssertionError("decoded")))
    found = calibrated(config, stages=["regions"])
    assert found is not None
    assert "regions/tiny" in found.stage_seconds
    assert not found.stage_seconds.keys() & {"proposals", "features/tiny"}


def test_the_unit_that_most_are_like(load: Load) -> None:
    config = load()
    index(config)
    extract(config, stages=["features"], part=(1, 3))
    extract(config, stages=["features"], part=(2, 3))
    found = calibrated(config)
    assert found is not None
    assert "features/tiny" not in found.stage_seconds, "two of three units have features already"


def test_videos_that_are_gone_tell_nothing(load: Load, video_folder: Path) -> None:
    config = load()
    index(config)
    for video in video_folder.rglob("*.mp4"):
        video.unlink()
    found = calibrated(config)
    assert found is not None
    assert (found.failed, found.hours) == (2, None)


def test_other_weights_than_the_caches_are_refused(load: Load) -> None:
    config = load()
    index(config)
    extract(config, limit=2)
    with pytest.raises(CacheMismatch, match="weights_sha256") as caught:
        calibrated(load("backbones.tiny.weights=random:1"))
    assert str(caught.value).startswith(f"{config.cache} holds 'features/tiny'")


def test_nothing_is_missing(load: Load, whole: Cache) -> None:
    assert calibrated(load(name="whole")) is None
