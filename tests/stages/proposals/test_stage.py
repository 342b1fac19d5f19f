"""Proposals as a kind of stage: of a network, which sees frames, and of files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kinegraph.stages.proposals.stage import BOXES, COUNT, LABELS, SCORES
from kinegraph.stages.recipe import Recipe
from tests.stages.stage_contract import (
    SECONDS,
    SIDE,
    BatchInMemory,
    Damage,
    FailingContract,
    RunnerContract,
    clip_row,
)


class ProposalContract(RunnerContract):
    @pytest.fixture
    def key(self) -> str:
        return "proposals"

    @pytest.fixture
    def damages(self) -> list[Damage]:
        return [
            (COUNT, lambda rows: rows.fill(-1), "count"),
            (COUNT, lambda rows: rows.fill(3000), "count"),
            (BOXES, lambda rows: rows.fill(5), "boxes"),
            (SCORES, lambda rows: rows.fill(5), "scores"),
        ]


class TestFromNetworks(ProposalContract):
    @pytest.fixture
    def recipe(self) -> Recipe:
        """More boxes a frame than there are: the last are padding."""
        proposals = {"source": "tiny", "weights": "random:0", "every": 2, "top": 2000}
        return Recipe.model_validate({"clips": {"num_frames": 4}, "proposals": proposals})

    @pytest.fixture
    def batch(self, recipe: Recipe) -> BatchInMemory:
        assert recipe.proposals is not None
        size = recipe.proposals.input_size(SIDE, SIDE)
        rows = [replace(clip_row(number), target_times=(0.0, 1.0, 2.0, 3.0)) for number in range(4)]
        whole = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
        return BatchInMemory(num_frames=4, rows=rows, whole=whole)


class TestFromFiles(ProposalContract, FailingContract):
    @pytest.fixture
    def damages(self) -> list[Damage]:
        return [(LABELS, lambda rows: rows.fill(1), "labels"), (LABELS, lambda rows: rows.fill(-1), "labels")]

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Recipe:
        proposals = {"source": "file", "files": f"{tmp_path}/{{stem}}.json", "top": 3, "labels": ["cup", "person"]}
        return Recipe.model_validate({"clips": {"num_frames": 8}, "proposals": proposals})

    @pytest.fixture
    def batch(self, tmp_path: Path) -> BatchInMemory:
        batch = BatchInMemory()
        for row in batch.rows:
            path = (tmp_path / row.video_id).with_suffix(".json")
            path.parent.mkdir(exist_ok=True)
            best = {"scores": [2.0], "labels": [1]}
            frames = [{"seconds": t * SECONDS, "boxes": [[t, 2, 60, 40]]} | best for t in range(8)]
            path.write_text(json.dumps({"frames": frames}))
        return batch

    @pytest.fixture
    def failing(self, batch: BatchInMemory, tmp_path: Path) -> BatchInMemory:
        (tmp_path / "left" / "v3.json").unlink()
        return batch
