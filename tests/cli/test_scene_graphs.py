"""Heads on scene graphs, by the commands alone, from files and from the generated data set."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kinegraph.pipeline.training.scoring import evaluate_run
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


def _require_prediction(kinegraph: Command, tmp_path: Path, source: str) -> None:
    """Graphs of a video come from a file of its own. Those of generated videos are known only there."""
    run, video = tmp_path / "runs" / "gine" / "seed0", tmp_path / "videos" / "left" / "v3.mp4"
    asked = ("predict", video, "--run", run, "--json")
    told = kinegraph(*asked)
    if source == "generated":
        assert (told.exit_code, told.stdout) == (2, "")
        assert "scene graphs of the generated data set" in told.stderr
        return
    assert told.exit_code == 3, "the file of this video is sought by its whole path"
    assert "To name other files: --set 'graphs.files=PATTERN'" in " ".join(told.stderr.split())
    graphs = tmp_path / "graphs" / "left" / "v3.json"
    shutil.copy(graphs, video.with_suffix(".json"))
    (document,) = json.loads(kinegraph(*asked, "--set", 'graphs.files="{stem}.json"').stdout)
    (scores,) = [values for name, values in zip(*_scores(run), strict=True) if name == "left/v3.mp4"]
    by_name = {each["name"]: each["score"] for each in document["classes"]}
    assert [by_name["left"], by_name["right"]] == pytest.approx(scores.tolist(), abs=1e-5)


def _scores(run: Path) -> tuple[tuple[str, ...], torch.Tensor]:
    videos = evaluate_run(run).result.videos
    return videos.video_ids, videos.scores.softmax(1)


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
    _require_prediction(kinegraph, tmp_path, source)
    assert [*stages] == ["clips", "graphs"], "no other stage is made for it"
