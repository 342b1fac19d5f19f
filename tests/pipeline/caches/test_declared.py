"""What a config says becomes fingerprinted options; those left at their default are as if they had never been added."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.config import Config, check_config, load_config
from tests.conftest import tiny_stages

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
RECORDED = Path(__file__).with_name("stage_digests.json")
BOXES = {"source": "file", "files": "boxes/{stem}.npz"}
GRAPHS = {"source": "file", "files": "graphs/{stem}.json", "max_frames": 4, "max_objects": 3}
NAMES = {"classes": ["person", "cup"], "relations": ["holding"]}
SECTIONS: dict[str, dict[str, Any]] = {  # in place of those of `tiny_stages`
    "tiny": {},
    "all regions": {"regions": {"backbones": ["tiny"], "grid": True, "reduce": "mean", "storage_dtype": "float32"}},
    "boxes from files": {"proposals": BOXES},
    "boxes by index": {"proposals": BOXES | {"frames": "index", "box_format": "xywh"}},
    "boxes with labels": {"proposals": BOXES | {"labels": ["cup", "person"]}},
    "a grid": {"proposals": {"source": "grid", "cells": [2, 3]}},
    "torchvision": {"proposals": {"source": "torchvision", "weights": "coco_v1", "short_side": 256}},
    "detectron2": {"proposals": {"source": "detectron2"}},
    "graphs from files": {"graphs": GRAPHS | {"vocabulary": NAMES}},
    "generated graphs": {"dataset": {"kind": "interactions", "root": "v"}, "graphs": {"source": "interactions"}},
    "frames by number": {"clips": {"num_frames": 8, "fps": "native", "frame_step": 2, "crops": ["full", "left_flip"]}},
}


def configs() -> dict[str, Config]:
    """Every example, and a config of each source."""
    examples = {path.relative_to(EXAMPLES).as_posix(): load_config(path) for path in sorted(EXAMPLES.rglob("*.yaml"))}
    tiny = tiny_stages(Path("cache"), Path("videos"))
    return examples | {name: check_config(tiny | sections, name) for name, sections in SECTIONS.items()}


def digests(config: Config) -> str:
    """Stage keys in order, each with a digest of its document: fingerprint, options and arrays as they are on disk."""
    weights = {key: hashlib.sha256(key.encode()).hexdigest() for key in declare(config, {}).stages}
    found = {
        key: json.dumps(stage.document(), sort_keys=True) for key, stage in declare(config, weights).stages.items()
    }
    return ", ".join(f"{key} {hashlib.sha256(words.encode()).hexdigest()[:8]}" for key, words in found.items())


def test_stages_are_those_recorded() -> None:
    """Caches that were begun must go on: where a stage is meant to change, its version is raised."""
    now = {name: digests(config) for name, config in configs().items()}
    assert now == json.loads(RECORDED.read_text())


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


def test_swscale_is_fingerprinted_where_it_is_chosen() -> None:
    assert stage(resize_short=256, size=224, resize="swscale").options["resize"] == "swscale"
    assert stage(resize_short=256, size=224, resize="pillow") == stage(resize_short=256, size=224)
    boxes = {"source": "torchvision", "weights": "random:0"}
    found, pillows = (
        declare(check_config({"cache": "cache", "proposals": boxes | {"resize": how}}, "test"), {}).stages["proposals"]
        for how in ("swscale", "pillow")
    )
    assert found.options == pillows.options | {"resize": "swscale"}
    assert "resize" not in pillows.options


@pytest.mark.parametrize(
    ("model", "threshold"), [("fasterrcnn_resnet50_fpn", None), ("fasterrcnn_mobilenet_v3_large_fpn", 0.05)]
)
def test_a_proposal_networks_score_threshold_is_fingerprinted(model: str, threshold: float | None) -> None:
    document = {"cache": "cache", "proposals": {"source": "torchvision", "model": model, "weights": "random:0"}}
    found = declare(check_config(document, "test"), {}).stages["proposals"]
    assert found.options.get("score_threshold") == threshold
