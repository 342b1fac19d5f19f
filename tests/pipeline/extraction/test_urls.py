"""Videos at URLs: the cache is that of the same videos in a folder, whatever the network does."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.errors import CacheMismatch
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.plan import make_plan
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.errors import ConfigError
from kinegraph.pipeline.extraction.run import Outcome, extract
from kinegraph.stages.datasets.errors import DatasetError
from kinegraph.stages.remote.faults import NetworkError
from tests.caches import same_bytes
from tests.conftest import moving_square, write_video
from tests.http_server import Server, serving

At = Callable[..., Config]
LOCAL_TIMES = ("mtime_ns", "etag")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinegraph.stages.remote.remote.FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def at(tmp_path: Path, inline_document: dict[str, Any]) -> At:
    """A config on videos at a URL; its cache is called after it."""

    def config(root: str, name: str = "elsewhere", *, csv: Path | None = None, **run: Any) -> Config:
        staging = {"folder": str(tmp_path / "staging"), "tries": 2} | run.pop("staging", {})
        document = inline_document | {
            "cache": str(tmp_path / name),
            "dataset": {"kind": "folder", "root": root, "annotations": csv and str(csv)},
            "run": inline_document["run"] | {"staging": staging} | run,
        }
        return check_config(document, "test")

    return config


@pytest.fixture
def in_memory(video_folder: Path, tmp_path: Path) -> Iterator[str]:
    """URL of the videos of `video_folder`, in memory."""
    system = fsspec.filesystem("memory")
    for path in video_folder.rglob("*.mp4"):
        system.pipe_file(f"/{tmp_path.name}/{path.relative_to(video_folder)}", path.read_bytes())
    yield f"memory://{tmp_path.name}"
    system.rm(f"/{tmp_path.name}", recursive=True)


@pytest.fixture
def web(video_folder: Path) -> Iterator[Server]:
    with serving(video_folder) as server:
        yield server


def made(config: Config) -> Outcome:
    index(config)
    return extract(config)


def data(cache: Cache | Config) -> dict[str, Any]:
    """`same_bytes` but for where videos lie and when they were changed, which tells two places apart."""
    root = cache.root if isinstance(cache, Cache) else cache.cache
    found = same_bytes(root)
    del found["clips.parquet"]
    for name in [name for name in found if name.startswith("ledger/")]:
        sources = found[name].pop("sources", {})
        found[name]["sources"] = {
            video: {key: value for key, value in source.items() if key not in LOCAL_TIMES}
            for video, source in sources.items()
        }
    return found


def staged(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "staging").glob("*/*") if path.name != "gate"]


def rows(cache: Cache) -> list[object]:
    return [(r.clip_id, r.labels, r.split, r.target_times, r.crop) for r in cache.clips.rows()]


@pytest.mark.parametrize("run", [{}, {"executor": "local"}])
def test_the_same_bytes_as_from_a_folder(
    at: At, web: Server, whole: Cache, tmp_path: Path, run: dict[str, Any]
) -> None:
    config = at(web.url, **run)
    assert not made(config).failures
    assert data(config) == data(whole)
    cache = Cache(config.cache)
    assert rows(cache) == rows(whole)
    assert {row.path for row in cache.clips.rows()} == {
        f"{web.url}/{row.path.split('/videos/')[1]}" for row in whole.clips.rows()
    }
    assert verify(config.cache).ok
    assert not staged(tmp_path)


def test_room_for_one_video_is_enough(at: At, in_memory: str, whole: Cache) -> None:
    sizes = [source.size for record in whole.ledger.records("clips") for source in record.sources.values()]
    config = at(in_memory, executor="local", staging={"max_gib": max(sizes) / 2**30})
    assert not made(config).failures
    assert data(config) == data(whole)


def test_a_list_may_name_places_of_all_kinds(
    at: At, in_memory: str, web: Server, whole: Cache, video_folder: Path, tmp_path: Path
) -> None:
    csv = tmp_path / "list.csv"
    csv.write_text(
        f"path,label\nleft/v1.mp4,left\n{in_memory}/right/v0.mp4,right\n"
        f"{video_folder}/left/v3.mp4,left\n{web.url}/right/v2.mp4,right\n"
    )
    config = at(in_memory, csv=csv)
    assert not made(config).failures
    assert [row.video_id for row in Cache(config.cache).clips.rows()] == sorted(
        ["left/v1.mp4", "right/v0.mp4", f"{video_folder}/left/v3.mp4", f"{web.url}/right/v2.mp4"]
    )


def test_a_list_may_lie_at_a_url(at: At, web: Server, video_folder: Path) -> None:
    (video_folder / "list.csv").write_text("path,label\nleft/v1.mp4,left\n")
    config = at(web.url).model_copy(deep=True)
    options = config.dataset.model_copy(update={"annotations": f"{web.url}/list.csv"})
    assert index(config.model_copy(update={"dataset": options})).num_videos == 1


def test_a_secret_in_a_list_or_config_is_refused(at: At, in_memory: str, tmp_path: Path) -> None:
    csv = tmp_path / "list.csv"
    csv.write_text("path,label\nhttps://host/v.mp4?X-Amz-Signature=s3cret,left\n")
    with pytest.raises(DatasetError, match=r"list.csv: line 2: .*https://host/v.mp4\?\.\.\. has a query") as caught:
        index(at(in_memory, csv=csv))
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"dataset\.root: .*names a user or a password") as refused:
        at("https://ann:s3cret@host/videos")
    assert "s3cret" not in str(refused.value)


def test_generated_videos_are_not_written_to_a_url(tmp_path: Path) -> None:
    document = {"cache": str(tmp_path), "dataset": {"kind": "interactions", "root": "s3://bucket/videos"}}
    with pytest.raises(ConfigError, match=r"dataset\.root: given a URL, allowed: a folder"):
        check_config(document, "test")


@pytest.mark.parametrize("root", ["memory://nothing-here", "s3:/typo"])
def test_a_root_that_is_not_there(at: At, root: str) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.root: no f"):
        index(at(root))


def test_videos_that_cannot_be_had_fail_by_themselves(at: At, web: Server, tmp_path: Path, video_folder: Path) -> None:
    """Gone, refused, broken, too large: as such files of a folder; what is said names the URL, not the copy."""
    (video_folder / "left" / "broken.mp4").write_bytes(b"no video" * 100)
    write_video(video_folder / "left" / "large.mp4", moving_square(400, 96, 80))
    refused = {"HEAD /right/v0.mp4": 404, "GET /right/v0.mp4": 404, "HEAD /right/v2.mp4": 403, "GET /right/v2.mp4": 403}
    config = at(web.url, staging={"max_gib": 6000 / 2**30})
    index(config)
    web.before = lambda method, path: refused.get(f"{method} {path}")
    found = {failure.clip_id: failure for failure in extract(config).failures}
    assert {clip.split(":")[0]: failure.reason for clip, failure in found.items()} == {
        "left/broken.mp4": "unreadable",
        "left/large.mp4": "unreadable",
        "right/v0.mp4": "missing",
        "right/v2.mp4": "unreadable",
    }
    details = {clip.split(":")[0]: failure.detail for clip, failure in found.items()}
    assert details["right/v0.mp4"] == f"no file {web.url}/right/v0.mp4"
    assert "403" in details["right/v2.mp4"]
    assert "copies may take 6000" in details["left/large.mp4"]
    assert not any("staging" in detail.replace("run.staging", "") for detail in details.values())
    web.before = lambda method, path: None
    again = extract(config.model_copy(update={"run": at(web.url).run}), retry_failed=True)
    assert [failure.clip_id for failure in again.failures] == ["left/broken.mp4:0:center"]


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_a_network_that_goes_away_and_comes_back(
    at: At, web: Server, whole: Cache, tmp_path: Path, executor: str
) -> None:
    """No clip is marked as failed, finished shards are kept, and the same command does the rest."""
    config = at(web.url, executor=executor)
    index(config)
    copied: list[str] = []

    def gone_after_three(method: str, path: str) -> int | None:
        copied.extend([path] * (method == "GET"))
        return 503 if len(copied) > 3 else None

    web.before = gone_after_three
    with pytest.raises(NetworkError, match=r"2 tries.*503.*the same command again"):
        extract(config)
    cache = Cache(config.cache)
    assert not [failure for record in cache.ledger.records("clips") for failure in record.failures]
    assert not staged(tmp_path)
    sealed = {*cache.ledger.shards("clips")}
    web.before = lambda method, path: None
    assert {unit.shard for unit in make_plan(config, cache).units} == {0, 1, 2} - sealed
    assert not extract(config).failures
    assert data(config) == data(whole)


def test_a_changed_video_runs_again_and_a_touched_one_does_not(
    at: At, web: Server, video_folder: Path, tmp_path: Path
) -> None:
    config = at(web.url)
    made(config)
    web.requests.clear()
    assert not make_plan(config, Cache(config.cache)).units
    assert sorted(method for method, _ in web.requests) == ["HEAD"] * 6, "one request a video"
    path = video_folder / "left" / "v3.mp4"
    path.touch()
    assert not make_plan(config, Cache(config.cache)).changed_videos, "the content is the same"
    write_video(path, moving_square(15, 96, 80, seed=9))
    path.write_bytes(path.read_bytes() + bytes(1000))
    assert make_plan(config, Cache(config.cache)).changed_videos == ["left/v3.mp4"]
    assert not extract(config).failures
    write_video(path, moving_square(25, 96, 80, seed=9))
    with pytest.raises(CacheMismatch, match=r"left/v3\.mp4"):
        extract(config)


def test_a_network_that_is_away_changes_no_video(at: At, web: Server, caplog: pytest.LogCaptureFixture) -> None:
    config = at(web.url)
    made(config)
    web.stop()
    with caplog.at_level(logging.WARNING, "kinegraph"):
        assert not extract(config).plan.units
    web.start()
    assert "not checked for changes" in caplog.text


def test_a_cache_moves_with_its_videos(at: At, web: Server, video_folder: Path) -> None:
    """Indexed at a URL, a cache of local videos stays as it is: they are the same by content."""
    made(at(str(video_folder)))
    config = at(web.url)
    assert index(config).num_new_rows == 0
    assert not extract(config).plan.units
