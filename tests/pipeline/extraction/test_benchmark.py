"""`bench` measures the same work in several ways, and leaves the cache as it is."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import nn

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.benchmark import comparison
from kinegraph.pipeline.extraction.benchmark.comparison import SpeedComparison, compare, spread_rows
from kinegraph.pipeline.extraction.benchmark.forwards import record_calls, run_again
from kinegraph.pipeline.extraction.benchmark.plain_loop import PillowFrames, PlainLoop
from kinegraph.pipeline.extraction.benchmark.torchcodec_frames import TorchcodecFrames
from kinegraph.stages.errors import UsageError
from tests.caches import rows_of

Load = Callable[..., Config]
CPU = torch.device("cpu")


@pytest.fixture
def no_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchcodec counts as not installed, also where it is."""
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)


class _FakeVideo:
    """The part of torchcodec's VideoDecoder that is used, with PyAV below it."""

    def __init__(self, path: str, num_ffmpeg_threads: int) -> None:
        with av.open(path) as container:
            frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        self._seconds = np.array([seconds for seconds, _ in frames])
        self._pixels = torch.from_numpy(np.stack([pixels for _, pixels in frames])).permute(0, 3, 1, 2)
        self.metadata = ModuleType("metadata")
        self.metadata.num_frames = len(frames)  # type: ignore[attr-defined]
        self.metadata.begin_stream_seconds = self._seconds[0]  # type: ignore[attr-defined]
        self.metadata.end_stream_seconds = 2 * self._seconds[-1] - self._seconds[-2]  # type: ignore[attr-defined]

    def get_frames_at(self, indices: list[int]) -> Any:
        found = ModuleType("batch")
        found.data = self._pixels[indices]  # type: ignore[attr-defined]
        return found

    def get_frames_played_at(self, seconds: list[float]) -> Any:
        assert max(seconds) < self.metadata.end_stream_seconds
        return self.get_frames_at([int(np.searchsorted(self._seconds, at, "right")) - 1 for at in seconds])


@pytest.fixture
def fake_torchcodec(monkeypatch: pytest.MonkeyPatch) -> None:
    decoders = ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = _FakeVideo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def compared(config: Config, clips: int = 4) -> SpeedComparison:
    return compare(config, Cache(config.cache), clips=clips, rounds=2)


@pytest.mark.usefixtures("no_torchcodec")
def test_all_ways_are_measured_and_nothing_is_written(load: Load, tmp_path: Path) -> None:
    config = load()
    index(config)
    before = files(tmp_path)
    found = compared(config).to_json()
    assert files(tmp_path) == before
    assert (found["clips"], found["videos"], found["frames"], found["failed"]) == (4, 4, 32, 0)
    assert found["seconds"].keys() == {"whole extraction", "networks alone", "decoding alone", "plain loop"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found["seconds"].values())
    assert found["left_out"] == {"plain loop, torchcodec": "torchcodec is not installed"}
    assert found["stages"] == ("clips", "features/tiny", "proposals", "regions/tiny")
    assert (found["schema"], found["device"], found["threads"], found["batch_size"]) == (1, "cpu", 1, 2)
    assert {"machine", "versions", "date", "load", "load_after"} <= found.keys()


@pytest.mark.usefixtures("fake_torchcodec")
def test_torchcodec_decodes_the_plain_loop_where_it_is_installed(load: Load) -> None:
    config = load("proposals=null", "regions=null", "store.kind=hdf5", "run.executor=local")
    index(config)
    found = compared(config, clips=2)
    assert {"plain loop, torchcodec", "decoding, torchcodec"} <= found.seconds.keys()
    assert found.left_out == {}


