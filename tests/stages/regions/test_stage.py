"""Regions as a kind of stage: on maps that were handed on, and on rows of the cache, which cannot be written to."""

import numpy as np
import pytest
import torch

from kinegraph.stages.recipe import Recipe
from tests.stages.stage_contract import BatchInMemory, RunnerContract

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
