"""verify --frames: what it prints, its exit codes, and what trains and evaluates before and after an upgrade."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cli.printing import text
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import load_config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import write_config
from tests.clock import Clock
from tests.conftest import tiny_stages
from tests.first_rules import first_rules, of_each_kind

Command = Callable[..., Any]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a cache by the first rules, pooled features alone."""
    document = tiny_stages(tmp_path / "cache", of_each_kind(tmp_path / "videos"))
    del document["proposals"], document["regions"]
    document["backbones"]["tiny"] |= {"taps": ["res2"], "store": ["pooled"]}
    document["run"] |= {"executor": "inline"}
    train = {"head": "avg_pool", "epochs": 1, "val_split": "train", "test_split": "train", "run": str(tmp_path / "run")}
    path = write_config(tmp_path / "my.yaml", document | {"train": train})
    with first_rules():
        index(load_config(path))
        extract(load_config(path))
    return path


def test_from_an_old_cache_to_a_new_one(kinegraph: Command, config: Path, cache: Path, tmp_path: Path) -> None:
    advice = f"run `kinegraph verify {cache} --frames --repair` first"
    for command in ("index", "plan", "extract"):
        refused = kinegraph(command, config)
        assert refused.exit_code == 2
        assert advice in refused.stderr
    run = tmp_path / "run" / "avg_pool" / "seed0"
    assert kinegraph("train", config, "--seeds", 2).exit_code == 0
    assert kinegraph("verify", cache).exit_code == kinegraph("evaluate", run).exit_code == 0

    told = kinegraph("verify", cache, "--frames")
    assert told.exit_code == 1
    assert told.stdout.splitlines() == [
        f"{cache}: `clips` version 1; 3 shards: 1 with the same frames at the same times, 1 with the same at other "
        "times (1 clip), 1 with other frames (1 clip)",
        "--frames --repair upgrades the cache. It keeps right shards and marks the others as not done",
    ]
    assert told.stderr.splitlines()[:2] == [
        "1 clip shows other frames:",
        "  left/e.avi:0:center: frame 3 in place of 2, and 7 others",
    ]
    as_json = json.loads(kinegraph("verify", cache, "--frames", "--json").stdout)
    assert (as_json["ok"], as_json["clips"]) == (False, {"retimed": 1, "differ": 1, "unread": 0})

    done = kinegraph("verify", cache, "--frames", "--repair")
    assert done.exit_code == 0
    assert (
        "upgraded: shards with the same frames are kept. `kinegraph extract CONFIG` computes the other" in done.stdout
    )
    assert kinegraph("evaluate", run).exit_code == 0
    extracted = kinegraph("extract", config)
    assert extracted.exit_code == 0
    assert f"{cache}: 2 clips in " in extracted.stdout
    again: tuple[tuple[str | Path, ...], ...] = (("evaluate", run), ("verify", cache), ("verify", cache, "--frames"))
    for arguments in again:
        assert kinegraph(*arguments).exit_code == 0
    assert "2 of 3 runs kept: they were finished before" in kinegraph("train", config, "--seeds", 3).stderr
    assert "nothing to compare" in kinegraph("verify", cache, "--frames", "--repair").stdout


def test_videos_that_cannot_be_read(kinegraph: Command, config: Path, cache: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "videos" / "left" / "a.mp4", tmp_path / "away")
    refused = kinegraph("verify", cache, "--frames", "--repair")
    assert refused.exit_code == 1
    assert "nothing was changed as long as videos are missing" in refused.stdout
    assert "1 clip of 1 shard cannot be compared" in refused.stderr
    assert Cache(cache).manifest["clips"]["version"] == 1
    assert kinegraph("verify", cache, "--frames", "--drop-unread").exit_code == 2
    assert kinegraph("verify", cache, "--frames", "--repair", "--drop-unread").exit_code == 0
    assert Cache(cache).ledger.shards("clips") == [1]


def test_progress_in_a_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A line every half minute, with the time that is left at the pace so far."""
    now = Clock()
    monkeypatch.setattr("kinegraph.pipeline.machine.terminal.time.monotonic", now)
    with text.counting() as progress:
        for done in range(1, 6):
            progress("comparing", done, 1000)
            now.now += 20
    lines = capsys.readouterr().err.splitlines()
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d comparing: .*", line) for line in lines)
    assert [line[9:] for line in lines] == [
        "comparing: 3 of 1,000, 5:32:20 left",
        "comparing: 5 of 1,000, 5:31:40 left",
    ]
