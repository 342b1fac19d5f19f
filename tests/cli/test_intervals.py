"""Intervals of a csv through the commands: each is a row, is trained on and is scored by itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.caches import write_config
from tests.cli.conftest import Command

LINES = ("left/v1.mp4,left,train,0,0.8", "left/v1.mp4,right,train,0.8,1.5", "right/v0.mp4,right,train,0.25,1.25")


@pytest.fixture
def config(tmp_path: Path, tiny_document: dict[str, Any]) -> Path:
    dataset = tiny_document["dataset"] | {"annotations": str(tmp_path / "intervals.csv")}
    train = {"head": "avg_pool", "epochs": 1, "val_split": None, "test_split": "train", "run": str(tmp_path / "run")}
    run = {"executor": "inline", "threads": 1, "batch_size": 2, "device": "cpu"}
    document = tiny_document | {"dataset": dataset, "train": train, "run": run, "proposals": None, "regions": None}
    return write_config(tmp_path / "my.yaml", document)


def write_list(folder: Path, *lines: str) -> None:
    (folder / "intervals.csv").write_text("\n".join(["path,label,split,start,end", *lines]))


def test_from_the_list_to_scores(kinegraph: Command, config: Path, tmp_path: Path) -> None:
    write_list(tmp_path, *LINES, "left/v1.mp4,left,train,1.5,40", "left/v1.mp4,left,train,3,4")
    indexed = kinegraph("index", config)
    assert "2 videos, 5 intervals, 5 rows (5 new)" in indexed.stdout
    assert "beyond the end of their video, and end with it: 1\n  left/v1.mp4@1.5-40" in indexed.stderr
    assert "begin after the end of their video, and will fail: 1\n  left/v1.mp4@3-4" in indexed.stderr
    assert kinegraph("extract", config).exit_code == 3, "one frame is left of the last interval"
    assert "too_short" in kinegraph("status", tmp_path / "cache").stdout
    assert kinegraph("verify", tmp_path / "cache").exit_code == 0
    assert kinegraph("train", config).exit_code == 0
    submission = tmp_path / "scores.txt"
    evaluated = kinegraph("evaluate", tmp_path / "run", "--json", "--submission", submission)
    assert {key: json.loads(evaluated.stdout)[key] for key in ("num_videos", "num_failed")} == {
        "num_videos": 5,
        "num_failed": 2,
    }
    ids = [line.split()[0] for line in submission.read_text().splitlines()]
    assert ids == ["v1.mp4@0-0.8", "v1.mp4@0.8-1.5", "v0.mp4@0.25-1.25"]


def test_an_interval_that_is_none(kinegraph: Command, config: Path, tmp_path: Path) -> None:
    write_list(tmp_path, *LINES, "left/v1.mp4,left,train,2,1")
    failed = kinegraph("index", config)
    assert failed.exit_code == 2
    assert "intervals.csv: line 5: start '2', end '1'; expected seconds, 0 <= start < end" in failed.stderr
    assert not (tmp_path / "cache").exists(), "nothing is written before the list is understood"
