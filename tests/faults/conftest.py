"""Caches of the same videos, untouched and complete, and what a cache that was interrupted must come to."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import check_config, load_config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import same_bytes, write_config
from tests.conftest import moving_square, six_videos, tiny_stages, write_video


@dataclass(frozen=True)
class Prepared:
    """Caches of one kind of store: `indexed` with rows and no more, `undisturbed` with all that there is to extract."""

    folder: Path
    document: dict[str, Any]
    undisturbed: dict[str, Any]

    def copy(self, to: Path, origin: str = "indexed", **sections: Any) -> Path:
        """A config, with other `sections`, that has a cache of its own at `to`, a copy of `origin`."""
        shutil.copytree(self.folder / origin, to)
        return write_config(to.with_suffix(".yaml"), self.document | {"cache": str(to)} | sections)


@pytest.fixture(scope="session")
def prepare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    """By kind of store; the extraction is in one thread."""
    videos = six_videos(tmp_path_factory.mktemp("videos"))

    @cache
    def prepared(kind: str) -> Prepared:
        folder = tmp_path_factory.mktemp(kind)
        document = tiny_stages(folder / "indexed", videos) | {"store": {"kind": kind, "shard_clips": 2}}
        document["run"] |= {"executor": "inline"}
        index(check_config(document, kind))
        shutil.copytree(folder / "indexed", folder / "undisturbed")
        extract(check_config(document | {"cache": str(folder / "undisturbed")}, kind))
        return Prepared(folder, document, same_bytes(folder / "undisturbed"))

    return prepared


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """24 videos, so that something happens in the middle of it. Extraction has threads that decode, as by default."""
    folder = tmp_path_factory.mktemp("many")
    videos = six_videos(folder / "videos")
    for number in range(18):
        write_video(videos / "left" / f"more{number}.mp4", moving_square(12, 96, 80, seed=number))
    document = tiny_stages(folder / "indexed", videos)
    index(check_config(document, "many"))
    shutil.copytree(folder / "indexed", folder / "undisturbed")
    extract(check_config(document | {"cache": str(folder / "undisturbed")}, "many"))
    return Prepared(folder, document, same_bytes(folder / "undisturbed"))


@pytest.fixture(params=["zarr", "hdf5"])
def prepared(request: pytest.FixtureRequest, prepare: Callable[[str], Prepared]) -> Prepared:
    return prepare(request.param)


def records(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.glob("ledger/**/[0-9]*.json")}


def goes_on(config: Path, undisturbed: dict[str, object], retry_failed: bool = False) -> None:
    """What is sealed is right and stays; extraction does the rest."""
    root = config.with_suffix("")
    assert verify(root).ok
    sealed = records(root)
    extract(load_config(config))
    assert {path: when for path, when in records(root).items() if path in sealed} == sealed
    assert not extract(load_config(config), retry_failed=retry_failed).failures
    assert same_bytes(root) == undisturbed
    assert not list(root.rglob(".tmp-*"))
