"""One small cache that several tests read: a good and a bad video among others, two crops, two backbones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.extraction.run import extract
from tests.conftest import moving_square, write_video

BAD = "b/bad.mp4"


def tiny(**changed: Any) -> dict[str, Any]:
    known = {"model": "tiny_i3d", "weights": "random:0", "taps": ["res4"], "size": 64, "store": ["maps", "pooled"]}
    return known | {"precision": "fp32"} | changed


def made(config: Config) -> Cache:
    index(config)
    extract(config)
    return Cache(config.cache)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(root / "a" / f"v{number}.mp4", moving_square(12 + number, 96, 80, seed=number))
    (root / "b").mkdir()
    (root / BAD).write_text("no video")
    return root


@pytest.fixture(scope="module")
def config_for(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    """A config on `videos` with a cache of its own."""

    def config(**sections: Any) -> Config:
        document = {
            "cache": str(tmp_path_factory.mktemp("cache")),
            "dataset": {"kind": "folder", "root": str(videos)},
            "clips": {"num_frames": 8, "sampling": "uniform", "crops": ["left", "right"]},
            "backbones": {"tiny": tiny(), "slow": tiny(taps=["res2", "res4"], every=2, weights="random:1")},
            "proposals": {"source": "tiny", "weights": "random:0", "every": 2, "top": 6},
            "regions": {"backbones": ["tiny"]},
            "store": {"shard_clips": 4},
            "run": {"executor": "inline", "threads": 1, "batch_size": 3},
        }
        return check_config(document | sections, "test")

    return config
