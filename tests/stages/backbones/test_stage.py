"""Features as a kind of stage."""

import pytest
import torch

from kinegraph.stages.backbones.extract import FeatureExtractor
from kinegraph.stages.recipe import Recipe
from kinegraph.stages.stage import Runner
from tests.stages.stage_contract import BatchInMemory, RunnerContract

NET = {"model": "tiny_i3d", "weights": "random:0", "taps": ["res3", "res4"], "size": 32, "precision": "fp32"}


class TestBackbones(RunnerContract):
    @pytest.fixture
    def recipe(self) -> Recipe:
        return Recipe.model_validate(
            {"clips": {"num_frames": 8}, "backbones": {"net": NET | {"store": ["maps", "pooled"]}}}
        )

    @pytest.fixture
    def key(self) -> str:
        return "features/net"

    @pytest.fixture
    def batch(self) -> BatchInMemory:
        return BatchInMemory()

    def test_maps_that_are_not_finite_fail_their_clip(
        self, runner: Runner, batch: BatchInMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Said of the first tap; before rounding, or because float16 ends at 65,504."""

        def maps(extractor: FeatureExtractor, clips: torch.Tensor) -> dict[str, torch.Tensor]:
            found = {tap: torch.zeros(4, 2, 3, 2, 2) for tap in ("res3", "res4")}
            found["res3"][1], found["res3"][0], found["res4"][3] = torch.nan, torch.inf, 70_000.0
            return found

        said: list[tuple[int, str]] = []
        monkeypatch.setattr(FeatureExtractor, "maps", maps)
        monkeypatch.setattr(batch, "fail", lambda slot, reason, detail: said.append((slot, f"{reason}: {detail}")))
        runner.run(batch)
        assert said == [
            (0, "non_finite: res3 is not finite before rounding"),
            (3, "non_finite: res4 is finite but overflows float16"),
        ]

    def test_what_nobody_stores_is_not_computed(
        self, runner: Runner, batch: BatchInMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch, "stores", lambda array: False)
        runner.run(batch)
        assert not batch.written
        assert batch.handed_on.keys() == {"features/net/res3", "features/net/res4"}
