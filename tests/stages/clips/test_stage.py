"""The key `clips` as a kind of stage."""

import numpy as np
import pytest

from kinegraph.stages.recipe import Recipe
from tests.stages.stage_contract import StageContract


class TestClips(StageContract):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return Recipe()

    @pytest.fixture
    def key(self) -> str:
        return "clips"

    @pytest.fixture
    def sound(self) -> dict[str, np.ndarray]:
        return {"clips/frame_times": np.zeros((2, 32))}