@pytest.mark.parametrize("sampling", [{}, {"clips.fps": "native", "clips.crops": "[left_flip, center]"}])
@pytest.mark.parametrize("decoder", [PillowFrames, lambda: TorchcodecFrames(1)], ids=["pillow", "torchcodec"])
@pytest.mark.usefixtures("fake_torchcodec")
def test_the_plain_loop_computes_what_the_extraction_computes(
    load: Load, complete: Callable[..., Cache], tmp_path: Path, sampling: dict[str, str], decoder: Callable[[], Any]
) -> None:
    config = load("regions.storage_dtype=float32", *(f"{key}={value}" for key, value in sampling.items()))
    cache = complete(config)
    rows = list(cache.clips.rows())
    with torch.inference_mode():
        PlainLoop(config, CPU, decoder()).run(rows, tmp_path)
    pooled = np.stack([np.load(tmp_path / f"{number:06}_tiny_res4_pooled.npy") for number in range(len(rows))])
    expected = rows_of(config.cache, "features/tiny/res4_pooled")
    assert len(rows) == 6 * config.clips.rows_per_video
    tolerance = 1e-4 if decoder is PillowFrames else 0.05  # torchvision resizes tensors a little otherwise
    np.testing.assert_allclose(pooled, expected, atol=tolerance * np.abs(expected).max())
    counts = rows_of(config.cache, "proposals/count")
    regions = rows_of(config.cache, "regions/tiny/res4")
    for number, (count, of_row) in enumerate(zip(counts, regions, strict=True)):
        plain = np.load(tmp_path / f"{number:06}_tiny_res4_regions.npy")
        if decoder is PillowFrames and not sampling:  # crops drop boxes in the extraction alone
            step = len(count) // len(of_row)
            kept = np.concatenate([boxes[:n] for boxes, n in zip(of_row, count[::step], strict=True)])
            assert plain.shape == kept.shape
            assert np.median(np.abs(plain - kept)) < 1e-4 * kept.max(), "boxes of almost equal scores may swap"
        assert np.isfinite(plain).all()


@pytest.mark.usefixtures("no_torchcodec")
def test_clips_that_fail_are_left_out_of_all_ways(load: Load, video_folder: Path) -> None:
    config = load("proposals=null", "regions=null")
    index(config)
    next(iter(sorted(video_folder.rglob("*.mp4")))).unlink()
    found = compared(config, clips=6)
    assert (found.clips, found.failed) == (5, 1)
    for video in video_folder.rglob("*.mp4"):
        video.unlink()
    with pytest.raises(UsageError, match="bench: all 6 clips failed, so nothing can be measured"):
        compared(config, clips=6)


@pytest.mark.usefixtures("no_torchcodec")
def test_what_the_plain_loop_cannot_do_is_said(load: Load) -> None:
    config = load("proposals={source: grid, cells: [2, 2], every: 2}", "regions=null")
    index(config)
    found = compared(config, clips=2)
    assert found.left_out["plain loop"] == "it has no proposals of the source grid"
    assert "plain loop" not in found.seconds


def test_a_plain_loop_that_fails_is_left_out(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise ValueError("no such box\nmore")

    config = load("proposals=null", "regions=null")
    index(config)
    monkeypatch.setattr(PillowFrames, "square", fails)
    found = compared(config, clips=2)
    assert found.left_out["plain loop"] == "it fails here: no such box"


def test_rows_come_from_all_parts_of_the_cache(load: Load) -> None:
    config = load("clips.sampling=dense", "clips.per_video=3")
    index(config)
    cache = Cache(config.cache)
    assert cache.num_shards == 9
    rows = [row.clip_id for row in spread_rows(cache, 4, 2)]
    every = [row.clip_id for row in cache.clips.rows()]
    assert rows == [*every[0:2], *every[8:10]]
    assert [row.clip_id for row in spread_rows(cache, 100, 3)] == every
    assert len(spread_rows(cache, 5, 3)) == 5


def test_imported_stages_are_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load()
    index(config)
    declared = declare(config, {})
    monkeypatch.setattr(comparison, "declare", lambda *_: type(declared)(declared.recipe, {}, frozenset(["proposals"])))
    with pytest.raises(UsageError, match="bench: the config reads the imported proposals"):
        compared(config)


class _Doubled(nn.Module):
    """A network with a layer, which counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(1, 1), 0

    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        self.calls += 1
        self.dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        self.seen = x
        return torch.as_tensor(self.layer(x)) * times


@pytest.fixture
def network() -> _Doubled:
    return _Doubled()


def test_calls_of_networks_are_recorded_and_run_again(network: _Doubled) -> None:
    x = torch.ones(2, 1)
    with record_calls(CPU) as forwards:
        network(x, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network(x, 3)
    network(x, 4)
    x.zero_()  # the pipeline may use its buffers again
    assert [(forward.network, forward.arguments[1], forward.autocast_dtype) for forward in forwards] == [
        (network, 2, None),
        (network, 3, torch.bfloat16),
    ]
    network.calls = 0
    run_again(forwards, CPU)
    assert (network.calls, network.dtype) == (2, torch.bfloat16)
    assert bool((network.seen == 1).all())


def test_a_call_that_fails_is_no_layer_of_the_next(network: _Doubled) -> None:
    with record_calls(CPU) as forwards:
        with pytest.raises(RuntimeError):
            network(torch.ones(2, 7), 2)
        network(torch.ones(2, 1), 2)
    assert len(forwards) == 2
