"""A tail is trained on a cache, from the weights that made it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from kinegraph.cache_schemas.cache import Cache
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.exchange.imported_stages import Naming
from kinegraph.pipeline.exchange.importing import import_features
from kinegraph.pipeline.extraction.run import extract
from kinegraph.pipeline.training.scoring import evaluate_run
from kinegraph.pipeline.training.table import TrainedRun, train_runs
from kinegraph.pipeline.training.tails import require_whole_maps
from kinegraph.pipeline.training.trainable import build_for
from kinegraph.stages.backbones.build import build_backbone
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.heads.build import build_head
from kinegraph.stages.heads.head import HeadError
from kinegraph.stages.training.options import TrainOptions
from tests.conftest import moving_square, write_video
from tests.foreign import write_npy

NET = {"size": 64, "store": ["maps"], "precision": "fp32"}
TINY = NET | {"model": "tiny_i3d", "weights": "random:0", "taps": ["res3"]}
BLOCKS = [{"block": "atr", "in_branch": "res5"}, {"block": "trg", "after": "res5.1", "options": {"num_heads": 1}}]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a ResNet-18."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    safetensors.torch.save_file(build_backbone("resnet18", "random:3", ["res5"]).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> dict[str, Any]:
    """Maps of res4 from the checkpoint, and of random weights; two classes in three splits."""
    root = tmp_path_factory.mktemp("tails")
    for number, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 2):
        label = "left" if number % 2 else "right"
        write_video(root / "videos" / split / label / f"{number}.mp4", moving_square(8, 96, 80, seed=number))
    net = NET | {"model": "resnet18", "weights": str(weights), "taps": ["res4"], "store": ["maps", "pooled"]}
    tail = {"from": "res4", "backbone": "net", "blocks": BLOCKS, "learning_rate_factor": 0.1}
    found = {
        "cache": str(root / "cache"),
        "dataset": {"kind": "folder", "root": str(root / "videos")},
        "clips": {"num_frames": 4, "sampling": "uniform", "crops": ["center"]},
        "backbones": {"net": net, "other": net | {"weights": "random:0", "every": 2}, "tiny": TINY},
        "run": {"executor": "inline", "threads": 1, "device": "cpu"},
        "train": {"head": "avg_pool", "options": {"tail": tail}, "epochs": 2, "batch_size": 4},
    }
    config = check_config(found, "test")
    index(config)
    assert not extract(config).failures
    return found


def config_with(document: dict[str, Any], tmp_path: Path, **tail: Any) -> Config:
    known = document["train"]["options"]["tail"]
    train = document["train"] | {"options": {"tail": known | tail}, "run": str(tmp_path / "run")}
    return check_config(document | {"train": train}, "test")


@pytest.fixture(scope="module")
def run(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    (trained,) = train_runs(config_with(document, tmp_path_factory.mktemp("trained")))
    return trained


def test_a_tail_is_trained_stored_and_scored(document: dict[str, Any], run: TrainedRun) -> None:
    record = json.loads((run.folder / "run.json").read_text())
    assert record["reads"] == ["features/net/res4"]
    assert record["options"]["tail"]["model"] == "resnet18"
    assert record["options"]["tail"]["blocks"][0]["options"]["reduction"] == 16, "complete"
    stored = safetensors.torch.load_file(run.folder / "model.safetensors")
    first = safetensors.torch.load_file(document["backbones"]["net"]["weights"])
    tail = {name.replace("host.", "").removeprefix("tail.network."): tensor for name, tensor in stored.items()}
    assert not torch.equal(tail["layer4.0.conv1.weight"], first["layer4.0.conv1.weight"])
    assert torch.equal(tail["layer4.1.bn2.running_mean"], first["layer4.1.bn2.running_mean"])
    assert not any(name.startswith("tail.network.layer3") for name in stored)
    scores = evaluate_run(run.folder).result
    assert (scores.num_videos, scores.metrics["top5"]) == (2, 1.0)


def test_a_stored_run_needs_no_checkpoint(
    document: dict[str, Any], weights: Path, run: TrainedRun, tmp_path: Path
) -> None:
    before = evaluate_run(run.folder, split="train").result.loss
    moved = weights.rename(weights.with_name("moved.safetensors"))
    try:
        assert evaluate_run(run.folder, split="train").result.loss == before
        with pytest.raises(ValueError, match="are neither a file nor one of"):
            build_for_tail(config_with(document, tmp_path))
        build_for_tail(config_with(document, tmp_path, weights=str(moved)))  # the same file, elsewhere
    finally:
        moved.rename(weights)


def build_for_tail(config: Config) -> None:
    build_for(Cache(config.cache), config.train.recipe)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ({"weights": "random:3"}, "'random:3' has sha256 .* features/net was made with .* extract again"),
        ({"backbone": "other", "weights": "random:1"}, "'random:1' has sha256"),
        ({"model": "resnet34"}, "tail.model: given 'resnet34', features/net was made with 'resnet18'"),
        ({"backbone": None}, "Several arrays fit; choose one"),
        ({"backbone": "tiny", "from": "res3"}, "features/tiny is of tiny_i3d; the networks that can be a tail"),
        ({"from": "res3"}, "Missing features/net/res3. .*a copy of net .*with `taps: .res3.` and `store: .maps.`"),
    ],
)
def test_what_does_not_belong_above_the_cache_is_refused(
    document: dict[str, Any], tmp_path: Path, tail: dict[str, Any], message: str
) -> None:
    with pytest.raises(HeadError, match=message):
        build_for_tail(config_with(document, tmp_path, **tail))


def test_random_weights_go_on_as_they_began(document: dict[str, Any], tmp_path: Path) -> None:
    build_for_tail(config_with(document, tmp_path, backbone="other", blocks=[]))


@pytest.mark.parametrize("tap", ["res3", "res5"])
def test_regions_lie_on_maps_of_networks_that_take_frames_in_groups(tap: str) -> None:
    geometry = entry("nonlocal_i3d_r50", weights="nonlocal_net_32x4")
    assert geometry.tap(tap).frames_multiple > 1
    maps = geometry.tap(tap).shape(32, 224)
    spec = {f"features/net/{tap}": maps, "proposals/boxes": (32, 4, 4), "proposals/count": (32,), "clips/crop": (4,)}
    head = build_head("proposal_pool", spec, 2, regions_from="maps", dim=8)
    stage = SimpleNamespace(options={"model": "nonlocal_i3d_r50", "options": dict(geometry.chosen), "size": 224})
    cache: Any = SimpleNamespace(stage=lambda key: stage)
    require_whole_maps(cache, head)


def test_imported_maps_have_no_network_above_them(tmp_path: Path) -> None:
    write_npy(tmp_path / "maps", {"a/1": np.zeros((2, 3, 4, 4)), "b/2": np.zeros((2, 3, 4, 4))})
    import_features(tmp_path / "maps", tmp_path / "cache", naming=Naming(name="mine", tap="res4"))
    options = TrainOptions(head="avg_pool", options={"tail": {"from": "res4"}})
    with pytest.raises(HeadError, match="features/mine is imported; the networks that can be a tail are resnet18"):
        build_for(Cache(tmp_path / "cache"), options)
