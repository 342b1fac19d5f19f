"""Videos in a bucket: the commands, to the bytes of a cache of the same videos in a folder."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner, Result

from kinegraph.cli.app import app
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import same_bytes, write_config
from tests.s3_server import Server


def kinegraph(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def document(tiny_document: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    run = tiny_document["run"] | {"executor": "inline", "staging": {"folder": str(tmp_path / "staging")}}
    return tiny_document | {"run": run}


def test_index_plan_extract_verify(
    tmp_path: Path, document: dict[str, Any], video_folder: Path, s3: str, s3_server: Server
) -> None:
    system = fsspec.filesystem("s3")
    system.put(str(video_folder), f"{s3}/videos", recursive=True)
    config = write_config(tmp_path / "config.yaml", document | {"dataset": {"kind": "folder", "root": f"{s3}/videos"}})
    local = check_config(document | {"cache": str(tmp_path / "local")}, "test")
    index(local)
    extract(local)

    assert "6 videos, 6 rows" in kinegraph("index", config).stdout
    s3_server.requests.clear()
    assert json.loads(kinegraph("plan", config, "--json").stdout)["stages"]["clips"] == {"done": 0, "missing": 3}
    assert not s3_server.requests, "nothing is sealed: no video could have changed"
    assert "6 clips" in kinegraph("extract", config).stdout
    assert "whole and unchanged" in kinegraph("verify", document["cache"]).stdout

    here, there = same_bytes(document["cache"]), same_bytes(local.cache)
    assert {name for name in here if here[name] != there[name] and not name.startswith("ledger/")} == {"clips.parquet"}
    sources = here["ledger/clips/000000.json"]["sources"]
    told = system.info(f"{s3}/videos/left/v1.mp4")
    assert sources["left/v1.mp4"]["etag"] == told["ETag"]
    assert sources["left/v1.mp4"]["mtime_ns"] == int(told["LastModified"].timestamp()) * 10**9
    assert {video: source["digest"] for video, source in sources.items()} == {
        video: source["digest"] for video, source in there["ledger/clips/000000.json"]["sources"].items()
    }
    assert [path.name for path in (tmp_path / "staging").glob("*/*")] == ["gate"]

    system.pipe_file(f"{s3}/videos/left/v1.mp4", (video_folder / "left" / "v1.mp4").read_bytes() + b"\0" * 9)
    assert json.loads(kinegraph("plan", config, "--json").stdout)["changed"] == ["left/v1.mp4"]
