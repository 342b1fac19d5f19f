"""Heads on scene graphs, by the commands alone, from files and from the generated data set."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.stages.generated.interactions import generate
from tests.caches import write_config

Command = Callable[..., Any]
COUNTS = {"train": 4, "val": 2, "test": 2}
SMALL = {"hidden": 8, "num_object_classes": 36}
HEADS = {
    "gine": {"head": "st_sgn", "options": SMALL | {"dim": 8}},
    "slices": {"head": "st_sgn", "options": SMALL | {"dim": 8, "reducer": "max", "slice_seconds": 0.5}},
    "matrix": {"head": "relation_matrix", "options": SMALL},
}


@pytest.fixture
def files(tmp_path: Path, tiny_document: dict[str, Any]) -> dict[str, Any]:
    """Graphs in Action Genome's names of six videos; that of number n has n graphs."""
    for number in range(6):
        path = tmp_path / "graphs" / ("left" if number % 2 else "right") / f"v{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        cup = {"class": "cup/glass/bottle", "relations": ["holding", "looking_at"]}
        frames = [{"seconds": second / 5, "objects": [cup] * (second % 3)} for second in range(number)]
        path.write_text(json.dumps({"frames": frames}))
    graphs = {"source": "file", "files": f"{tmp_path}/graphs/{{stem}}.json", "vocabulary": "action_genome"}
    return tiny_document | {"graphs": graphs, "train": {"val_split": None, "test_split": "train"}}


@pytest.fixture
def generated(tmp_path: Path, tiny_document: dict[str, Any]) -> dict[str, Any]:
    generate(tmp_path / "interactions", videos=COUNTS)
    dataset = {"kind": "interactions", "root": str(tmp_path / "interactions")} | COUNTS
    return tiny_document | {"dataset": dataset, "graphs": {"source": "interactions"}, "train": {}}


@pytest.mark.parametrize("source", ["files", "generated"])
def test_heads_train_on_scene_graphs(
    kinegraph: Command, tmp_path: Path, request: pytest.FixtureRequest, source: str
) -> None:
    document = request.getfixturevalue(source)
    document["run"] = {"executor": "inline", "threads": 1, "device": "cpu"}
    document["train"] |= {"epochs": 1, "variants": HEADS, "run": str(tmp_path / "runs")}
    config = write_config(tmp_path / "my.yaml", document)
    assert kinegraph("index", config).exit_code == 0
    assert kinegraph("extract", config, "--stage", "graphs").exit_code == 0
    assert kinegraph("train", config, "--head", ",".join(HEADS)).exit_code == 0
    for name in HEADS:
        scores = json.loads(kinegraph("evaluate", tmp_path / "runs" / name / "seed0", "--json").stdout)
        assert (scores["num_videos"], scores["num_failed"]) == (6 if source == "files" else 2, 0)
    stages = json.loads(kinegraph("status", document["cache"], "--json").stdout)["stages"]
    assert [*stages] == ["clips", "graphs"], "no other stage is made for it"
