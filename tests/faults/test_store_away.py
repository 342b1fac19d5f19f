"""An object store that stops answering, or refuses connections, in the middle of an extraction."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from s3fs import S3FileSystem
from typer.testing import CliRunner

from kinegraph.cache_schemas import object_storage, patience
from kinegraph.cache_schemas.cache import Cache
from kinegraph.cache_schemas.storages import open_storage
from kinegraph.cli.app import app
from kinegraph.pipeline.caches.indexing import index
from kinegraph.pipeline.caches.verification import verify
from kinegraph.pipeline.config import Config, check_config
from kinegraph.pipeline.extraction.run import extract
from tests.caches import same_bytes, write_config
from tests.faults.conftest import Prepared
from tests.s3_away import Outage, server_process
from tests.s3_server import used

AWAY_SECONDS = 2.0
IMPATIENT = {"connect_timeout": 1.0, "read_timeout": 1.0, "retries": {"max_attempts": 0}}  # not 5 s, 15 s and 4


@pytest.fixture(scope="module")
def store() -> Iterator[Outage]:
    with server_process() as (process, port):
        yield Outage(process, port)


@pytest.fixture
def url(store: Outage, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a cache there. What s3fs repeats by itself is over in an instant, so that ours is seen."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(object_storage, "PUT_SECONDS", 1.0)
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    with used(store.proxy, monkeypatch) as bucket:
        monkeypatch.setitem(fsspec.config.conf["s3"], "config_kwargs", IMPATIENT)
        yield f"{bucket}/cache"


@pytest.fixture
def prepared(prepare: Callable[[str], Prepared]) -> Prepared:
    return prepare("zarr")


@pytest.fixture
def config(url: str, prepared: Prepared) -> Config:
    """Of a cache there that is indexed."""
    config = check_config(prepared.document | {"cache": url}, "test")
    index(config)
    return config


def copied(url: str, folder: Path) -> Path:
    storage = open_storage(url)
    for name in ("clips.parquet", *storage.names("data.zarr"), *storage.names("ledger")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(storage.get(name))
    return folder


def records(url: str) -> dict[str, bytes]:
    storage = open_storage(url)
    return {name: storage.get(name) for name in storage.names("ledger")}


def in_full(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.faults)


@pytest.mark.parametrize(
    ("kind", "at", "when"),
    [
        ("stopped", "/data.zarr/features", "before"),
        in_full("refused", "/ledger/proposals/", "after"),
        in_full("stopped", "/leases/", "before"),
        in_full("stopped", "/leases/", "after"),
        in_full("stopped", "/data.zarr/features", "after"),
        in_full("stopped", "/ledger/proposals/", "before"),
        in_full("stopped", "/ledger/proposals/", "after"),
        in_full("refused", "/leases/", "before"),
        in_full("refused", "/leases/", "after"),
        in_full("refused", "/data.zarr/features", "before"),
        in_full("refused", "/data.zarr/features", "after"),
        in_full("refused", "/ledger/proposals/", "before"),
    ],
)
def test_a_store_that_comes_back(
    store: Outage,
    config: Config,
    prepared: Prepared,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    at: str,
    when: str,
) -> None:
    """It goes away with a put, before that arrives or before its answer does; the run waits, and does nothing twice."""
    with store.at_the_first(f"PUT .*{at}", kind, when=when, seconds=AWAY_SECONDS):
        outcome = extract(config)
    assert (outcome.clips_run, outcome.failures) == (6, ())
    assert f"{config.cache} does not answer" in caplog.text
    assert f"{config.cache} answers again, after " in caplog.text
    assert same_bytes(copied(config.cache, tmp_path / "copy")) == prepared.undisturbed
    assert {json.loads(record)["attempt"] for record in records(config.cache).values()} == {1}
    assert list(Cache(config.cache).storage.names("leases")) == []


@pytest.mark.parametrize("kind", ["refused", in_full("stopped")])
def test_a_store_that_stays_away(
    store: Outage,
    config: Config,
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """The command says so and ends; what is sealed is whole and stays, and the same command does the rest."""
    document = prepared.document | {"cache": config.cache}
    document["run"] = document["run"] | {"lease_seconds": 1}  # this process lives on, and could hold its leases
    command = ["extract", str(write_config(tmp_path / "my.yaml", document))]
    with monkeypatch.context() as hurried, store.at_the_first("PUT .*/ledger/proposals/", kind, when="before"):
        hurried.setattr(patience, "PATIENCE_SECONDS", 2.0)
        ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 1, ended.output
    assert f"error: {config.cache}/" in ended.stderr
    assert "It answered before. Finished shards are kept" in ended.stderr
    sealed = records(config.cache)
    assert sealed
    assert verify(config.cache).ok
    assert CliRunner().invoke(app, command).exit_code == 0
    assert {name: content for name, content in records(config.cache).items() if name in sealed} == sealed
    assert same_bytes(copied(config.cache, tmp_path / "copy")) == prepared.undisturbed
    assert verify(config.cache).ok
