"""Caches made in this process, on one thread, made once and copied for untouched videos; and a SLURM of our own."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config, check_config, load_config
from kinegraph.pipeline.extraction.executors import slurm
from kinegraph.pipeline.extraction.run import Outcome, extract
from tests import fake_slurm
from tests.caches import write_config
from tests.conftest import moving_square, six_videos, tiny_stages, write_video

ROOT = Path(__file__).resolve().parents[2]

Extract = Callable[..., Outcome]
WINDOWS_LINES = (
    "long.mp4,left,train,0.5,1.5",
    "long.mp4,right,train,1,9",
    "mid.mp4,right,test,0,1",
    "short.mp4,left,test,,",
    "words.mp4,left,train,0,1",
)


class Videos:
    """A folder that tests change, and that is put back to the last nanosecond of its files' mtimes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = self.now()

    def now(self) -> dict[Path, tuple[int, bytes] | None]:
        """Time and content of each file; None of what is no file."""
        return {
            path: (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else None
            for path in sorted(self.root.rglob("*"))
        }

    def put_back(self) -> None:
        if self.now() == self.state:
            return
        shutil.rmtree(self.root)
        for path, found in self.state.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if found is not None:
                path.write_bytes(found[1])
                os.utime(path, ns=(found[0], found[0]))


@pytest.fixture(scope="session")
def shared_videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    return Videos(six_videos(tmp_path_factory.mktemp("shared") / "videos"))


@pytest.fixture
def video_folder(shared_videos: Videos) -> Iterator[Path]:
    """The same six videos for all tests, each of which may change them."""
    yield shared_videos.root
    shared_videos.put_back()


@pytest.fixture
def inline_document(tiny_document: dict[str, Any]) -> dict[str, Any]:
    """`tiny_document`, in the calling thread."""
    return tiny_document | {"run": {"executor": "inline", "threads": 1, "batch_size": 2}}


@pytest.fixture
def load(tmp_path: Path, inline_document: dict[str, Any]) -> Callable[..., Config]:
    """The config, with overrides, and with the cache at `tmp_path / name`."""

    def loaded(*overrides: str, name: str = "cache") -> Config:
        path = write_config(tmp_path / f"{name}.yaml", inline_document | {"cache": str(tmp_path / name)})
        return load_config(path, overrides)

    return loaded


@pytest.fixture(scope="session")
def complete(shared_videos: Videos, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Cache]:
    """Index and extract as a config says, keywords as of `extract`; a cache that was made so before is copied.

    Made before is what was made of the same videos, to the last nanosecond of their mtimes.
    """
    made: dict[str, Path] = {}

    def completed(config: Config, **limits: Any) -> Cache:
        document = config.model_dump(mode="json", exclude={"cache", "run"})
        key = f"{json.dumps([document, limits])} {hash(tuple(shared_videos.now().items()))}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("complete") / "cache"
            own = config.model_copy(update={"cache": str(made[key])})
            index(own)
            extract(own, **limits)
        shutil.copytree(made[key], config.cache)
        return Cache(config.cache)

    return completed


@pytest.fixture(scope="session")
def windows_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The config of a cache of windows, which is extracted: 8 frames every 2, over videos of 40, 13 and 5 frames at 8
    frames a second, and over a file that is no video. Do not change its files.
    """
    root = tmp_path_factory.mktemp("windows")
    for name, frames in (("long", 40), ("mid", 13), ("short", 5)):
        write_video(root / "videos" / f"{name}.mp4", moving_square(frames, 96, 80, seed=frames))
    (root / "videos" / "words.mp4").write_text("words")
    (root / "listed.csv").write_text("\n".join(["path,label,split,start,end", *WINDOWS_LINES]))
    document = {
        "cache": str(root / "cache"),
        "dataset": {"kind": "folder", "root": str(root / "videos"), "annotations": str(root / "listed.csv")},
        "clips": {"num_frames": 8, "fps": "native", "sampling": "windows", "hop_frames": 2},
        "backbones": {"tiny": tiny_stages(root, root)["backbones"]["tiny"] | {"store": ["pooled"]}},
        "store": {"shard_clips": 7},
        "run": {"executor": "inline", "threads": 1, "batch_size": 4},
    }
    config = check_config(document, "windows")
    index(config)
    assert [failure.reason for failure in extract(config).failures] == ["unreadable"]
    return config


@pytest.fixture
def windows_cache(windows_config: Config) -> Cache:
    return Cache(windows_config.cache)


@pytest.fixture
def whole(load: Callable[..., Config], complete: Callable[[Config], Cache]) -> Cache:
    """All stages of all videos, in one run."""
    cache = complete(load(name="whole"))
    assert not any(record.failures for key in cache.stage_keys() for record in cache.ledger.records(key))
    return cache


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, shared_videos: Videos) -> Cache:
    """Each frame with boxes of the six videos has a box `cup`, and one with a hostile name. Do not change it."""
    tmp_path, video_folder = tmp_path_factory.mktemp("labelled"), shared_videos.root
    boxes = {"seconds": 0.0, "boxes": [[8, 8, 40, 40], [60, 10, 90, 50]], "scores": [0.9, 0.5], "labels": [0, 1]}
    for video in video_folder.rglob("*.mp4"):
        file = tmp_path / "boxes" / video.relative_to(video_folder).with_suffix(".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"frames": [boxes]}))
    document = tiny_stages(tmp_path / "labelled", video_folder) | {"backbones": {}, "regions": None}
    document["proposals"] = {
        "source": "file", "files": str(tmp_path / "boxes" / "{stem}.json"), "tolerance_seconds": 60,
        "labels": ["cup", "<b>dog"], "every": 2, "top": 4,
    }  # fmt: skip
    config = check_config(document | {"run": {"executor": "inline", "threads": 1}}, "labelled")
    index(config)
    assert extract(config).failures == ()
    return Cache(config.cache)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """State of a fake SLURM whose commands are on the PATH."""
    home = tmp_path / "fake"
    home.mkdir()
    fake_slurm.install(home / "bin")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.1)
    yield home
    fake_slurm.stop_all(home)
