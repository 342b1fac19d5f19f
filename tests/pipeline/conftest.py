"""Caches made in this process, on one thread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.cache import Cache
from pipeline.config import Config, load_config
from pipeline.extraction import Outcome, extract
from pipeline.indexing import index
from tests.caches import write_config

Extract = Callable[..., Outcome]


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


@pytest.fixture
def whole(load: Callable[..., Config]) -> Cache:
    """All stages of all videos, in one run."""
    config = load(name="whole")
    index(config)
    assert not extract(config).failures
    return Cache(config.cache)
