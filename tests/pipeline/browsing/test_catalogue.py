"""Filters on the columns of a cache, and a cache that grows while it is browsed."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheNotFound
from kinegraph.pipeline.browsing import catalogue
from kinegraph.pipeline.browsing.catalogue import NOT_RUN, OK, Catalogue, ClipFilter
from kinegraph.pipeline.browsing.scored import ScoredVideos
from kinegraph.pipeline.config import Config
from kinegraph.pipeline.extraction.run import extract

LEFT = ["left/v1.mp4", "left/v3.mp4", "left/v5.mp4"]


def names(cache: Cache, rows: np.ndarray) -> list[str]:
    ids = cache.clips.column("video_id")
    return [str(ids[row]) for row in rows.tolist()]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (ClipFilter(label="left"), LEFT),
        (ClipFilter(label="LEF"), LEFT),
        (ClipFilter(name="V3"), ["left/v3.mp4"]),
        (ClipFilter(name="v.mp4"), []),
        (ClipFilter(status="failed"), []),
        (ClipFilter(split="nowhere"), []),
        (ClipFilter(status="ok", label="left", name="v5"), ["left/v5.mp4"]),
        (ClipFilter(verdict="right"), ["left/v1.mp4"]),
        (ClipFilter(verdict="wrong"), ["left/v3.mp4"]),
        (ClipFilter(verdict="none", label="left"), ["left/v5.mp4"]),
        (ClipFilter(predicted="right"), ["left/v3.mp4"]),
    ],
    ids=str,
)
def test_filters(whole: Cache, wanted: ClipFilter, found: list[str]) -> None:
    scored = ScoredVideos.of(
        pa.array(["left/v3.mp4", "left/v1.mp4", "gone.mp4", "left/v5.mp4"]),
        np.array([[0.1, 0.9], [0.9, 0.1], [0.5, 0.5], [np.nan, 0.0]], np.float32),
    )
    assert names(whole, Catalogue(whole.root).now().matching(wanted, scored)) == found


def test_a_cache_that_grows(
    load: Callable[..., Config], complete: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(name="growing")
    cache = complete(config, limit=2)
    monkeypatch.setattr(catalogue, "LOOK_AGAIN_SECONDS", 0.0)
    browsed = Catalogue(cache.root)
    assert browsed.now().status.tolist() == [OK, OK, NOT_RUN, NOT_RUN, NOT_RUN, NOT_RUN]
    assert browsed.now() is browsed.now(), "nothing is read again while nothing changes"
    extract(config)
    assert browsed.now().status.tolist() == [OK] * 6
    cache.ledger.unseal("proposals", 1)
    assert browsed.now().status.tolist() == [OK, OK, NOT_RUN, NOT_RUN, OK, OK]
    assert browsed.now().stages["proposals"].num_sealed == 2


def test_a_cache_without_shards(load: Callable[..., Config], complete: Callable[..., Cache]) -> None:
    cache = complete(load(name="indexed"), limit=1)
    for key in cache.stage_keys():
        cache.ledger.unseal(key, 0)
    clips = Catalogue(cache.root).now()
    assert set(clips.status.tolist()) == {NOT_RUN}
    assert len(clips.matching(ClipFilter())) == 6


def test_a_cache_without_rows(load: Callable[..., Config], complete: Callable[..., Cache]) -> None:
    cache = complete(load(name="rowless"), limit=1)
    cache.storage.delete("clips.parquet")
    with pytest.raises(CacheNotFound, match="only it says which row is which clip"):
        Catalogue(cache.root)
