"""Regions as a kind of stage: on maps that were handed on, and on rows of the cache, which cannot be written to."""

import numpy as np
import pytest
import torch

from kinegraph.stages.kinds import KINDS
from kinegraph.stages.recipe import Recipe
from tests.stages.stage_contract import BatchInMemory, RunnerContract, declared

NET = {"model": "tiny_i3d", "weights": "random:0", "taps": ["res4"], "size": 32}


class TestRegions(RunnerContract):
    @pytest.fixture
    def recipe(self) -> Recipe:
        sections = {
            "clips": {"num_frames": 8},
            "backbones": {"net": NET},
            "proposals": {"source": "grid", "cells": [1, 2], "every": 2},
            "regions": {"backbones": ["net"], "grid": True},
        }
        return Recipe.model_validate(sections)

    @pytest.fixture
    def key(self) -> str:
        return "regions/net"

    @pytest.fixture(params=["handed on", "sealed"])
    def batch(self, recipe: Recipe, request: pytest.FixtureRequest) -> BatchInMemory:
        shape = recipe.tap_of("net", "res4").shape(8, 32)  # T, C, H, W
        maps = np.random.default_rng(0).random((4, *shape), np.float32).astype(np.float16)
        maps.flags.writeable = False
        boxes = np.tile(np.array([[0, 0, 40, 80], [40, 0, 96, 96]], np.float32), (4, 4, 1, 1))
        return BatchInMemory(
            reads={
                "features/net/res4": torch.tensor(maps) if request.param == "handed on" else maps,
                "proposals/boxes": boxes,
                "proposals/count": np.full((4, 4), 2, np.int16),
            }
        )


def test_maps_of_a_slow_pathway_read_the_boxes_of_their_own_frames() -> None:
    """Only these frames have a box, and map t is t + 1 everywhere."""
    recipe = Recipe.model_validate(
        {
            "clips": {"num_frames": 32},
            "backbones": {"net": NET | {"model": "slowfast_r50_8x8", "taps": ["slow_res2", "fast_res2"], "size": 64}},
            "proposals": {"source": "grid", "cells": [1, 1]},
            "regions": {"backbones": ["net"]},
        }
    )
    slow = [0, 4, 8, 13, 17, 22, 26, 31]
    stage = declared(recipe)["regions/net"]
    assert [array.frame_index for array in stage.arrays] == [tuple(slow), None]
    count = np.zeros((4, 32, 1), np.int16)
    count[:, slow] = 1
    batch = BatchInMemory(
        num_frames=32,
        reads={
            "features/net/slow_res2": torch.arange(1.0, 9)[None, :, None, None, None].expand(4, 8, 256, 16, 16),
            "features/net/fast_res2": torch.ones(4, 32, 32, 16, 16),
            "proposals/boxes": np.tile(np.array([8, 8, 64, 64], np.float32), (4, 32, 1, 1)),
            "proposals/count": count[..., 0],
        },
    )
    runner = KINDS["regions"].open(recipe, "regions/net", torch.device("cpu"), compiled=False)
    assert runner is not None
    runner.run(batch)
    assert batch.written["regions/net/slow_res2", 3][:, 0, 0].tolist() == [*range(1, 9)]
    assert np.flatnonzero(batch.written["regions/net/fast_res2", 3][:, 0, 0]).tolist() == slow


def test_boxes_are_needed_for_each_slow_frame() -> None:
    sections = {
        "clips": {"num_frames": 32},
        "backbones": {"net": NET | {"model": "slowfast_r50_8x8", "taps": ["slow_res2"], "size": 64}},
        "proposals": {"source": "grid", "cells": [1, 1], "every": 2},
        "regions": {"backbones": ["net"]},
    }
    recipe = Recipe.model_validate(sections)
    with pytest.raises(ValueError, match=r"proposals\.every: given 2, allowed: a divisor of 1, so that net/slow_res2"):
        KINDS["regions"].check(recipe)
