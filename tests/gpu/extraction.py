"""Whole extractions of videos: failures and values of a GPU against those of the CPU, and after an interruption."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import rows_of, write_config
from tests.conftest import six_videos, tiny_stages
from tests.gpu.checks import Check

GRID: dict[str, Any] = {"source": "grid", "cells": [1, 2], "every": 2}


def part(device: torch.device, small: bool) -> Iterator[Check]:
    with tempfile.TemporaryDirectory() as folder:
        videos = six_videos(Path(folder) / "videos")
        broken = videos / "left" / "v3.mp4"
        broken.write_bytes(broken.read_bytes()[:900])
        proposals = {"grid": GRID} if small else {"grid": GRID, "rpn": {"source": "tiny", "every": 2, "top": 4}}
        for name, options in proposals.items():
            expected = _extracted(Path(folder) / f"{name}_cpu", videos, options, "cpu", limit=None)
            found = _extracted(Path(folder) / f"{name}_device", videos, options, str(device), limit=2)
            yield Check(
                what=f"{name}: clips that fail for another reason", found=len(_failures(found) ^ _failures(expected)),
                allowed=0,
            )  # fmt: skip
            yield Check(what=f"{name}: problems that verify finds", found=len(verify(found.root).problems), allowed=0)
            for array in ("features/tiny/res4", "features/tiny/res4_pooled", "regions/tiny/res4"):
                far = _far(rows_of(found.root, array), rows_of(expected.root, array))
                yield Check(what=f"{name}: {array}, distance from the CPU", found=far, allowed=5e-3, unit="std")


def _extracted(root: Path, videos: Path, proposals: dict[str, Any], device: str, limit: int | None) -> Cache:
    """With a `limit`, in two runs."""
    document = tiny_stages(root, videos) | {"proposals": proposals}
    document["run"] |= {"device": device, "executor": "inline"}
    config = load_config(write_config(root.with_suffix(".yaml"), document), ())
    cache = index(config).cache
    if limit is not None:
        extract(config, limit=limit)
    extract(config)
    return cache


def _failures(cache: Cache) -> set[tuple[str, str, str]]:
    return {
        (key, failure.clip_id, failure.reason)
        for key in cache.stage_keys()
        for record in cache.ledger.records(key)
        for failure in record.failures
    }


def _far(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest root mean square of the difference of a row, in standard deviations of all rows.

    Rows of failed clips are NaN. They must be the same rows.
    """
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    difference = np.nan_to_num(found.astype(np.float64) - expected)
    rows = np.sqrt((difference**2).mean(tuple(range(1, expected.ndim))))
    return float(rows.max() / np.nanstd(expected.astype(np.float64)))
