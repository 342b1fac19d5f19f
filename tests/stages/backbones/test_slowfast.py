"""SlowFast: which frames its slow pathway takes, and what is left of it after a cut."""

import json
from typing import Any

import pytest
import torch

from kinegraph.cache_schemas.box_frames import box_frames_arrays
from kinegraph.cache_schemas.documents import StageDocument
from kinegraph.cache_schemas.stage import Stage
from kinegraph.stages.backbones.catalogue import entry
from kinegraph.stages.backbones.slowfast import SlowFast
from kinegraph.stages.backbones.taps import spread_frames
from kinegraph.stages.kinds import KINDS
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.weights.random import initialise
from tests.stages.stage_contract import declared


def test_slow_frames_are_those_of_slowfasts_datasets() -> None:
    assert spread_frames(32, 8) == (0, 4, 8, 13, 17, 22, 26, 31)
    for alpha in (4, 8):
        for num_frames in range(alpha, 257, alpha):
            count = num_frames // alpha
            assert [*spread_frames(num_frames, count)] == torch.linspace(0, num_frames - 1, count).long().tolist()


def small() -> SlowFast:
    return SlowFast((1, 1, 1, 1), alpha=4, fusion_frames=5).eval()


def drawn(seed: int, taps: list[str]) -> SlowFast:
    network = small()
    network.cut(taps)
    initialise(network, seed)
    return network


@pytest.mark.parametrize(
    ("taps", "kept"),
    [
        (["slow_res3"], {"slow": 3, "fast": 2, "fuse": 2}),
        (["fast_res3"], {"slow": 0, "fast": 3, "fuse": 0}),
        (["slow_res2", "fast_res4"], {"slow": 2, "fast": 4, "fuse": 1}),
        (["fast_stem"], {"slow": 0, "fast": 1, "fuse": 0}),
    ],
)
def test_a_cut_keeps_what_the_taps_need_of_both_pathways(taps: list[str], kept: dict[str, int]) -> None:
    """Of each pathway, the number of its highest stage (1: the stem, 0: none); of the fusions, their number."""
    with torch.device("meta"):
        whole, network = small(), small()
    network.cut(taps)
    for pathway in ("slow", "fast"):
        names = {name.split(".")[1] for name in network.state_dict() if name.startswith(pathway)}
        wanted = {"conv1", "bn1"} if kept[pathway] else set()
        assert names == wanted | {f"res{stage}" for stage in range(2, kept[pathway] + 1)}
    assert len({name.split(".")[0] for name in network.state_dict() if name.startswith("fuse")}) == kept["fuse"]
    clips = torch.empty(1, 3, 8, 64, 64, device="meta")
    assert {tap: x.shape for tap, x in network(clips).items()} == {tap: whole(clips)[tap].shape for tap in taps}


@torch.inference_mode()
def test_what_is_cut_away_does_not_change_what_is_left() -> None:
    """Neither its random weights nor its maps."""
    taps = ["slow_res3", "fast_res3"]
    both = drawn(0, taps)
    clips = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = both(clips)
    for tap in taps:
        assert torch.equal(drawn(0, [tap])(clips)[tap], maps[tap])
    assert not torch.equal(drawn(1, taps)(clips)["slow_res3"], maps["slow_res3"])
    kernels = [x.flatten()[:9] for x in both.state_dict().values() if x.ndim == 5]
    assert len({tuple(kernel.tolist()) for kernel in kernels}) == len(kernels)


def test_a_number_of_frames_that_alpha_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="30 frames: fast_res5 needs a multiple of 4"):
        entry("slowfast_r50_8x8").tap("fast_res5").shape(30, 64)
    with torch.device("meta"), pytest.raises(ValueError, match="30 frames: SlowFast needs a multiple of 4"):
        small()(torch.empty(1, 3, 30, 64, 64))


def test_one_pathway_alone_does_not_go_on() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="maps of both pathways"):
        small().cut_below("slow_res4")


def test_maps_of_the_slow_pathway_belong_to_its_frames() -> None:
    slow, fast = (entry("slowfast_r50_8x8").tap(tap) for tap in ("slow_res5", "fast_res5"))
    assert (slow.shape(32, 256), fast.shape(32, 256)) == ((8, 2048, 8, 8), (32, 256, 8, 8))
    assert slow.frames_of_maps(8, 32) == [0, 4, 8, 13, 17, 22, 26, 31]
    assert slow.frames_of_maps(8, 64) == [0, 8, 16, 26, 34, 44, 52, 62]  # the network takes every second frame
    assert range(32)[fast.frames_of_maps(32, 32)] == range(32)


def recipe(**more: Any) -> Recipe:
    entry = {"model": "slowfast_r50_8x8", "weights": "random:0", "taps": ["slow_res5", "fast_res5"], **more}
    return Recipe.model_validate({"clips": {"num_frames": 64}, "backbones": {"both": entry}})


def test_arrays_of_the_slow_pathway_list_their_frames() -> None:
    stage = declared(recipe(every=2, store=["maps", "pooled"]))["features/both"]
    slow, slow_pooled, fast, _ = stage.arrays
    assert slow.frame_index == slow_pooled.frame_index == (0, 8, 16, 26, 34, 44, 52, 62)
    assert (slow.shape, slow.dims[0], slow.frame_step) == ((8, 2048, 7, 7), "frame_spread_8", None)
    assert (fast.shape, fast.dims[0], fast.frame_step, fast.frame_index) == ((32, 256, 7, 7), "frame_by_2", 2, None)
    assert slow.attributes()["frame_index"] == [0, 8, 16, 26, 34, 44, 52, 62]
    assert "frame_step" not in slow.attributes()
    assert "frame_index" not in fast.attributes()
    content = json.dumps(stage.document())
    assert json.dumps(Stage.of(StageDocument.model_validate_json(content)).document()) == content
    assert content.count("frame_index") == 2


def test_a_config_with_a_wrong_number_of_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 frames: slow_res5 needs a multiple of 8"):
        KINDS["features"].check(recipe(model="slowfast_r50_4x16", every=16))


def test_boxes_of_the_slow_frames_are_named_for_readers() -> None:
    stages = declared(
        Recipe.model_validate(
            recipe(store=["maps"], every=2).model_dump()
            | {"proposals": {"source": "grid", "cells": [1, 1], "every": 2}, "regions": {"backbones": ["both"]}}
        )
    )
    arrays = box_frames_arrays({spec.name: spec for stage in stages.values() for spec in stage.arrays})
    assert {name: (array.shape, array.frame_index) for name, array in arrays.items()} == {
        f"clips/box_frames/{name}": ((8,), (0, 4, 8, 13, 17, 22, 26, 31))
        for name in ("features/both/slow_res5", "regions/both/slow_res5")
    }
