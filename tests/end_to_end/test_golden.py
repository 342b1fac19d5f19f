"""Outputs of every stage on one synthetic clip, recorded. If they move, so do caches: raise the stage's version.

Tolerances cover other machines and library versions (float32, an antialiased resize), not other computations.
"""

from pathlib import Path
from typing import Any

import numpy as np

from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from kinegraph.stages.backbones.stage import VERSION as FEATURES_VERSION
from kinegraph.stages.decode.wanted import LATEST_RULES
from kinegraph.stages.generated.interactions import encode, interaction
from kinegraph.stages.proposals.stage import VERSION as PROPOSALS_VERSION
from kinegraph.stages.regions.stage import VERSION as REGIONS_VERSION
from tests.caches import rows_of

VERSIONS = (2, 1, 1, 1)  # for which the outputs below were recorded
EXPECTED = {
    "clips/frame_times": [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
    "features/tiny/res4_pooled": [1.3087, 1.2561, 1.1911, 1.1607, 0.9272, 0.7765, 0.6437, 0.2459],
    "proposals/boxes": [74.1283, 69.9235, 65.4826, 61.2052, 36.7758, 52.5141, 48.2013, 43.7953],
    "proposals/scores": [11.4906, 11.2112, 11.115, 11.2438, 10.8388, 10.3848, 10.6008, 9.9738],
    "regions/tiny/res4": [2.4023, 2.4863, 1.9121, 2.7695, 7.7344, 5.9258, 2.3555, 2.1309],
}


def test_versions_are_those_recorded() -> None:
    assert (LATEST_RULES, FEATURES_VERSION, PROPOSALS_VERSION, REGIONS_VERSION) == VERSIONS


def test_recorded_outputs(tmp_path: Path) -> None:
    video = tmp_path / "videos" / "a.mp4"
    video.parent.mkdir()
    video.write_bytes(encode(interaction(0, "train", 0).frames))
    document: dict[str, Any] = {
        "cache": str(tmp_path / "cache"),
        "dataset": {"kind": "folder", "root": str(video.parent)},
        "clips": {"num_frames": 16, "sampling": "uniform", "crops": ["full"]},
        "backbones": {"tiny": {"model": "tiny_i3d", "weights": "shipped", "taps": ["res4"], "precision": "fp32"}},
        "proposals": {"source": "tiny", "weights": "shipped", "every": 2, "top": 4},
        "regions": {"backbones": ["tiny"]},
        "run": {"executor": "inline", "threads": 1},
    }
    config = check_config(document, "test")
    index(config)
    assert not extract(config).failures
    found = {name: rows_of(tmp_path / "cache", name)[0] for name in EXPECTED}
    for name, expected in EXPECTED.items():
        sample = found[name].reshape(-1).astype(np.float64)[:: max(1, found[name].size // 8)][:8]
        np.testing.assert_allclose(sample, expected, rtol=2e-3, atol=2e-3, err_msg=name)
