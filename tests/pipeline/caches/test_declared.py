"""What a config says becomes fingerprinted options; those left at their default are as if they had never been added."""

from typing import Any

import pytest

from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.config import check_config


def stage(**backbone: Any) -> Any:
    document = {
        "cache": "cache",
        "dataset": {"kind": "folder", "root": "videos"},
        "backbones": {"net": {"model": "i3d_r50", "weights": "random:0", "taps": ["res5"]} | backbone},
    }
    return declare(check_config(document, "test"), {}).stages["features/net"]


@pytest.mark.parametrize("options", [{}, {"res5_stride": 1}, {"res5_stride": 1, "temporal_kernels": "alternate"}])
def test_default_options_leave_the_fingerprint_alone(options: dict[str, Any]) -> None:
    assert "options" not in stage(options=options).options
    assert stage(options=options).fingerprint == stage().fingerprint


def test_a_chosen_option_is_fingerprinted_and_shapes_the_arrays() -> None:
    shorter = stage(options={"res5_stride": 2, "temporal_kernels": "alternate"}, store=["maps"])
    assert shorter.options["options"] == {"res5_stride": 2}
    assert shorter.fingerprint != stage(store=["maps"]).fingerprint
    assert [spec.shape for spec in shorter.arrays] == [(16, 2048, 7, 7)]
    assert [spec.shape for spec in stage(store=["maps"]).arrays] == [(16, 2048, 14, 14)]


@pytest.mark.parametrize(
    ("model", "threshold"), [("fasterrcnn_resnet50_fpn", None), ("fasterrcnn_mobilenet_v3_large_fpn", 0.05)]
)
def test_a_proposal_networks_score_threshold_is_fingerprinted(model: str, threshold: float | None) -> None:
    document = {"cache": "cache", "proposals": {"source": "torchvision", "model": model, "weights": "random:0"}}
    found = declare(check_config(document, "test"), {}).stages["proposals"]
    assert found.options.get("score_threshold") == threshold
