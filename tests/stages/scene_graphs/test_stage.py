"""Scene graphs as a kind of stage."""

import json
from pathlib import Path

import numpy as np
import pytest

from kinegraph.stages.recipe import Recipe
from tests.stages.stage_contract import BatchInMemory, Damage, FailingContract

NAMES = {"classes": ["person", "cup", "chair"], "relations": ["holding", "sitting_on"]}


class TestSceneGraphs(FailingContract):
    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Recipe:
        graphs = {"source": "file", "files": f"{tmp_path}/{{stem}}.json", "vocabulary": NAMES, "max_frames": 4}
        return Recipe.model_validate({"clips": {"num_frames": 8}, "graphs": graphs | {"max_objects": 3}})

    @pytest.fixture
    def key(self) -> str:
        return "graphs"

    @pytest.fixture
    def batch(self, tmp_path: Path) -> BatchInMemory:
        batch = BatchInMemory()
        things = [{"class": "cup", "relations": ["holding"]}, {"class": "chair", "relations": None}]
        for row in batch.rows:
            path = (tmp_path / row.video_id).with_suffix(".json")
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"frames": [{"seconds": t / 2, "objects": things} for t in range(3)]}))
        return batch

    @pytest.fixture
    def failing(self, batch: BatchInMemory, tmp_path: Path) -> BatchInMemory:
        (tmp_path / "left" / "v3.json").write_text("words")
        return batch

    @pytest.fixture
    def damages(self) -> list[Damage]:
        return [
            ("graphs/count", lambda rows: rows.fill(4), "count"),
            ("graphs/times", lambda rows: rows.fill(np.nan), "times"),
            ("graphs/objects", lambda rows: rows.fill(1), "objects"),
            ("graphs/linked", lambda rows: rows.fill(1), "linked"),
            ("graphs/relations", lambda rows: rows.fill(1), "relations"),
        ]
