"""Dataset options that changed after `index`: told by plan, extract and train; a root may move as a whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from tests.caches import write_config
from tests.conftest import six_videos, tiny_stages

Command = Callable[..., Any]
AGAIN = "Run `kinegraph index CONFIG` again"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    document = tiny_stages(tmp_path / "cache", six_videos(tmp_path / "videos"))
    del document["proposals"], document["regions"]
    document["run"] = {"executor": "inline", "threads": 1}
    document["train"] = {"head": "avg_pool", "epochs": 1, "val_split": None, "run": str(tmp_path / "run")}
    return write_config(tmp_path / "my.yaml", document)


def test_another_root_is_refused_until_it_is_indexed(kinegraph: Command, config: Path, tmp_path: Path) -> None:
    kinegraph("index", config)
    for command in ("plan", "extract"):
        refused = kinegraph(command, config, "--set", "dataset.root=nowhere")
        assert (refused.exit_code, refused.stdout) == (2, ""), command
        assert f'dataset.root: "{tmp_path / "videos"}" -> "nowhere"' in refused.stderr
        assert "nowhere/" in refused.stderr
        assert AGAIN in refused.stderr
    moved = (tmp_path / "videos").rename(tmp_path / "moved")
    refused = kinegraph("extract", config, "--set", f"dataset.root={moved}")
    assert "nothing is extracted yet, so there is no digest to compare" in refused.stderr
    assert kinegraph("index", config, "--set", f"dataset.root={moved}").exit_code == 0
    assert kinegraph("extract", config, "--set", f"dataset.root={moved}").exit_code == 0


def test_a_root_that_moved_as_a_whole_goes_on(kinegraph: Command, config: Path, cache: Path, tmp_path: Path) -> None:
    kinegraph("index", config)
    kinegraph("extract", config, "--limit", "2")
    moved = (tmp_path / "videos").rename(tmp_path / "moved")
    elsewhere = "--set", f"dataset.root={moved}"
    rows = (cache / "clips.parquet").read_bytes()
    planned = kinegraph("plan", config, "--calibrate", *elsewhere)
    assert planned.exit_code == 0
    assert f"all videos moved from {tmp_path / 'videos'} to {moved}" in planned.stderr
    assert "failed" not in planned.stdout
    assert (cache / "clips.parquet").read_bytes() == rows, "plan writes nothing"
    assert kinegraph("extract", config, *elsewhere).exit_code == 0
    assert {Path(str(path)).is_relative_to(moved) for path in Cache(cache).clips.column("path")} == {True}
    again = kinegraph("extract", config, *elsewhere)
    assert (again.exit_code, "dataset" in again.stderr) == (0, False)
    assert kinegraph("plan", config).exit_code == 2, "the config's own root is gone"


def test_another_file_at_the_new_root_is_refused(kinegraph: Command, config: Path, tmp_path: Path) -> None:
    kinegraph("index", config)
    kinegraph("extract", config)
    copy = Path(shutil.copytree(tmp_path / "videos", tmp_path / "copy"))
    changed = sorted(copy.rglob("*.mp4"))[0]
    changed.write_bytes(changed.read_bytes() + b"more")
    refused = kinegraph("plan", config, "--set", f"dataset.root={copy}")
    assert refused.exit_code == 2
    assert f"{changed} is not the file that was extracted" in refused.stderr


def test_labels_are_a_warning_for_features_and_an_error_for_training(kinegraph: Command, config: Path) -> None:
    kinegraph("index", config)
    splits = "--set", "dataset.splits={train: 1, test: 1}"
    for command in ("plan", "extract"):
        told = kinegraph(command, config, *splits)
        assert told.exit_code == 0, command
    assert 'dataset.splits: {"train": 1.0} -> {"train": 1.0, "test": 1.0}' in kinegraph("plan", config, *splits).stderr
    refused = kinegraph("train", config, *splits)
    assert refused.exit_code == 2
    assert AGAIN in refused.stderr
    elsewhere = kinegraph("train", config, "--set", "dataset.root=elsewhere")
    assert elsewhere.exit_code == 0


def test_what_had_no_effect_is_not_compared(kinegraph: Command, config: Path, cache: Path, tmp_path: Path) -> None:
    videos = sorted(path.relative_to(tmp_path / "videos") for path in (tmp_path / "videos").rglob("*.mp4"))
    lines = [f"{path},{path.parts[0]},train" for path in videos]
    (tmp_path / "videos" / "list.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    listed = "--set", f"dataset.annotations={tmp_path / 'videos' / 'list.csv'}", "--set", "dataset.frame_rate=25"
    kinegraph("index", config, *listed)
    indexed = json.loads((cache / "dataset.json").read_text())["options"]
    assert indexed.keys() == {"kind", "root", "annotations", "classes", "multi_label"}
    quiet = kinegraph(
        "plan", config, *listed[:2], "--set", "dataset.splits={a: 1}", "--set", f"dataset.root={tmp_path}/x/../videos/"
    )
    assert (quiet.exit_code, "dataset" in quiet.stderr) == (0, False)


def test_a_cache_of_an_earlier_version_is_not_compared(kinegraph: Command, config: Path, cache: Path) -> None:
    kinegraph("index", config)
    (cache / "dataset.json").unlink()
    planned = kinegraph("plan", config, "--set", "dataset.root=nowhere")
    assert (planned.exit_code, "dataset" in planned.stderr) == (0, False)
    assert kinegraph("verify", cache).exit_code == 0
