"""`status --failed`: every failure, in text, JSON and csv; and a line a video after a command."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.clips_table import ClipsTable, interval_id
from kinegraph.cache_schemas.ledger import Failure, Record
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cli.printing.failures import by_video
from kinegraph.pipeline.caches.declared import declare
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.config import check_config
from tests.conftest import six_videos, tiny_stages
from tests.stages.decode.conftest import clip_row

Command = Callable[..., Any]
UNDECODED = "the decoder gave no frame at 1.5 s of a file whose header promises 12 frames and an index that ends"
ESCAPED = "not finite\x1b[2J in 3 rows"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Six clips, 2 a shard, in two stages; one was not decoded, one has no finite features. No network ran."""
    root = tmp_path_factory.mktemp("failures")
    config = check_config(tiny_stages(root / "cache", six_videos(root / "videos")), "test")
    index(config)
    cache = Cache(config.cache)
    stages = declare(config, {"features/tiny": "0", "proposals": "0"}).stages
    cache.declare(*(stages[key] for key in ("clips", "features/tiny", "regions/tiny")))
    ids = [clip for shard in range(cache.num_shards) for clip in cache.clip_ids(shard)]
    undecoded = Failure(clip_id=ids[1], reason="truncated", detail=UNDECODED)
    infinite = Failure(clip_id=ids[5], reason="non_finite", detail=ESCAPED)
    after = Failure(clip_id=ids[5], reason="upstream", detail="features/tiny failed")
    of_key = {"clips": [undecoded], "features/tiny": [undecoded, infinite], "regions/tiny": [undecoded, after]}
    for key, failures in of_key.items():
        for shard in range(cache.num_shards):
            here = [failure for failure in failures if failure.clip_id in cache.clip_ids(shard)]
            cache.ledger.seal(
                Record(key=key, shard=shard, num_rows=2, fingerprint=stages[key].fingerprint, objects={}, failures=here)
            )
    return cache


def expected(cache: Cache) -> list[dict[str, Any]]:
    first, last = cache.clip_ids(0)[1], cache.clip_ids(2)[1]
    stages = ["clips", "features/tiny", "regions/tiny"]
    return [
        {"video": first[:-9], "clip": first, "stages": stages, "reason": "truncated", "words": UNDECODED},
        {"video": last[:-9], "clip": last, "stages": stages[1:2], "reason": "non_finite", "words": ESCAPED},
    ]


def test_every_failure_is_told_once_and_in_full(kinegraph: Command, cache: Cache) -> None:
    assert all(row["clip"].endswith(":0:center") for row in expected(cache))
    found = json.loads(kinegraph("status", cache.root, "--failed", "--json").stdout)
    assert found == {"schema": 1, "failures": expected(cache)}
    rows = list(csv.DictReader(io.StringIO(kinegraph("status", cache.root, "--failed", "--csv").stdout)))
    assert rows == [row | {"stages": ";".join(row["stages"])} for row in expected(cache)]


def test_words_are_wrapped_and_shown(kinegraph: Command, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = kinegraph("status", cache.root, "--failed")
    lines, (first, last) = told.stdout.splitlines(), expected(cache)
    assert max(map(len, lines)) <= 80
    assert lines[0] == f"{first['clip']}: truncated in clips, features/tiny, regions/tiny"
    assert " ".join(line.strip() for line in lines[1:3]) == UNDECODED
    assert lines[3:5] == [f"{last['clip']}: non_finite in features/tiny", r"  not finite\x1b[2J in 3 rows"]
    assert lines[5:] == ["2 failures; `kinegraph extract CONFIG --retry-failed` tries again"]
    assert "`kinegraph status CACHE --failed`" in kinegraph("status", cache.root).stdout


def test_a_cache_without_failures_and_flags_that_do_not_fit(kinegraph: Command, cache: Cache, tmp_path: Path) -> None:
    Cache.create(tmp_path, {"version": 1}, cache.manifest["store"])
    assert kinegraph("status", tmp_path, "--failed").stdout == "no clip has failed\n"
    assert json.loads(kinegraph("status", tmp_path, "--failed", "--json").stdout)["failures"] == []
    for flags in (["--csv"], ["--failed", "--csv", "--json"]):
        refused = kinegraph("status", cache.root, *flags)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert "--csv: allowed with --failed, and without --json" in refused.stderr


def test_a_broken_video_is_one_line_whatever_its_clips(tmp_path: Path) -> None:
    """Of intervals, clips and crops; in the words of the first clip where they differ."""
    videos = {interval_id("v.mp4", span): span for span in ((0.0, 2.0), (2.0, 4.0))}
    rows = [
        replace(clip_row(Path("v.mp4"), [0.0]), video_id=video, clip_id=f"{video}:0:{crop}", interval=span)
        for video, span in videos.items()
        for crop in ("left", "right")
    ]
    ClipsTable.from_rows(rows).write(open_storage(tmp_path))
    broken = [Failure(clip_id=row.clip_id, reason="unreadable", detail="no moov") for row in rows]
    short = [Failure(clip_id=f"w.mp4:{n}:full", reason="too_short", detail=f"{n} s") for n in (1, 2)]
    alone = Failure(clip_id="w.mp4:0:full", reason="truncated", detail="ended")
    assert by_video([*broken, *short, alone], str(tmp_path)) == [
        "v.mp4: unreadable: no moov (4 clips)",
        "w.mp4: too_short: 1 s (the first of 2 clips)",
        "w.mp4:0:full: truncated: ended",
    ]
