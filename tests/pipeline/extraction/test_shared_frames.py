"""Windows of a 2D backbone in a cache: shared frames are computed once, and the bytes are always the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.reader import CachedClips
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.backbones.extract import FeatureExtractor

KEY, POOLED = "features/r18", "features/r18/res2_pooled"
NET = {"model": "resnet18", "weights": "random:0", "taps": ["res2"], "store": ["pooled"], "size": 32}


def config_at(windows_config: Config, root: Path, **clips: object) -> Config:
    document = windows_config.model_dump(mode="json", exclude_unset=True)
    document |= {"cache": str(root), "backbones": {"r18": NET | {"precision": "fp32"}}}
    document["clips"] |= clips
    return check_config(document, "test")


def shards(cache: Cache) -> dict[str, bytes]:
    root = Path(cache.root) / "data.zarr"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("c.*"))}


@pytest.fixture(scope="module")
def extracted(windows_config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, int]:
    """The config of an extracted cache, and the number of frames that went through the network."""
    config = config_at(windows_config, tmp_path_factory.mktemp("shared") / "cache")
    index(config)
    counted, original = 0, FeatureExtractor.maps

    def counting(extractor: FeatureExtractor, clips: Tensor) -> dict[str, Tensor]:
        nonlocal counted
        counted += int(clips.flatten(1).any(1).sum())
        return original(extractor, clips)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractor, "maps", counting)
        extract(config)
    return config, counted


def test_frames_are_computed_once_and_equal_those_of_whole_clips(extracted: tuple[Config, int], tmp_path: Path) -> None:
    """Windows of 8 frames every 2, in shards of 7 rows. Windows every 8 frames share none and run as whole clips.

    Features agree to 1e-5: a convolution of another number of frames may round otherwise.
    """
    config, counted = extracted
    rows = [*Cache(config.cache).clips.rows()]
    distinct = {
        (number // 7, row.path, time) for number, row in enumerate(rows) if row.is_probed for time in row.target_times
    }
    assert counted == len(distinct)
    assert counted < 8 * len(rows) / 2
    apart = config_at(config, tmp_path / "apart", hop_frames=8)
    index(apart)
    extract(apart)
    assert Cache(config.cache).stage(KEY).options["shared_frames"] == 1
    assert "shared_frames" not in Cache(apart.cache).stage(KEY).options
    every, plain = (CachedClips(each.cache, [POOLED]).video("long.mp4") for each in (config, apart))
    torch.testing.assert_close(every[POOLED][::4], plain[POOLED], rtol=1e-5, atol=1e-5)
    assert np.array_equal(every["start_seconds"][::4], plain["start_seconds"])


def test_a_resumed_and_a_retried_cache_have_the_same_bytes(extracted: tuple[Config, int], tmp_path: Path) -> None:
    config, _ = extracted
    shutil.copytree(config.cache, tmp_path / "cache")
    own = config.model_copy(update={"cache": str(tmp_path / "cache")})
    cache = Cache(own.cache)
    expected = shards(cache)
    cache.ledger.unseal(KEY, 1)
    failed = Path(own.cache) / "ledger" / KEY / "000000.json"
    record = json.loads(failed.read_text())
    record["failures"] = [{"clip_id": "long.mp4:5:center", "reason": "timeout", "detail": "by the test"}]
    failed.write_text(json.dumps(record))
    path = Path(own.cache) / "data.zarr" / KEY / "res2_pooled" / "c.0.0.0"
    assert path.exists()
    extract(own)
    outcome = extract(own, retry_failed=True)
    assert [failure.clip_id for failure in outcome.failures] == ["words.mp4:0:center"]
    after = shards(cache)
    features = [name for name in expected if name.startswith(KEY)]
    assert features
    assert {name: after[name] for name in features} == {name: expected[name] for name in features}
